"""HTTP connections that have no end of their own: each is closed, their number is bounded, and health answers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect

from shared.process.config import HttpSettings
from shared.process.http import add_health, create_app, read_body, while_connected
from shared.process.process import HttpServer
from support.processes import ROOT
from support.service import until

HALF_A_HEAD = b"POST /analyze HTTP/1.1\r\nHost: x\r\n"
LARGE = 8 << 20


class App:
    """An app with a call that takes long, and one whose answer is large."""

    def __init__(self) -> None:
        self.app: FastAPI = create_app("test", "test", 4, 1 << 20)
        self.started, self.cancelled, self.go_on = 0, 0, asyncio.Event()
        add_health(self.app, lambda: None)
        self.app.post("/slow")(self.slow)
        self.app.get("/large")(self.large)

    async def slow(self, request: Request) -> str:
        await read_body(request, 1 << 20)
        return await while_connected(request, self.work())

    async def work(self) -> str:
        self.started += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "done"

    async def large(self) -> str:
        return "x" * LARGE


Serve = Callable[..., AbstractAsyncContextManager[tuple[HttpServer, App]]]


@pytest.fixture
def serve() -> Serve:
    @asynccontextmanager
    async def make(
        connections_max: int = 64, head_s: float = 20.0, keep_alive_s: float = 20.0
    ) -> AsyncIterator[tuple[HttpServer, App]]:
        app = App()
        settings = HttpSettings(
            port=0,
            connections_max=connections_max,
            head_ms=round(head_s * 1e3),
            keep_alive_ms=round(keep_alive_s * 1e3),
        )
        server = HttpServer(app.app, "127.0.0.1", settings, 1000)
        task = asyncio.create_task(server.serve())
        try:
            yield server, app
        finally:
            app.go_on.set()
            server.stop()
            await task

    return make


async def connect(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What came until the server closed the connection."""
    came = b""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):  # which takes nothing back that came before
            while part := await reader.read(65_536):
                came += part
    return came


async def healthy(server: HttpServer) -> bool:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"http://{server.address}/healthz", timeout=20)).status_code == 200


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD], ids=["nothing", "half a head"])
async def test_a_head_that_does_not_end_is_closed(serve: Serve, sent: bytes) -> None:
    async with serve(head_s=0.1) as (server, _):
        reader, writer = await connect(server)
        writer.write(sent)
        assert await closed(reader) == b""
        writer.close()


async def test_bytes_that_trickle_in_do_not_extend_the_time_of_a_head(serve: Serve) -> None:
    async with serve(head_s=0.3) as (server, _):
        reader, writer = await connect(server)
        writer.write(HALF_A_HEAD)
        ended = asyncio.create_task(closed(reader))
        while not ended.done():
            writer.write(b"X: y\r\n")
            await asyncio.wait({ended}, timeout=0.02)
        assert ended.result() == b""
        writer.close()


async def test_an_idle_connection_is_closed_and_its_next_head_has_its_own_time(serve: Serve) -> None:
    async with serve(head_s=0.2, keep_alive_s=20) as (server, _):
        reader, writer = await connect(server)
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"alive" in await reader.readuntil(b"}")
        writer.write(HALF_A_HEAD)
        assert await closed(reader) == b""
        writer.close()
    async with serve(keep_alive_s=0.1) as (server, _):
        reader, writer = await connect(server)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"alive" in await closed(reader)
        writer.close()


async def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for(serve: Serve) -> None:
    async with serve(head_s=0.2) as (server, _):
        reader, writer = await connect(server)
        writer.write(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        ended = asyncio.create_task(closed(reader))
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait({ended}, timeout=0.02)
        assert b"404" in ended.result()
        writer.close()


async def test_a_client_that_does_not_read_is_closed(serve: Serve) -> None:
    async with serve(head_s=0.2) as (server, _):
        reader, writer = await connect(server)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(server.connections) == 1)
        await until(lambda: len(server.connections) == 0)
        writer.close()
        del reader


async def test_a_flood_of_silent_connections_pushes_out_its_own(serve: Serve) -> None:
    async with serve(connections_max=8) as (server, app):
        slow = asyncio.create_task(post(server))
        await until(lambda: app.started == 1)
        idle_reader, idle = await connect(server)
        idle.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await idle_reader.readuntil(b"}")
        held = []
        for _ in range(40):
            held.append(await connect(server))
            held[-1][1].write(HALF_A_HEAD)
            assert len(server.connections) <= 8
        assert await healthy(server)
        # What works and what had been answered before is still there.
        idle.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"alive" in await idle_reader.readuntil(b"}")
        app.go_on.set()
        assert await slow == 200
        for _, writer in [*held, (idle_reader, idle)]:
            writer.close()


async def post(server: HttpServer) -> int:
    async with httpx.AsyncClient() as http:
        return (await http.post(f"http://{server.address}/slow", content=b"body", timeout=20)).status_code


async def test_work_for_a_client_that_left_is_cancelled(serve: Serve) -> None:
    async with serve() as (server, app):
        _, writer = await connect(server)
        writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        await until(lambda: app.started == 1)
        writer.close()
        await until(lambda: app.cancelled == 1)


async def test_work_does_not_begin_for_a_body_that_is_given_up(serve: Serve) -> None:
    async with serve() as (server, app):
        _, writer = await connect(server)
        writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbody")
        await until(lambda: len(server.connections) == 1)
        writer.close()
        await until(lambda: len(server.connections) == 0)
        assert app.started == 0


async def test_work_that_fails_or_ends_is_passed_on() -> None:
    class Connected:
        async def receive(self) -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

    class Gone:
        async def receive(self) -> dict[str, Any]:
            return {"type": "http.disconnect"}

    async def fails() -> None:
        raise KeyError("x")

    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(KeyError):
        await while_connected(Connected(), fails())  # type: ignore[arg-type]
    with pytest.raises(ClientDisconnect):
        await while_connected(Gone(), never())  # type: ignore[arg-type]


DESCRIPTORS = """
import asyncio, os, resource, socket, sys, urllib.request
from fastapi import FastAPI
from shared.process.config import HttpSettings
from shared.process.http import add_health, create_app
from shared.process.config import LogSettings
from shared.process.logs import start_logging
from shared.process.process import HttpServer

async def main():
    start_logging(LogSettings())
    app = create_app("test", "test", 4, 1 << 20)
    add_health(app, lambda: None)
    server = HttpServer(app, "127.0.0.1", HttpSettings(port=0, connections_max=1000, head_ms=60_000), 1000)
    task = asyncio.create_task(server.serve())
    print(server.address, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.stop()
    await task

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
asyncio.run(main())
"""


def test_a_server_without_descriptors_answers_and_logs_one_line() -> None:
    """More connections than descriptors, and a bound that does not help: what waits makes room."""
    import socket

    with subprocess.Popen(
        [sys.executable, "-c", DESCRIPTORS],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        host, port = process.stdout.readline().strip().split(":")
        held = [socket.create_connection((host, int(port)), 20) for _ in range(150)]
        for one in held:
            one.sendall(HALF_A_HEAD)
        for _ in range(2):
            assert httpx.get(f"http://{host}:{port}/healthz", timeout=20).status_code == 200
        for one in held:
            one.close()
        _, log = process.communicate("", timeout=30)
    assert process.returncode == 0
    assert len(re.findall("cannot accept connections: Too many open files", log)) == 1
    assert "Traceback" not in log
    assert len(log.splitlines()) < 5
