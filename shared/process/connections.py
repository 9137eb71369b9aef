"""Bounds on HTTP connections: how many there are, and how long each may take over what a client sends or reads.

uvicorn closes a connection only once it has answered a request on it. Here each connection is always in one of these
states, and all but the second have an end:

    head    nothing sent yet, part of a request's head, or the rest of a body that nobody reads   head_s
    busy    a request runs; its own limits hold (body, deadline, requests at once)                -
    idle    between two requests                                                                  keep_alive_s
    stuck   the client does not read what it is sent                                              head_s

A connection beyond the limit replaces the oldest one that has not finished its head, otherwise the one that has been
idle longest. So a flood of silent connections pushes out its own, and a health check, which sends its head at once, is
answered at any time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from enum import Enum
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.process.tls import certificate_names

log = logging.getLogger("isthmus.http")

CERTIFICATE_NAMES = "client_certificate_names"  # of the extension "tls" in a request's scope
FREED_AT_ONCE = 16  # connections closed when the process has no descriptor left
WARN_EVERY_S = 60.0


class State(Enum):
    HEAD = "head"
    BUSY = "busy"
    IDLE = "idle"
    CLOSING = "closing"


class Seldom:
    """Logs a repeated warning once a minute, with how often it came since."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._logged_at: dict[str, float] = {}

    def warn(self, text: str) -> None:
        count = self._counts.get(text, 0) + 1
        now = time.monotonic()
        if now - self._logged_at.get(text, -WARN_EVERY_S) < WARN_EVERY_S:
            self._counts[text] = count
            return
        log.warning("%s (%s)", text, "once" if count == 1 else f"{count} times since the last report")
        self._counts[text], self._logged_at[text] = 0, now


class Connections:
    """The open connections of one server. connections_max: open at once. head_s, keep_alive_s: see the module."""

    def __init__(self, connections_max: int, head_s: float, keep_alive_s: float) -> None:
        self._connections_max = connections_max
        self.head_s, self.keep_alive_s = head_s, keep_alive_s
        self._open: dict[Connection, None] = {}  # oldest first
        self._awaited: set[Connection] = set()  # by `finish`
        self._finished = asyncio.Event()
        self._seldom = Seldom()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Connection) -> None:
        """Makes room for one more. Where every other one is busy, the new one is closed."""
        self._open[connection] = None
        if len(self._open) > self._connections_max:
            self._seldom.warn(
                f"more than {self._connections_max} HTTP connections; closed one without a request"
            )
            if not self._close_waiting(1, besides=connection):
                connection.abort()

    def leave(self, connection: Connection) -> None:
        self._open.pop(connection, None)
        self.answered(connection)

    def answered(self, connection: Connection) -> None:
        """No request runs on the connection."""
        self._awaited.discard(connection)
        if not self._awaited:
            self._finished.set()

    async def finish(self) -> None:
        """Waits until the requests that run now have been answered; later ones do not count."""
        self._awaited = {one for one in self._open if one.state is State.BUSY}
        self._finished.clear()
        if self._awaited:
            await self._finished.wait()

    def out_of_descriptors(self, error: OSError) -> None:
        """Frees some descriptors, so that the next connection can be accepted."""
        self._seldom.warn(f"cannot accept connections: {error.strerror}; waiting ones are closed")
        self._close_waiting(FREED_AT_ONCE)

    def _close_waiting(self, count: int, besides: Connection | None = None) -> int:
        """Closes connections on which no request runs, unfinished heads first; returns how many."""
        waiting = [one for one in self._open if one.state is State.HEAD and one is not besides]
        idle = [one for one in self._open if one.state is State.IDLE]
        chosen = [*waiting, *sorted(idle, key=lambda one: one.since)][:count]
        for connection in chosen:
            connection.abort()
        return len(chosen)


class Connection(H11Protocol):
    """One HTTP connection with an end for every state that it can be in."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._connections = connections
        self.state, self.since = State.HEAD, self.loop.time()
        self._end: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        names = certificate_names(transport.get_extra_info("ssl_object"))
        if names is not None:
            self.app = _with_certificate(self.app, names)
        self._enter(State.HEAD)
        self._connections.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self)
        for timer in (self._end, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self._connections.head_s, self.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def abort(self) -> None:
        """Closes at once; what is not sent yet is dropped, or a client that does not read would keep it open."""
        self._connections.leave(self)
        self.transport.abort()

    def _look(self) -> None:
        state = self._state_now()
        if state is not self.state:
            self._enter(state)

    def _state_now(self) -> State:
        if self.transport.is_closing():
            return State.CLOSING
        if self.cycle is not None and not self.cycle.response_complete:
            return State.BUSY
        between = self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE
        return State.IDLE if between and not self.conn.trailing_data[0] else State.HEAD

    def _enter(self, state: State) -> None:
        self.state, self.since = state, self.loop.time()
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if state is not State.BUSY:
            self._connections.answered(self)
            seconds = self._connections.keep_alive_s if state is State.IDLE else self._connections.head_s
            self._end = self.loop.call_later(seconds, self.abort)


def _with_certificate(app: Any, names: tuple[str, ...]) -> Any:
    """The application, which finds the names of the client's certificate in the scope of each request."""

    async def named(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {}).setdefault("tls", {})[CERTIFICATE_NAMES] = names
        await app(scope, receive, send)

    return named


def report_accept_failures(loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
    """Lets the event loop report a failed accept to `connections` instead of logging a traceback for each try."""
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _NO_RESOURCE and "accept" in context["message"]:
            connections.out_of_descriptors(error)
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


_NO_RESOURCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
