"""How a server process starts, reports where it listens, and ends. Knows neither edge nor cloud.

What the program that started it needs to know goes to stdout as JSON lines; logs go to stderr:

    {"event": "listening", "http": "127.0.0.1:8080", "grpc": "127.0.0.1:50051"}
    {"event": "ready"}
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from shared.errors import RequestError
from shared.process.config import HttpSettings
from shared.process.connections import Connection, Connections, report_accept_failures
from shared.process.sockets import connections_allowed
from shared.process.tls import ServerTls

BACKLOG = 256  # connections that wait in the kernel
CUT = "the server is ending"  # message of the cancellation of requests that took too long then
LAST_S = 1  # for what was refused last, and for connections to close


def announce(event: str, **fields: Any) -> None:
    """Prints one JSON line on stdout, at once."""
    print(json.dumps({"event": event, **fields}), flush=True)


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, instead of ending the process."""
    stop = asyncio.Event()
    hear_signals(stop)
    return stop


def hear_signals(stop: asyncio.Event) -> None:
    """Lets SIGTERM and SIGINT set the event, also where a library has taken them since."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def address_of(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises RequestError if the address cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # The error's own text for a taken port repeats the address, as a tuple.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise RequestError(f"cannot listen on {address_of(host, port)}: {reason}") from None
    # Connections inherit it. asyncio sets it only on sockets that it made itself; without it an answer in two writes
    # waits 40 ms for the other side's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class HttpServer:
    """uvicorn on a socket of our own, so that the port is known at once; without its signal handlers.

    drain_ms: how long requests that run at `stop` may take. Raises RequestError if the address cannot be bound.
    """

    def __init__(
        self, app: ASGIApp, host: str, settings: HttpSettings, drain_ms: int, tls: ServerTls | None = None
    ) -> None:
        self._socket = listen(host, settings.port)
        self.address = address_of(host, self._socket.getsockname()[1])
        self.connections = Connections(
            settings.connections_max or connections_allowed(),
            settings.head_ms / 1e3,
            settings.keep_alive_ms / 1e3,
        )
        self._server = _Server(
            tls.http_context() if tls else None,
            settings.head_ms / 1e3,
            uvicorn.Config(
                app,
                # uvicorn calls it like a class, once for each connection.
                http=cast(Any, functools.partial(Connection, self.connections)),
                log_config=None,
                # Its warnings are about single clients, one line for each broken request.
                log_level="error",
                backlog=BACKLOG,
                timeout_keep_alive=-(-settings.keep_alive_ms // 1000),
                timeout_graceful_shutdown=-(-drain_ms // 1000),
                server_header=False,
                h11_max_incomplete_event_size=16_384,
            ),
        )

    async def serve(self) -> None:
        """Serve until `stop`; requests that run then are finished."""
        report_accept_failures(asyncio.get_running_loop(), self.connections)
        await self._server.serve(sockets=[self._socket])

    async def finish(self, most_s: float) -> None:
        """Waits until the requests that run now have been answered, for `most_s` at most. New ones are still taken, so
        that they can be refused with a hint when to come again, where a closed port would say nothing.

        What still runs then is refused as what is new, by `RequestGuard`; it has `LAST_S` after `stop` to be sent.
        """
        try:
            async with asyncio.timeout(most_s):
                await self.connections.finish()
        except TimeoutError:
            for task in self._server.server_state.tasks:
                task.cancel(CUT)
        self._server.config.timeout_graceful_shutdown = LAST_S

    def stop(self) -> None:
        """Closes the port."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """tls: None for plain HTTP. handshake_s: a client's time for its part of TLS."""

    def __init__(self, tls: ssl.SSLContext | None, handshake_s: float, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._tls, self._handshake_s = tls, handshake_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The process has one handler for all of its servers; uvicorn would also end it with the signal's status.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._tls is None:
            await super().startup(sockets)
            return
        # uvicorn makes its own TLS context, once, and leaves a silent client 60 s.
        await super().startup([])
        loop = asyncio.get_running_loop()
        for one in sockets or ():
            server = await loop.create_server(
                self._connection,
                sock=one,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_s,
                backlog=BACKLOG,
            )
            self.servers.append(server)

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = cast(Any, self.config.http_protocol_class)(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made
