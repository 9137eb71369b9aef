"""One token that takes all it can get: streams, sessions and bodies leave room for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest

from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from shared.process.auth import Gate
from shared.process.config import HttpSettings
from shared.process.tokens import TokenReader
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.locked import locked, metadata, token_for
from support.service import png

Stream = grpc.aio.StreamStreamCall


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


async def opened(stub: AnalyzerStub, token: str, data: bytes) -> Stream:
    """A stream that the server has begun to read."""
    call = stub.AnalyzeStream(metadata=metadata(token), timeout=60)
    await call.write(pb.AnalyzeRequest(request_id="one", bitstream=data))
    answer = await call.read()
    assert isinstance(answer, pb.AnalyzeStreamResponse)
    return call


async def refusal(stub: AnalyzerStub, token: str) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.AnalyzeStream(metadata=metadata(token), timeout=60).read()
    return caught.value


async def test_streams_are_shared_by_those_who_have_some(
    pipeline: Pipeline, file: Path, packed: list[bytes]
) -> None:
    greedy, modest = token_for(file, "greedy", "analyze"), token_for(file, "modest", "analyze")
    limits = GrpcSettings(port=0, rpcs_max=16, streams_max=4)
    async with (
        locked(pipeline, Gate(TokenReader(file)), grpc_settings=limits) as cloud,
        cloud.channel() as channel,
    ):
        stub = AnalyzerStub(channel)
        streams = [await opened(stub, greedy, packed[i]) for i in range(4)]  # alone it has them all
        error = await refusal(stub, greedy)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        hint = dict(error.trailing_metadata() or ())["grpc-retry-pushback-ms"]
        assert int(hint) > 0
        own = [await opened(stub, modest, packed[4 + i]) for i in range(2)]
        for taken in streams[2:]:  # the newest; a client that repeats opens them elsewhere, or later
            assert await taken.code() is grpc.StatusCode.UNAVAILABLE
        for token in (greedy, modest):
            assert (await refusal(stub, token)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for number, left in enumerate((*streams[:2], *own)):
            await left.write(pb.AnalyzeRequest(request_id="two", bitstream=packed[number]))
            assert isinstance(await left.read(), pb.AnalyzeStreamResponse)
            left.cancel()


async def test_bodies_are_shared_by_those_who_send_some(pipeline: Pipeline, file: Path) -> None:
    greedy, modest = token_for(file, "greedy", "analyze"), token_for(file, "modest", "analyze")
    picture = png(0)
    settings = HttpSettings(image_bytes_max=4 * len(picture), bodies_bytes_max=4 * len(picture))
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(4 * len(picture))
        arrived.set()
        await go_on.wait()

    app = build_app(lambda: pipeline, settings, gate=Gate(TokenReader(file)))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:

        async def post(token: str, body: object) -> int:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
            return (await http.post("/analyze", content=body, headers=headers)).status_code  # type: ignore[arg-type]

        running = asyncio.create_task(post(greedy, slow()))
        await arrived.wait()
        assert await post(greedy, picture) == 429
        assert await post(modest, picture) == 200
        go_on.set()
        assert await running == 415
        assert await post(greedy, picture) == 200
