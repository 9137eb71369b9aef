"""The sessions of an edge's clients by the names that they give, a bounded number of them. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edge.session import CameraSession
from shared.errors import OverloadedError
from shared.types import Wanted


@dataclass(eq=False)
class _Open:
    """users: requests that are using it. dropped: it ends with the last of them."""

    session: CameraSession
    wanted: Wanted
    camera: str
    users: int = 0
    dropped: bool = False


class ClientSessions:
    """make: opens a session for what is wanted of a camera. Must be used in one event loop; close it."""

    def __init__(self, make: Callable[[Wanted, str], CameraSession], sessions_max: int) -> None:
        self._make, self._sessions_max = make, sessions_max
        self._open: OrderedDict[str, _Open] = OrderedDict()  # the last used at the end
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def use(self, name: str, wanted: Wanted, camera: str) -> AsyncIterator[CameraSession]:
        """The session of that name; a new one if it wants something else of the camera than before.

        Raises OverloadedError if all places are taken by sessions that are being used.
        """
        one = self._open.get(name)
        if one is None or (one.wanted, one.camera) != (wanted, camera):
            if one is not None:
                self._drop(name)
            self._make_room()
            one = self._open[name] = _Open(self._make(wanted, camera), wanted, camera)
        self._open.move_to_end(name)
        one.users += 1
        try:
            yield one.session
        finally:
            one.users -= 1
            self._close_if_done(one)

    def renew(self) -> None:
        """Each session ends with the requests that use it; the next request opens another."""
        for name in list(self._open):
            self._drop(name)

    async def close(self) -> None:
        for name in list(self._open):
            one = self._open.pop(name)
            await one.session.close()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _make_room(self) -> None:
        """Raises OverloadedError."""
        if len(self._open) < self._sessions_max:
            return
        idle = next((name for name, one in self._open.items() if not one.users), None)
        if idle is None:
            raise OverloadedError(f"{self._sessions_max} sessions are in use already; try again later")
        self._drop(idle)

    def _drop(self, name: str) -> None:
        one = self._open.pop(name)
        one.dropped = True
        self._close_if_done(one)

    def _close_if_done(self, one: _Open) -> None:
        if one.dropped and not one.users:
            task = asyncio.create_task(one.session.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
