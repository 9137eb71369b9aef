"""Bytes that are no message, to every method of a real server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from cloud.faces.grpc_server import GrpcServer
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from shared.process.ready import Ready
from shared.wire import analyzer_pb2 as pb

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
