"""A slow link inside this machine: rate, delay and loss between an edge and a cloud. Knows no request and no codec.

    namespaces   two network namespaces, a TUN device in each; whole IP packets cross from one to the other (needs root)
    proxy        a TCP proxy for each address: bytes are paced and delayed; nothing can be lost, and a connection is
                 made at once, for which the first bytes wait one round trip

Each is a process of its own, run with `python -m bench.link`, which takes JSON lines on stdin. Both directions have the
link's rate, delay and loss. A third role, `echo`, answers the bytes with which a link is itself measured.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from shared.errors import IsthmusError
from shared.process.child_process import ROOT, Server, server
from shared.process.process import address_of, announce, listen
from shared.types import Frozen

QUEUE_BYTES = 128 << 10  # waiting for the link; more are dropped, as a router would
CHUNK = 1400  # bytes that the proxy paces at once, about a packet
# How far ahead of the link the proxy reads: a sleep may be late by a millisecond, as long as a chunk may take.
AHEAD_S = 0.02
MTU = 1500
PINGS = 11
TUN = Path("/dev/net/tun")
# Reserved for documentation (RFC 5737), and visible only inside the namespaces.
EDGE_ADDRESS, CLOUD_ADDRESS = "192.0.2.1", "192.0.2.2"

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class Shape(Frozen):
    """A link, equal in both directions. delay_ms: one way. loss: share of the packets."""

    mbit: float
    delay_ms: float
    loss: float = 0.0

    def __str__(self) -> str:
        lost = f", {self.loss:.0%} loss" if self.loss else ""
        return f"{self.mbit:g} Mbit/s, {self.delay_ms:g} ms{lost}"


class Reached(Frozen):
    """What a link was measured to be.

    mbit: TCP payload from the edge to the cloud. None: undetermined, as noise made a transfer no longer than a round
    trip.
    """

    mbit: float | None
    round_trip_ms: float


class Direction:
    """One direction of a link: a queue of QUEUE_BYTES that empties at the rate, then the delay."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self._shape, self._random, self._free_at = shape, random.Random(seed), 0.0
        self.packets = self.lost = 0

    def arrival(self, size: int, now: float) -> float | None:
        """When `size` bytes sent at `now` arrive, in s; None if they are lost."""
        bytes_s = self._shape.mbit * 1e6 / 8
        self.packets += 1
        begins = max(now, self._free_at)
        if self._random.random() < self._shape.loss or (begins - now) * bytes_s > QUEUE_BYTES:
            self.lost += 1
            return None
        self._free_at = begins + size / bytes_s
        return self._free_at + self._shape.delay_ms / 1e3


class _Directions:
    """Both directions of the running link; the first is from the edge."""

    def __init__(self) -> None:
        self.shape(Shape(mbit=1000, delay_ms=0))

    def shape(self, shape: Shape, seed: int = 0) -> None:
        self.now, self.directions = shape, (Direction(shape, 2 * seed), Direction(shape, 2 * seed + 1))


def _tun(name: str, namespace: str, own: str, peer: str) -> int:
    """Makes a TUN device in a namespace; returns the file of its packets."""
    file = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22s", name.encode(), _IFF_TUN | _IFF_NO_PI, b""))
    _ip("link", "set", name, "netns", namespace)
    _ip("-n", namespace, "addr", "add", own, "peer", peer, "dev", name)
    _ip("-n", namespace, "link", "set", name, "up", "mtu", str(MTU))
    return file


def _ip(*arguments: str) -> None:
    """Raises IsthmusError."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise IsthmusError(f"ip {' '.join(arguments)}: {done.stderr.strip() or 'failed'}")


async def _run_tun(edge: str, cloud: str) -> None:
    loop, both = asyncio.get_running_loop(), _Directions()
    files = (
        _tun("isthmus0", edge, EDGE_ADDRESS, CLOUD_ADDRESS),
        _tun("isthmus1", cloud, CLOUD_ADDRESS, EDGE_ADDRESS),
    )

    def deliver(file: int, packet: bytes) -> None:
        with suppress(OSError):  # a namespace that is being taken down
            os.write(file, packet)

    def carry(which: int) -> None:
        with suppress(BlockingIOError):
            while packet := os.read(files[which], 1 << 16):
                arrival = both.directions[which].arrival(len(packet), loop.time())
                if arrival is not None:
                    loop.call_at(arrival, deliver, files[1 - which], packet)

    for which in (0, 1):
        loop.add_reader(files[which], carry, which)
    await _obey(both, None)


async def _run_proxy() -> None:
    both = _Directions()

    async def reach(address: str) -> str:
        host, _, port = address.rpartition(":")

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(2 * both.now.delay_ms / 1e3)  # the handshake's round trip
            there, back = await asyncio.open_connection(host, int(port))
            await asyncio.gather(_pump(both, 0, reader, back), _pump(both, 1, there, writer))

        listening = await asyncio.start_server(connect, "127.0.0.1", 0)
        return address_of(*listening.sockets[0].getsockname()[:2])

    await _obey(both, reach)


async def _pump(
    both: _Directions, which: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carries one direction of a connection to its end, reading no faster than the link takes the bytes."""
    loop = asyncio.get_running_loop()
    arrival = loop.time()
    with suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            arrives = both.directions[which].arrival(len(data), loop.time())
            assert arrives is not None, "a proxy loses nothing"
            arrival = arrives
            loop.call_at(arrival, writer.write, data)
            await asyncio.sleep(arrival - both.now.delay_ms / 1e3 - AHEAD_S - loop.time())
    loop.call_at(max(arrival, loop.time()) + 1e-4, writer.close)


