"""Places for gRPC's connections: shared by tokens while calls run on them, and given up by those without a call.

gRPC counts connections and refuses what is too much, whoever has them. Here no token has calls on more than its part of
three quarters of them; and once as many are open, those go on which no call has run for a while. A client
that has such a connection opens another with its next call, and does not notice.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from shared.errors import OverloadedError
from shared.process.rates import Portions
from shared.process.sockets import Endpoint, close_some, descriptors, peers_of, plain_address

QUIET_S = 10.0  # that a connection may be without a call while there is little room
SWEEP_S = 2.0  # between two looks

log = logging.getLogger("isthmus.cloud.grpc")


class GrpcConnections:
    """connections_max: of the port. now: in seconds, from anywhere."""

    def __init__(self, connections_max: int, now: Callable[[], float] = time.monotonic) -> None:
        self.busy_max = max(1, connections_max * 3 // 4)
        self._portions, self._now = Portions(self.busy_max), now
        self._calls: Counter[tuple[str, str]] = Counter()  # by who makes them, and the connection
        self._quiet: dict[Endpoint, float] = {}  # since when

    @contextmanager
    def used(self, name: str, weight: float, peer: str) -> Iterator[None]:
        """A call that runs. peer: as gRPC names the connection's other end.

        Raises OverloadedError where the caller has calls on too many others.
        """
        key = name, peer
        if not self._calls[key]:
            if not self._portions.has_room(name, weight):
                part = self._portions.part(name, weight)
                raise OverloadedError(f"calls run on {part} of your connections already; use one of these")
            self._portions.take(name, weight)
        self._calls[key] += 1
        try:
            yield
        finally:
            self._calls[key] -= 1
            if not self._calls[key]:
                del self._calls[key]
                self._portions.give_back(name)

    def sweep(self, port: int) -> int:
        """Closes connections of the port that have had no call for long, where there is little room. Returns how many.

        Those that were noticed first go first, until there is room.
        """
        if descriptors() < self.busy_max:
            self._quiet.clear()
            return 0
        peers, now = peers_of(port), self._now()
        busy = {endpoint_of(peer) for _, peer in self._calls}
        self._quiet = {peer: self._quiet.get(peer, now) for peer in peers if peer not in busy}
        excess = len(peers) - self.busy_max
        old = [peer for peer, since in sorted(self._quiet.items(), key=_second) if now - since >= QUIET_S]
        if excess < 0 or not old:
            return 0
        chosen = set(old[: excess + 1])
        log.warning("%d gRPC connections are open; closing %d without a call", len(peers), len(chosen))
        close_some(port, chosen)
        return len(chosen)


def _second(pair: tuple[Endpoint, float]) -> float:
    return pair[1]


def endpoint_of(peer: str) -> Endpoint | None:
    """ "ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000" -> address and port; None for anything else."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    try:
        return plain_address(host.strip("[]")), int(port)
    except ValueError:
        return None
