"""The gRPC server's arguments, its connections, and its end; on real ports."""

from __future__ import annotations

import ast
import asyncio
import functools
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc._cython.cygrpc
import grpc.aio
import pytest

from cloud.faces import grpc_server
from cloud.faces.grpc_server import GrpcServer
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from shared.process.ready import Ready
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.service import GatedModel, until

ROOT = Path(__file__).parents[3]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty settings
PING, GOAWAY = 6, 7


def known_to_grpc(name: str) -> bool:
    """Whether the installed core has a string of exactly this name."""
    return re.search(rb"(?<![a-z_.])" + re.escape(name.encode()) + rb"\0", core()) is not None


@functools.cache
def core() -> bytes:
    return Path(grpc._cython.cygrpc.__file__).read_bytes()


def arguments_in(source: str) -> set[str]:
    """Names of channel and server arguments: strings that begin with "grpc." and stand first in a pair."""
    return {
        node.elts[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Tuple) and len(node.elts) == 2
        if isinstance(node.elts[0], ast.Constant)
        if isinstance(node.elts[0].value, str) and node.elts[0].value.startswith("grpc.")
    }


def test_every_argument_is_one_that_the_library_knows() -> None:
    rooms = ("shared", "edge", "cloud", "bench", "train", "demo")
    used = {
        name
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if '"grpc.' in (source := path.read_text("utf-8"))
        for name in arguments_in(source)
    }
    assert len(used) > 10
    assert "grpc.http2.min_ping_interval_without_data_ms" in used
    assert {name for name in used if not known_to_grpc(name)} == set()


def test_a_misnamed_argument_is_found() -> None:
    assert not known_to_grpc("grpc.http2.min_recv_ping_interval_without_data_ms")
    assert arguments_in('options=[("grpc.nonsense", 1)]') == {"grpc.nonsense"}


Serve = Callable[..., AbstractAsyncContextManager[tuple[GrpcServer, Ready[Pipeline]]]]


@pytest.fixture
def serve(pipeline: Pipeline) -> Serve:
    @asynccontextmanager
    async def make(**changed: Any) -> AsyncIterator[tuple[GrpcServer, Ready[Pipeline]]]:
        ready: Ready[Pipeline] = Ready("the server")
        ready.fill(pipeline)
        server = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0, **changed))
        await server.start()
        try:
            yield server, ready
        finally:
            await server.end(0)

    return make


async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Type and payload of the next HTTP/2 frame."""
    head = await asyncio.wait_for(reader.readexactly(9), 20)
    return head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))


async def pinged(address: str, count: int) -> list[int]:
    """Sends pings on a connection without a call; the frames that answer them, settings left out."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(PREFACE)
    kinds: list[int] = []
    for i in range(count):
        writer.write(bytes((0, 0, 8, PING, 0, 0, 0, 0, 0)) + i.to_bytes(8, "big"))
        while True:
            kind, payload = await frame(reader)
            if kind == PING and payload == i.to_bytes(8, "big"):
                break
            if kind == GOAWAY:
                assert b"too_many_pings" in payload
                writer.close()
                return [*kinds, GOAWAY]
        kinds.append(PING)
    writer.close()
    return kinds


async def test_pings_that_are_allowed_end_no_connection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edge that asks each minute sends as many as it likes: the interval is the one that was set."""
    async with serve() as (server, _):
        assert (await pinged(server.address, 8))[-1] == GOAWAY  # more often than each 30 s
    monkeypatch.setattr(grpc_server, "PING_INTERVAL_MIN_MS", 0)
    async with serve() as (server, _):
        assert await pinged(server.address, 8) == [PING] * 8


@pytest.mark.parametrize("sent", [b"", PREFACE[:10]], ids=["nothing", "half a preface"])
async def test_a_connection_that_does_not_begin_is_closed(serve: Serve, sent: bytes) -> None:
    async with serve(head_ms=200) as (server, _):
        reader, writer = await asyncio.open_connection(*server.address.split(":"))
        writer.write(sent)
        async with asyncio.timeout(20):
            await reader.read()  # settings of the server at most, and the end
        writer.close()


async def test_connections_are_bounded(serve: Serve, pipeline: Pipeline) -> None:
    async with serve(connections_max=4) as (server, _):
        host, port = server.address.split(":")
        held = [await asyncio.open_connection(host, port) for _ in range(12)]
        ended = [asyncio.create_task(reader.read()) for reader, _ in held]
        await until(lambda: sum(task.done() for task in ended) == 8)
        for (_, writer), task in zip(held, ended, strict=True):
            task.cancel()
            writer.close()
        # Once they have gone there is room again.
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = AnalyzerStub(channel).Describe(pb.DescribeRequest(), timeout=20, wait_for_ready=True)
            assert (await call).bundles[0].name == pipeline.infos()[0].name


async def test_no_call_is_cancelled_by_the_end_of_a_server(
    serve: Serve, packed: list[bytes], model: GatedModel, pipeline: Pipeline
) -> None:
    """Clients that call without a pause while a server ends: what was accepted is answered, the rest UNAVAILABLE."""
    codes: Counter[str] = Counter()
    over = False

    async def client(number: int, address: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            stub, k = AnalyzerStub(channel), 0
            while not over:
                k += 1
                message = pb.AnalyzeRequest(request_id=f"c{number}.{k}", bitstream=packed[number % 8])
                codes[(await stub.Analyze(message, timeout=20).code()).name] += 1

    async with serve() as (server, ready):
        clients = [asyncio.create_task(client(i, server.address)) for i in range(16)]
        await until(lambda: codes["OK"] > 50)
        model.entered.clear()
        model.gate.clear()
        await asyncio.to_thread(model.entered.wait, 20)
        ready.empty()
        ending = asyncio.create_task(server.end(20))
        async with grpc.aio.insecure_channel(server.address) as channel:
            late = AnalyzerStub(channel).Analyze(pb.AnalyzeRequest(bitstream=packed[0]), timeout=20)
            assert (await late.code()).name == "UNAVAILABLE"
            assert not ending.done()
            model.gate.set()
            await ending
        over = True
        await asyncio.gather(*clients)
    assert set(codes) == {"OK", "UNAVAILABLE"}


async def test_an_idle_stream_does_not_hold_the_end_and_a_busy_one_is_answered(
    serve: Serve, packed: list[bytes], model: GatedModel
) -> None:
    async with serve() as (server, ready), grpc.aio.insecure_channel(server.address) as channel:
        stub = AnalyzerStub(channel)
        idle, busy = stub.AnalyzeStream(timeout=30), stub.AnalyzeStream(timeout=30)
        await idle.write(pb.AnalyzeRequest(request_id="first", bitstream=packed[0]))
        await idle.read()
        model.gate.clear()
        model.entered.clear()
        await busy.write(pb.AnalyzeRequest(request_id="second", bitstream=packed[1]))
        await asyncio.to_thread(model.entered.wait, 20)
        ready.empty()
        async with asyncio.timeout(20):
            ending = asyncio.create_task(server.end(60))
            assert await code_of(idle.read) == "UNAVAILABLE"
            assert not ending.done()
            model.gate.set()
            answer = await busy.read()
            assert isinstance(answer, pb.AnalyzeStreamResponse)
            assert answer.answer.request_id == "second"
            assert await code_of(busy.read) == "UNAVAILABLE"
            await ending


async def code_of(read: Callable[[], Awaitable[object]]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    return caught.value.code().name


async def test_the_end_of_a_server_frees_its_port(serve: Serve) -> None:
    async with serve() as (server, _):
        host, port = server.address.split(":")
        await server.end(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), 5)
