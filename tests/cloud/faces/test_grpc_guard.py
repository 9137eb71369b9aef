"""Bytes that are no message, to every method of a real server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import grpc
import grpc.aio
import pytest

from cloud.faces.grpc_guard import StreamLimit
from cloud.faces.grpc_server import GrpcServer
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from shared.process.ready import Ready
from shared.wire import analyzer_pb2 as pb
from support.service import until

NO_MESSAGE = b"\xff\xff\xff"
UNARY = (
    "isthmus.v1.Analyzer/Analyze",
    "isthmus.v1.Analyzer/Describe",
    "isthmus.v1.Analyzer/Refine",
    "grpc.health.v1.Health/Check",
)
STREAMS = (
    "isthmus.v1.Analyzer/AnalyzeStream",
    "isthmus.v1.Analyzer/AnalyzeSession",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


@pytest.fixture
async def channel(pipeline: Pipeline) -> AsyncIterator[grpc.aio.Channel]:
    ready: Ready[Pipeline] = Ready("the server")
    ready.fill(pipeline)
    server = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as made:
        yield made
    await server.end(0)


async def refused(call: object, method: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"the bytes sent are not a message that /{method} takes"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("method", UNARY)
async def test_unary(channel: grpc.aio.Channel, method: str, caplog: pytest.LogCaptureFixture) -> None:
    await refused(channel.unary_unary(f"/{method}")(NO_MESSAGE, timeout=20), method, caplog)


async def test_a_request_with_many_answers(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    method = "grpc.health.v1.Health/Watch"
    await refused(channel.unary_stream(f"/{method}")(NO_MESSAGE, timeout=20).read(), method, caplog)


@pytest.mark.parametrize("method", STREAMS)
async def test_streams(channel: grpc.aio.Channel, method: str, caplog: pytest.LogCaptureFixture) -> None:
    call = channel.stream_stream(f"/{method}")(timeout=20)
    await call.write(NO_MESSAGE)
    await refused(call.read(), method, caplog)


async def test_what_came_before_on_the_stream_is_answered(
    channel: grpc.aio.Channel, packed: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    method = STREAMS[0]
    call = channel.stream_stream(f"/{method}")(timeout=20)
    for i in range(3):
        message = pb.AnalyzeRequest(request_id=f"r{i}", bitstream=packed[i])
        await call.write(message.SerializeToString())
    await call.write(NO_MESSAGE)
    answers = [pb.AnalyzeStreamResponse.FromString(await call.read()) for _ in range(3)]
    assert {answer.answer.request_id for answer in answers} == {"r0", "r1", "r2"}
    await refused(call.read(), method, caplog)


async def test_a_stream_whose_place_is_taken_while_its_client_reads_slowly_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two places: the first caller has both, until a second one comes and takes its newer."""
    callers = iter((("first", 1.0), ("first", 1.0), ("second", 1.0)))
    monkeypatch.setattr("cloud.faces.grpc_guard._who", lambda: next(callers))
    writing = []

    async def large(name: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        for _ in range(100):
            writing.append(name)
            yield bytes(1 << 20)  # more than a window: it is on its way until the client reads

    method = grpc.unary_stream_rpc_method_handler(large)
    server = grpc.aio.server(interceptors=[StreamLimit(2)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        opened = []
        for name in (b"1", b"2", b"3"):
            own = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own)
            )
            opened.append(channel.unary_stream("/s/m")(name))
            await until(lambda name=name: name in writing)  # type: ignore[misc]
        assert await ended(opened[1]) is grpc.StatusCode.UNAVAILABLE
        assert "another caller" in str(await opened[1].details())
        assert len(await opened[0].read()) == len(await opened[2].read()) == 1 << 20
    await server.stop(0)


async def ended(call: grpc.aio.UnaryStreamCall) -> grpc.StatusCode:
    """The status of a call whose answers are read to their end."""
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code()