async def _obey(both: _Directions, reach: Callable[[str], Any] | None) -> None:
    """Follows the lines on stdin to their end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    announce("listening")
    while line := await reader.readline():
        message = json.loads(line)
        if "reach" in message:
            assert reach is not None
            announce("reached", address=await reach(message["reach"]))
        else:
            directions = both.directions
            both.shape(Shape.model_validate(message["shape"]), message["seed"])
            announce(
                "shaped",
                packets=sum(one.packets for one in directions),
                lost=sum(one.lost for one in directions),
            )


class Link:
    """A running link.

    edge, cloud: what a command on that side starts with. host: where the cloud's side listens. lossy: whether it can
    lose packets. kind: its name in reports.
    """

    def __init__(
        self, process: Server, kind: str, edge: tuple[str, ...], cloud: tuple[str, ...], host: str
    ) -> None:
        self._process, self.kind, self.edge, self.cloud, self.host = process, kind, edge, cloud, host
        self.lossy = bool(edge)

    def shape(self, shape: Shape, seed: int = 0) -> tuple[int, int]:
        """Becomes another link from now on. Returns the packets that the previous one was given, and lost."""
        event = self._process.send({"shape": shape.model_dump(), "seed": seed}, "shaped")
        return event["packets"], event["lost"]

    def reach(self, address: str) -> str:
        """The address at which the edge's side reaches one of the cloud's side."""
        if self.lossy:
            return address
        reached: str = self._process.send({"reach": address}, "reached")["address"]
        return reached


@contextmanager
def open_link(proxy: bool = False) -> Iterator[Link]:
    """A link of namespaces if this process may make them, otherwise of proxies."""
    with ExitStack() as stack:
        if proxy or not namespaces_work():
            process = stack.enter_context(server("link", module("bench.link", "proxy"), ROOT))
            process.wait_for("listening")
            yield Link(process, "TCP proxy, rate and delay only", (), (), "127.0.0.1")
            return
        names = [
            stack.enter_context(_namespace(f"isthmus-{os.getpid()}-{side}")) for side in ("edge", "cloud")
        ]
        process = stack.enter_context(server("link", module("bench.link", "tun", *names), ROOT))
        process.wait_for("listening")
        edge, cloud = (("ip", "netns", "exec", name) for name in names)
        yield Link(process, "network namespaces joined in user space", edge, cloud, CLOUD_ADDRESS)


def namespaces_work() -> bool:
    """Whether this process may make network namespaces and TUN devices."""
    if os.geteuid() or not os.access(TUN, os.R_OK | os.W_OK) or shutil.which("ip") is None:
        return False
    try:
        with _namespace(f"isthmus-{os.getpid()}-try"):
            return True
    except IsthmusError:
        return False


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    """Raises IsthmusError."""
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _ip("netns", "del", name)


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules, in the folder of the code."""
    return [sys.executable, "-m", name, *arguments]


def measure(address: str, shape: Shape) -> Reached:
    """Measures a link to an echo: the rate over about a second, and the median of PINGS round trips."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def taken_s(size: int) -> float:
            began = time.perf_counter()
            connection.sendall(struct.pack(">I", size) + bytes(size))
            connection.recv(1)
            return time.perf_counter() - began

        trips = [taken_s(0) for _ in range(PINGS)]
        size = min(int(shape.mbit * 1e6 / 8), QUEUE_BYTES // 2)
        taken_s(size)  # opens the congestion window
        trip = statistics.median(trips)
        transfer_s = taken_s(size) - trip
        mbit = 8e-6 * size / transfer_s if transfer_s > 0 else None
        return Reached(mbit=mbit, round_trip_ms=1e3 * trip)


async def _echo(host: str) -> None:
    """Answers one byte for each length with as many bytes after it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = struct.unpack(">I", await reader.readexactly(4))
                await reader.readexactly(size)
                writer.write(b"\0")
        writer.close()

    listening = listen(host, 0)
    await asyncio.start_server(serve, sock=listening)
    announce("listening", address=address_of(host, listening.getsockname()[1]))
    await asyncio.Event().wait()


def main(what: str, *arguments: str) -> None:
    roles = {"tun": _run_tun, "proxy": _run_proxy, "echo": _echo}
    asyncio.run(roles[what](*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
