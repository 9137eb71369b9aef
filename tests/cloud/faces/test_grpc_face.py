"""The gRPC face on a real port: statuses, streams, deadlines, limits, what stands in the messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from cloud.faces.grpc_guard import StreamLimit
from cloud.faces.grpc_server import GrpcServer
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from edge.client import GrpcTransport
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.codec.bitstream import MAX_STREAM_BYTES, Bitstream
from shared.errors import NotReadyError
from shared.process.ready import Ready
from shared.types import Analysis
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.service import GatedModel, until

Code = grpc.StatusCode
BOTH_ENGINES = (pytest.mark.timeout(600),)  # the first of them starts Ray


def filled(pipeline: Pipeline) -> Ready[Pipeline]:
    ready: Ready[Pipeline] = Ready("the server")
    ready.fill(pipeline)
    return ready


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def request(data: bytes, request_id: str = "", **fields: Any) -> pb.AnalyzeRequest:
    return pb.AnalyzeRequest(bitstream=data, request_id=request_id, **fields)


async def test_analyze(stub: AnalyzerStub, packed: list[bytes], pipeline: Pipeline) -> None:
    answer = await stub.Analyze(request(packed[0], "one", top_k=2))
    analysis = convert.analysis_of(answer)
    assert analysis == await pipeline.analyze(packed[0], convert.wanted_of(request(b"", top_k=2)), "one")
    assert [best.label for best in analysis.results["classification"].top] == ["red", "green"]


async def test_no_request_id_gets_one(stub: AnalyzerStub, packed: list[bytes], model: GatedModel) -> None:
    first, second = [await stub.Analyze(request(packed[0])) for _ in range(2)]
    assert first.request_id
    assert first.request_id != second.request_id
    assert len(model.batches) == 2


async def test_a_repeat_is_computed_once(stub: AnalyzerStub, packed: list[bytes], model: GatedModel) -> None:
    first = await stub.Analyze(request(packed[0], "same"))
    assert await stub.Analyze(request(packed[0], "same")) == first
    assert len(model.batches) == 1
    error = await refused(stub.Analyze(request(packed[1], "same")))
    assert (error.code(), "same" in str(error.details())) == (Code.INVALID_ARGUMENT, True)
    # What is asked belongs to the request as much as the bytes.
    error = await refused(stub.Analyze(request(packed[0], "same", top_k=1)))
    assert error.code() == Code.INVALID_ARGUMENT


async def test_top_k_of_a_query_and_of_the_request(stub: AnalyzerStub, packed: list[bytes]) -> None:
    def length(answer: pb.AnalyzeResponse) -> int:
        return len(answer.results[0].classification.top)

    task = "classification"
    assert length(await stub.Analyze(request(packed[0], tasks=[pb.TaskQuery(name=task, top_k=1)]))) == 1
    assert length(await stub.Analyze(request(packed[0], tasks=[pb.TaskQuery(name=task)], top_k=2))) == 2
    assert length(await stub.Analyze(request(packed[0]))) == 3


@pytest.mark.parametrize(
    ("spoil", "code", "text"),
    [
        (lambda d: request(b""), Code.INVALID_ARGUMENT, "empty"),
        (lambda d: request(b"hello"), Code.INVALID_ARGUMENT, "not an Isthmus bitstream"),
        (lambda d: request(d[:-3]), Code.INVALID_ARGUMENT, "cut short"),
        (lambda d: request(d + b"x"), Code.INVALID_ARGUMENT, "damaged or cut short"),
        (lambda d: request(d, "a b"), Code.INVALID_ARGUMENT, "request id"),
        (lambda d: request(d, top_k=101), Code.INVALID_ARGUMENT, "top_k"),
        (lambda d: request(d, tasks=[pb.TaskQuery(name="nope")]), Code.NOT_FOUND, "classification"),
        (lambda d: request(d, tasks=[pb.TaskQuery(name="")]), Code.INVALID_ARGUMENT, "name"),
        (lambda d: request(d, tasks=[pb.TaskQuery(name="n")] * 65), Code.INVALID_ARGUMENT, "tasks"),
    ],
)
async def test_bad_requests(
    stub: AnalyzerStub, packed: list[bytes], spoil: Callable[[bytes], Any], code: Code, text: str
) -> None:
    error = await refused(stub.Analyze(spoil(packed[0])))
    assert error.code() == code
    assert text in str(error.details())
    assert "\n" not in str(error.details())


async def test_another_bundle_is_told_with_both_fingerprints(
    stub: AnalyzerStub, packed: list[bytes], packed_1: list[bytes], bundle: Bundle
) -> None:
    other = replace(Bitstream.unpack(packed_1[0]), fingerprint=b"\xde\xad\xbe\xef").pack()
    error = await refused(stub.Analyze(request(other)))
    assert error.code() == Code.FAILED_PRECONDITION
    assert "deadbeef" in str(error.details())
    assert bundle.fingerprint.hex() in str(error.details())


async def test_overload_is_resource_exhausted(
    make_pipeline: Any, make_grpc_server: Any, packed: list[bytes], model: GatedModel
) -> None:
    async with (
        make_pipeline(queue_max=1, batch_max=1) as pipeline,
        make_grpc_server(lambda: pipeline) as (_, stub),
    ):
        model.gate.clear()
        running = asyncio.ensure_future(stub.Analyze(request(packed[0])))
        await asyncio.to_thread(model.entered.wait, 30)
        waits = asyncio.ensure_future(stub.Analyze(request(packed[1])))
        await until(lambda: pipeline.waiting == 1)
        error = await refused(stub.Analyze(request(packed[2])))
        assert error.code() == Code.RESOURCE_EXHAUSTED
        model.gate.set()
        await asyncio.gather(running, waits)


async def test_a_clients_deadline_and_its_cancellation_empty_the_queue(
    pipeline: Pipeline,
    stub: AnalyzerStub,
    packed: list[bytes],
    model: GatedModel,
    jobs_left: Callable[[int], Awaitable[None]],
) -> None:
    model.gate.clear()
    running = asyncio.ensure_future(stub.Analyze(request(packed[0])))
    await asyncio.to_thread(model.entered.wait, 30)
    cancelled = stub.Analyze(request(packed[1]))
    late = stub.Analyze(request(packed[2]), timeout=1)
    await until(lambda: pipeline.waiting == 2)
    cancelled.cancel()
    assert (await refused(late)).code() == Code.DEADLINE_EXCEEDED
    await until(lambda: pipeline.waiting == 0)
    await jobs_left(1)
    model.gate.set()
    await running
    assert model.batches == [1]


async def test_unexpected_errors_say_nothing_of_the_inside(
    stub: AnalyzerStub, packed: list[bytes], model: GatedModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.fail = RuntimeError("secret /path/of/the/server")
    error = await refused(stub.Analyze(request(packed[0])))
    assert error.code() == Code.INTERNAL
    assert "secret" not in str(error.details())
    assert "secret" in caplog.text


async def test_while_loading_every_method_is_unavailable(make_grpc_server: Any, packed: list[bytes]) -> None:
    def loading() -> Any:
        raise NotReadyError("loading")

    async def one() -> AsyncIterator[pb.AnalyzeRequest]:
        yield request(packed[0], "a")

    async with make_grpc_server(loading) as (_, stub):
        for call in (stub.Analyze(request(packed[0])), stub.Describe(pb.DescribeRequest())):
            assert (await refused(call)).code() == Code.UNAVAILABLE
        assert (await refused(stub.AnalyzeStream(one()).read())).code() == Code.UNAVAILABLE


async def test_describe(stub: AnalyzerStub, bundle: Bundle) -> None:
    assert convert.bundles_of(await stub.Describe(pb.DescribeRequest())) == [bundle.info()]


async def test_one_bad_picture_does_not_end_a_stream(stub: AnalyzerStub, packed: list[bytes]) -> None:
    sent = [
        request(packed[0], "good-0"),
        request(b"hello", "bad"),
        request(packed[1], "unknown", tasks=[pb.TaskQuery(name="nope")]),
        request(packed[2], ""),
        *(request(packed[i % 8], f"good-{i}") for i in range(1, 12)),
    ]

    async def requests() -> AsyncIterator[pb.AnalyzeRequest]:
        for one in sent:
            yield one

    answers = {answer.request_id: answer async for answer in stub.AnalyzeStream(requests(), timeout=30)}
    assert set(answers) == {one.request_id for one in sent}
    for request_id, answer in answers.items():
        if request_id.startswith("good"):
            assert isinstance(convert.analysis_of(answer.answer), Analysis)
            assert answer.answer.request_id == request_id
    codes = {name: answers[name].error.code for name in ("bad", "unknown", "")}
    assert codes == {"bad": 3, "unknown": 5, "": 3}
    assert "first byte is 0x68" in answers["bad"].error.text


async def test_an_unexpected_error_does_not_end_a_stream(
    stub: AnalyzerStub, packed: list[bytes], model: GatedModel
) -> None:
    call = stub.AnalyzeStream()
    model.fail = RuntimeError("secret")
    await call.write(request(packed[0], "fails"))
    answer = await call.read()
    assert isinstance(answer, pb.AnalyzeStreamResponse)
    assert (answer.request_id, answer.error.code) == ("fails", 13)
    assert "secret" not in answer.error.text
    model.fail = None
    await call.write(request(packed[0], "works"))
    answer = await call.read()
    assert isinstance(answer, pb.AnalyzeStreamResponse)
    assert answer.WhichOneof("outcome") == "answer"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_stream_reads_no_more_than_it_works_on(
    pipeline: Pipeline, stub: AnalyzerStub, packed: list[bytes], model: GatedModel
) -> None:
    model.gate.clear()

    async def requests() -> AsyncIterator[pb.AnalyzeRequest]:
        for i in range(200):
            yield request(packed[i % 8], f"r{i}")

    call = stub.AnalyzeStream(requests(), timeout=60)
    await asyncio.to_thread(model.entered.wait, 30)
    await until(lambda: pipeline.waiting + model.batches[0] == 4)
    model.gate.set()
    assert len([answer async for answer in call]) == 200
    assert max(model.batches) <= 4


async def test_a_stream_that_is_given_up_leaves_nothing_behind(
    pipeline: Pipeline, stub: AnalyzerStub, packed: list[bytes], model: GatedModel
) -> None:
    model.gate.clear()
    call = stub.AnalyzeStream()
    for i in range(3):
        await call.write(request(packed[i], f"r{i}"))
    await asyncio.to_thread(model.entered.wait, 30)
    call.cancel()
    await until(lambda: pipeline.waiting == 0)


async def test_a_message_beyond_the_cap(pipeline: Pipeline, make_grpc_server: Any) -> None:
    options = [("grpc.max_receive_message_length", MAX_STREAM_BYTES)]
    async with make_grpc_server(lambda: pipeline, options=options) as (_, stub):
        error = await refused(stub.Analyze(request(bytes(MAX_STREAM_BYTES + 1))))
    assert error.code() == Code.RESOURCE_EXHAUSTED


async def test_more_tasks_than_a_request_may_name(stub: AnalyzerStub, packed: list[bytes]) -> None:
    many = [pb.TaskQuery(name="classification") for _ in range(65)]
    error = await refused(stub.Analyze(request(packed[0], tasks=many)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "tasks: 65 of them; a request may name 64"


async def test_an_answer_may_be_larger_than_any_request(
    pipeline: Pipeline, packed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert.response_message
    monkeypatch.setattr(
        convert,
        "response_message",
        lambda analysis: pb.AnalyzeResponse(bundle="x" * 50_000, request_id=whole(analysis).request_id),
    )
    server = GrpcServer(filled(pipeline), "127.0.0.1", GrpcSettings(port=0, message_bytes_max=10_000))
    await server.start()
    link = CloudLink(address=server.address, message_bytes_max=10_000, answer_bytes_max=100_000)
    transport = GrpcTransport(link)
    try:
        assert len((await transport.analyze(request(packed[0]), 20)).bundle) == 50_000
    finally:
        await transport.close()
        await server.end(0)


async def test_idle_streams_shut_nobody_out(pipeline: Pipeline) -> None:
    settings = GrpcSettings(port=0)
    server = GrpcServer(filled(pipeline), "127.0.0.1", settings)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub, health = AnalyzerStub(channel), HealthStub(channel)
        opened = [stub.AnalyzeStream() for _ in range(130)]
        opened += [health.Watch(HealthCheckRequest()) for _ in range(130)]
        # Each method's refused ones come to an end by themselves; the others stay open.
        await until(lambda: sum(call.done() for call in opened) == 260 - 2 * settings.streams_max)
        assert {await call.code() for call in opened if call.done()} == {Code.RESOURCE_EXHAUSTED}
        assert convert.bundles_of(await stub.Describe(pb.DescribeRequest())) == [pipeline.infos()[0]]
        await health.Check(HealthCheckRequest())
        # A place is free again once its stream has ended.
        still = [call for call in opened if not call.done()]
        for call in still:
            call.cancel()
        again = stub.AnalyzeStream()
        await again.done_writing()
        assert await again.read() is grpc.aio.EOF
    await server.end(0)


async def test_a_stream_whose_answers_nobody_takes_is_ended(
    pipeline: Pipeline, packed: list[bytes], make_grpc_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "response_message", lambda _: pb.AnalyzeResponse(bundle="x" * 4_000_000))
    limit = StreamLimit(1)
    async with make_grpc_server(lambda: pipeline, 0.5, interceptors=[limit]) as (_, stub):
        stream = stub.AnalyzeStream()
        for i in range(4):
            await stream.write(request(packed[0], f"{i}"))
        await until(lambda: limit.open == 1)
        await until(lambda: limit.open == 0)
        again = stub.AnalyzeStream()
        await again.write(request(packed[1], "other"))
        assert (await again.read()).request_id == "other"
        again.cancel()
        stream.cancel()


async def test_a_stream_ends_when_it_is_idle_and_not_while_it_works(
    pipeline: Pipeline, make_grpc_server: Any, packed: list[bytes], model: GatedModel
) -> None:
    model.gate.clear()
    async with make_grpc_server(lambda: pipeline, stream_idle_s=0.02) as (_, stub):
        works = stub.AnalyzeStream()
        await works.write(request(packed[0], "one"))
        await asyncio.to_thread(model.entered.wait, 30)
        for _ in range(3):  # each takes the idle time, which goes by for the first one too
            assert (await refused(stub.AnalyzeStream().read())).code() == Code.DEADLINE_EXCEEDED
        model.gate.set()
        answer = await works.read()
        assert isinstance(answer, pb.AnalyzeStreamResponse)
        assert answer.answer.request_id == "one"
        assert (await refused(works.read())).code() == Code.DEADLINE_EXCEEDED
