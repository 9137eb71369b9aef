"""How a server process starts, says where it listens, and ends. Knows neither edge nor cloud.

What a starting program needs to know goes to stdout as JSON lines, logs go to stderr:

    {"event": "listening", "http": "127.0.0.1:8080", "grpc": "127.0.0.1:50051"}
    {"event": "ready"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from shared.errors import RequestError


def announce(event: str, **fields: Any) -> None:
    """One JSON line on stdout, at once."""
    print(json.dumps({"event": event, **fields}), flush=True)


def log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, instead of ending the process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def at(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises RequestError where the address cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        # Its own text of a taken port repeats the address, as a tuple.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise RequestError(f"cannot listen on {at(host, port)}: {reason}") from None
    # Connections inherit it. asyncio sets it on sockets that it made itself alone; without it an answer in two writes
    # waits 40 ms for the other side's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class HttpServer:
    """uvicorn on a socket of our own, so that the port is known at once; without its signal handlers.

    port 0 takes a free one. Raises RequestError where the address cannot be bound.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, drain_ms: int) -> None:
        self._socket = listen(host, port)
        self.address = at(host, self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                timeout_graceful_shutdown=-(-drain_ms // 1000),
                server_header=False,
                h11_max_incomplete_event_size=16_384,
            )
        )

    async def serve(self) -> None:
        """Serve until `stop`; requests that run then are finished."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The process has one handler for all of its servers; uvicorn would also end it with the signal's status.
        yield
