"""Streams that are open: a token that is revoked meanwhile, one that is slower than its client, cameras of frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from shared.bundle import Bundle
from shared.process.auth import Gate
from shared.process.tokens import TokenGrant, TokenReader, add_token, revoke_token
from shared.session_packets import SessionOpen
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from shared.wire.sessions import open_message
from support.locked import Locked, locked, metadata, token_for


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
async def cloud(pipeline: Pipeline, file: Path) -> AsyncIterator[Locked]:
    add_token(file, TokenGrant("another"))
    async with locked(pipeline, Gate(TokenReader(file))) as made:
        yield made


def request(number: int, packed: list[bytes], camera: str = "") -> pb.AnalyzeRequest:
    return pb.AnalyzeRequest(request_id=f"r{number}", bitstream=packed[number], camera=camera)


async def ended(call: grpc.aio.StreamStreamCall) -> grpc.aio.AioRpcError:
    """The error that a stream ends with."""
    try:
        async with asyncio.timeout(30):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"the stream ended in good order: {await call.code()}")


async def test_a_stream_ends_with_the_message_after_its_token_was_revoked(
    cloud: Locked, file: Path, packed: list[bytes]
) -> None:
    token = token_for(file, "gone", "analyze")
    async with cloud.channel() as channel:
        call = AnalyzerStub(channel).AnalyzeStream(metadata=metadata(token))
        await call.write(request(0, packed))
        assert (await call.read()).answer.request_id == "r0"
        revoke_token(file, "gone")
        await call.write(request(1, packed))
        error = await ended(call)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert token not in str(error)


async def test_a_session_ends_with_the_message_after_its_token_was_revoked(
    cloud: Locked, file: Path, bundle: Bundle
) -> None:
    token = token_for(file, "gone", "analyze")
    async with cloud.channel() as channel:
        call = AnalyzerStub(channel).AnalyzeSession(metadata=metadata(token))
        whole = bytes.fromhex(bundle.manifest.fingerprint)
        grid = (bundle.manifest.codec["grid"][0], bundle.manifest.codec["grid"][1])
        await call.write(
            open_message(SessionOpen(fingerprint=whole, session=bytes(16), camera="gate", grid=grid))
        )
        first = await call.read()
        assert first is not grpc.aio.EOF
        revoke_token(file, "gone")
        await call.write(pb.SessionRequest(declined=pb.RefineDeclined()))
        assert (await ended(call)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_beyond_its_rate_is_read_later(
    pipeline: Pipeline, file: Path, packed: list[bytes]
) -> None:
    token = add_token(file, TokenGrant("slow", ("analyze",), requests_per_s=20.0))
    loop = asyncio.get_running_loop()
    async with locked(pipeline, Gate(TokenReader(file))) as cloud, cloud.channel() as channel:
        stub = AnalyzerStub(channel)
        call = stub.AnalyzeStream(metadata=metadata(token))
        began = loop.time()
        for number in range(28):
            one = request(number % 8, packed)
            one.request_id = f"r{number}"
            await call.write(one)
        await call.done_writing()
        answers = [answer.request_id async for answer in call]
        assert sorted(answers) == sorted(f"r{number}" for number in range(28))  # each is answered
        assert loop.time() - began >= 7 / 20.0  # 20 at once, then 20 a second
        # A call by itself is refused, with the code that clients wait after.
        refused = 0
        for number in range(28):
            try:
                await stub.Analyze(request(number % 8, packed), metadata=metadata(token))
            except grpc.aio.AioRpcError as error:
                refused += error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                break
        assert refused


async def test_a_stream_that_comes_to_another_camera_ends(
    cloud: Locked, file: Path, packed: list[bytes]
) -> None:
    token = token_for(file, "gates", "analyze", cameras=("gate-*",))
    async with cloud.channel() as channel:
        call = AnalyzerStub(channel).AnalyzeStream(metadata=metadata(token))
        await call.write(request(0, packed, "gate-1"))
        assert (await call.read()).answer.request_id == "r0"
        await call.write(request(1, packed, "yard"))
        error = await ended(call)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "'yard'" in (error.details() or "")


async def test_tokens_that_cannot_be_read_end_a_stream_in_good_order(
    cloud: Locked, file: Path, packed: list[bytes]
) -> None:
    token = token_for(file, "any", "analyze")
    async with cloud.channel() as channel:
        call = AnalyzerStub(channel).AnalyzeStream(metadata=metadata(token))
        await call.write(request(0, packed))
        assert (await call.read()).answer.request_id == "r0"
        file.write_text("{")
        await call.write(request(1, packed))
        assert (await ended(call)).code() is grpc.StatusCode.UNAVAILABLE  # an edge sends it again


async def test_strangers_are_refused_before_their_message_and_silence_ends(
    pipeline: Pipeline, file: Path
) -> None:
    token = token_for(file, "known", "analyze")
    limits = GrpcSettings(port=0, head_ms=1500)
    async with (
        locked(pipeline, Gate(TokenReader(file)), grpc_settings=limits) as cloud,
        cloud.channel() as channel,
    ):
        for path, header, code in (
            ("/isthmus.v1.Analyzer/Analyze", None, grpc.StatusCode.UNAUTHENTICATED),
            ("/isthmus.v1.Analyzer/AnalyzeSession", None, grpc.StatusCode.UNAUTHENTICATED),
            ("/isthmus.v1.Analyzer/Analyze", token, grpc.StatusCode.DEADLINE_EXCEEDED),
            ("/grpc.health.v1.Health/Check", None, grpc.StatusCode.DEADLINE_EXCEEDED),
        ):
            call = channel.stream_stream(path, bytes, bytes)(metadata=metadata(header))
            assert (await ended(call)).code() is code, path  # nothing was sent
        call = channel.stream_stream("/isthmus.v1.Analyzer/Describe", bytes, bytes)(metadata=metadata(token))
        await call.done_writing()
        assert (await ended(call)).code() is grpc.StatusCode.INVALID_ARGUMENT
