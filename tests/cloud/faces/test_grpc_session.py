"""AnalyzeSession and Refine on a real port: opens, frames of every type, policies, bounds, shared batches."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from cloud.faces.grpc_server import GrpcServer
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings, PipelineSettings, SessionSettings
from shared.bundle import Bundle
from shared.codec.frame import Packet
from shared.codec.frame_codec import FrameCodec, Latent
from shared.encoder import Encoder
from shared.errors import IsthmusError
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.process.ready import Ready
from shared.session_packets import (
    Answered,
    FrameReply,
    NeedIntra,
    Received,
    RefineAsked,
    Refused,
    SameAs,
    SentFrame,
    SessionOpen,
    SessionReady,
)
from shared.types import TaskQuery, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert, sessions
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.service import GatedBaseModel, OneBundle, until
from support.session_ends import GRID, QUALITY, EdgeEnd, changed_latent, random_latent, small_codec
from support.tasks import write_task

BOTH_ENGINES = (pytest.mark.slow,)

Code = grpc.StatusCode
LABELS = ("red", "green", "blue")
MOODS = ("calm", "busy", "dim", "bright")


class LatentModel(GatedBaseModel):
    """Answers with the class that a latent's first number makes."""

    def answer(self, z: Any, queries: Any, qualities: Any) -> Any:
        super().answer(z, queries, qualities)
        return [_results(int(one.reshape(-1)[0]), asked) for one, asked in zip(z, queries, strict=True)]

    def answer_base(self, v: Any, queries: Any, qualities: Any) -> Any:
        super().answer_base(v, queries, qualities)
        return [_results(int(one[0]), asked) for one, asked in zip(v, queries, strict=True)]


def _results(number: int, asked: tuple[TaskQuery, ...]) -> dict[str, ClassificationResult]:
    top = (ClassScore(label=LABELS[number % 3], index=number % 3, score=0.75),)
    return {query.name: ClassificationResult(top=top) for query in asked}


def room(latent: Latent) -> str:
    """The label of a latent's answer."""
    first = latent.v if latent.z is None else latent.z
    return LABELS[int(first.reshape(-1)[0]) % 3]


class Sink:
    def __init__(self) -> None:
        self.records: list[tuple[Any, ...]] = []

    def append(self, *record: Any) -> bool:
        self.records.append(record)
        return True


@pytest.fixture(scope="module")
def codec() -> FrameCodec:
    return small_codec()


@pytest.fixture(scope="module")
def served(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle as if it had the random codec, with a task `mood` that no base answers."""
    plain = Bundle.open(tiny_bundle)
    added = plain.with_added(
        plain.read_task(write_task(tiny_bundle, tmp_path_factory.mktemp("added") / "mood"))
    )
    manifest = plain.manifest.model_copy(update={"codec": plain.manifest.codec | {"grid": GRID}})
    return Bundle(plain.path, manifest, added.added)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def model(codec: FrameCodec) -> LatentModel:
    return LatentModel(codec._codec, frozenset({"classification"}))


@pytest.fixture
async def pipeline(
    served: Bundle, encoder: Encoder, model: LatentModel, settings: PipelineSettings, sink: Sink
) -> AsyncIterator[Pipeline]:
    made = Pipeline(OneBundle(served, model, encoder), settings, sink, SessionSettings(open_max=3))
    yield made
    model.gate.set()
    await made.close()


@pytest.fixture
async def server(pipeline: Pipeline) -> AsyncIterator[GrpcServer]:
    ready: Ready[Pipeline] = Ready("the server")
    ready.fill(pipeline)
    made = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0, stream_requests_max=4), 3)
    await made.start()
    yield made
    await made.end(0)


@pytest.fixture
async def stub(server: GrpcServer) -> AsyncIterator[AnalyzerStub]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield AnalyzerStub(channel)


def opening(served: Bundle, **fields: Any) -> SessionOpen:
    whole = bytes.fromhex(served.manifest.fingerprint)
    return SessionOpen(**{"fingerprint": whole, "session": bytes(16), "grid": GRID} | fields)


class Client:
    """One session from the edge's side, frame by frame."""

    def __init__(self, stub: AnalyzerStub, codec: FrameCodec, opened: SessionOpen) -> None:
        self.call = stub.AnalyzeSession(timeout=60)
        self.opened, self.frames = opened, EdgeEnd(codec, opened)
        self._writer = sessions.FrameWriter()
        self._replies: list[FrameReply | RefineAsked] = []
        self.messages = 0

    async def open(self) -> SessionReady:
        await self.call.write(sessions.open_message(self.opened))
        first = await self.call.read()
        assert isinstance(first, pb.SessionResponse), first
        ready = sessions.ready_of(first.ready)
        self._reader = sessions.ReplyReader(ready)
        return ready

    async def send(self, number: int, data: bytes, captured_at: datetime | None = None) -> None:
        await self.call.write(self._writer.message(SentFrame(number, data, captured_at)))

    async def read(self) -> FrameReply | RefineAsked:
        if not self._replies:
            message = await self.call.read()
            assert isinstance(message, pb.SessionResponse), message
            self._replies = self._reader.replies(message)
            self.messages += 1
        return self._replies.pop(0)

    async def ask(self, number: int, data: bytes, captured_at: datetime | None = None) -> Any:
        await self.send(number, data, captured_at)
        reply = await self.read()
        assert isinstance(reply, FrameReply)
        assert reply.number == number
        return reply.outcome

    async def end(self) -> None:
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF


async def refused(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    assert "\n" not in str(caught.value.details())
    return caught.value


def label(outcome: Any, task: str = "classification") -> str:
    """The colour that stands for a result, whose own label must be that of its index."""
    assert isinstance(outcome, Answered), outcome
    best = outcome.results[task].top[0]  # type: ignore[attr-defined]
    assert best.label == {"classification": LABELS, "mood": MOODS}[task][best.index]
    return LABELS[best.index]


async def test_a_session_from_open_to_end(
    stub: AnalyzerStub, codec: FrameCodec, served: Bundle, sink: Sink, model: LatentModel
) -> None:
    client = Client(stub, codec, opening(served, camera="door"))
    ready = await client.open()
    assert [task.name for task in ready.tasks] == ["classification", "mood"]
    assert ready.tasks[0].labels == LABELS
    assert (ready.bundle, ready.base_tasks) == ("tiny", ("classification",))
    assert (ready.references_max, ready.frames_max, ready.idle_ms) == (8, 4, 60_000)
    first = random_latent(1)
    second, base = changed_latent(first, 2), random_latent(4, base=True)
    when = datetime(2026, 11, 22, 13, tzinfo=UTC)
    later = [when + timedelta(milliseconds=200 * n) for n in range(4)]
    edge = client.frames
    answer = await client.ask(1, edge.intra(1, first), later[0])
    assert (label(answer), label(answer, "mood"), answer.missing) == (room(first), room(first), ())
    assert label(await client.ask(2, edge.predicted(2, second, first), later[1])) == room(second)
    assert label(await client.ask(3, edge.same(3, first), later[2])) == room(first)
    answer = await client.ask(4, edge.intra(4, base), later[3])
    assert (label(answer), set(answer.results), answer.missing) == (room(base), {"classification"}, ("mood",))
    assert await client.ask(5, edge.same(5, random_latent(9))) == NeedIntra()
    # A repeat, after all that.
    assert label(await client.ask(1, edge.intra(1, first), later[0])) == room(first)
    await client.end()
    assert (model.batches, model.bases) == ([1, 1], [1])
    ids = [f"s.{bytes(16).hex()}.{number}" for number in range(1, 5)]
    assert [(r[0], r[2], r[4], r[5]) for r in sink.records] == [
        ("door", ids[0], later[0], ""),
        ("door", ids[1], later[1], ids[0]),
        ("door", ids[2], later[2], ids[0]),
        ("door", ids[3], later[3], ""),
    ]
    assert [Packet.unpack(record[3]).frame.name for record in sink.records] == ["I", "P", "S", "I base"]


async def test_policies_and_details(stub: AnalyzerStub, codec: FrameCodec, served: Bundle) -> None:
    latent = random_latent(1)
    asked = Wanted.same(["classification"], 1)
    client = Client(stub, codec, opening(served, replies="changes", details=True, wanted=asked))
    ready = await client.open()
    assert [task.name for task in ready.tasks] == ["classification"]
    data = client.frames.intra(1, latent)
    await client.send(1, data)
    reply = await client.read()
    assert isinstance(reply, FrameReply)
    assert reply.bytes is not None
    assert reply.times is not None
    assert (reply.bytes.total, reply.bytes.b_v + reply.bytes.b_z) == (len(data), len(data) - 4)
    assert reply.times.decode_ms is not None
    await client.send(2, client.frames.same(2, latent))
    reply = await client.read()
    assert isinstance(reply, FrameReply)
    assert (reply.outcome, reply.bytes and reply.bytes.total) == (SameAs(1), 3)
    await client.end()
    silent = Client(stub, codec, opening(served, replies="none"))
    await silent.open()
    assert await silent.ask(1, silent.frames.intra(1, latent)) == Received()
    assert await silent.ask(2, silent.frames.same(2, latent)) == Received()
    await silent.end()


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"fingerprint": b"\xde" * 32}, Code.FAILED_PRECONDITION, "bundle dededede"),
        ({"grid": (60, 60)}, Code.INVALID_ARGUMENT, "60 x 60"),
        ({"wanted": Wanted.same(["nope"], 1)}, Code.NOT_FOUND, "nope"),
        ({"wanted": Wanted.same(["mood", "mood"], 1)}, Code.INVALID_ARGUMENT, "twice"),
    ],
)
async def test_opens_that_are_refused(
    stub: AnalyzerStub, codec: FrameCodec, served: Bundle, fields: dict[str, Any], code: Code, text: str
) -> None:
    client = Client(stub, codec, opening(served, **fields))
    error = await refused(client.open())
    assert error.code() == code
    assert text in str(error.details())


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "begins with a SessionOpen"),
        ([pb.SessionRequest()], "begins with a SessionOpen"),
        ([pb.SessionRequest(frame=pb.SessionFrame(number=1))], "begins with a SessionOpen"),
        (["open", "open"], "opened once"),
        (["open", pb.SessionRequest()], "neither"),
        (["open", pb.SessionRequest(frame=pb.SessionFrame(captured_after=1))], "captured_after"),
        (["open", pb.SessionRequest(frame=pb.SessionFrame(captured_at=-1))], "captured_at"),
    ],
)
async def test_messages_in_another_order_end_the_session(
    stub: AnalyzerStub, served: Bundle, pipeline: Pipeline, messages: list[Any], text: str
) -> None:
    call = stub.AnalyzeSession(timeout=60)
    for message in messages:
        await call.write(sessions.open_message(opening(served)) if message == "open" else message)
    await call.done_writing()

    async def read_all() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    error = await refused(read_all())
    assert (error.code(), text in str(error.details())) == (Code.INVALID_ARGUMENT, True), error.details()
    assert len(pipeline.sessions) == 0


async def test_a_bad_frame_does_not_end_a_session(
    stub: AnalyzerStub, codec: FrameCodec, served: Bundle
) -> None:
    client = Client(stub, codec, opening(served))
    await client.open()
    for number, data in enumerate((b"", b"hello", bytes(2000)), 1):
        outcome = await client.ask(number, data)
        assert isinstance(outcome, Refused | NeedIntra)
    latent = random_latent(1)
    assert label(await client.ask(9, client.frames.intra(9, latent))) == room(latent)
    await client.end()


async def test_an_unexpected_error_says_nothing_of_the_inside(
    stub: AnalyzerStub,
    codec: FrameCodec,
    served: Bundle,
    model: LatentModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Client(stub, codec, opening(served))
    await client.open()
    latent = random_latent(1)
    model.fail = RuntimeError("secret")
    outcome = await client.ask(1, client.frames.intra(1, latent))
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, IsthmusError)
    assert "secret" not in str(outcome.error)
    assert "secret" in caplog.text
    model.fail = None
    assert label(await client.ask(1, client.frames.intra(1, latent))) == room(latent)
    await client.end()


async def test_sessions_and_requests_share_batches(
    stub: AnalyzerStub, codec: FrameCodec, served: Bundle, model: LatentModel, pipeline: Pipeline
) -> None:
    clients = [Client(stub, codec, opening(served, session=bytes([i] * 16))) for i in range(3)]
    firsts = [random_latent(i) for i in range(3)]
    for client, first in zip(clients, firsts, strict=True):
        await client.open()
        await client.ask(1, client.frames.intra(1, first))
    model.batches.clear()
    model.gate.clear()
    await clients[0].send(2, clients[0].frames.intra(2, random_latent(10)))
    await until(model.batches.__len__)
    seconds = [changed_latent(first, 20 + i) for i, first in enumerate(firsts)]
    for client, first, second in zip(clients, firsts, seconds, strict=True):
        await client.send(3, client.frames.predicted(3, second, first))
    await clients[1].send(4, clients[1].frames.intra(4, random_latent(11, base=True)))
    await clients[2].send(4, clients[2].frames.intra(4, random_latent(12)))
    await until(lambda: pipeline.waiting == 5)
    model.gate.set()
    replies = {}
    for i, client in enumerate(clients):
        for _ in range(2):
            reply = await client.read()
            assert isinstance(reply, FrameReply)
            replies[i, reply.number] = reply.outcome
    assert [label(replies[i, 3]) for i in range(3)] == [room(second) for second in seconds]
    assert model.batches == [1, 4]  # three frames P and one I; the base apart
    for client in clients:
        await client.end()


async def test_a_session_reads_no_more_than_it_works_on(
    stub: AnalyzerStub, codec: FrameCodec, served: Bundle, model: LatentModel, pipeline: Pipeline
) -> None:
    client = Client(stub, codec, opening(served))
    await client.open()
    model.gate.clear()
    for number in range(1, 21):
        await client.send(number, client.frames.intra(number, random_latent(number)))
    await until(lambda: sum(model.batches) + pipeline.waiting == 4)
    model.gate.set()
    replies = [await client.read() for _ in range(20)]
    assert {reply.number for reply in replies} == set(range(1, 21))
    assert max(model.batches) <= 4
    await client.end()


async def test_more_sessions_than_allowed_are_refused_and_a_place_is_free_again(
    stub: AnalyzerStub, codec: FrameCodec, served: Bundle, pipeline: Pipeline
) -> None:
    clients = [Client(stub, codec, opening(served, session=bytes([i] * 16))) for i in range(3)]
    for client in clients:
        await client.open()
    one_more = Client(stub, codec, opening(served))
    assert (await refused(one_more.open())).code() == Code.RESOURCE_EXHAUSTED
    clients[0].call.cancel()
    await until(lambda: len(pipeline.sessions) == 2)
    again = Client(stub, codec, opening(served))
    await again.open()
    for client in (*clients[1:], again):
        await client.end()
    assert len(pipeline.sessions) == 0


async def test_a_session_ends_when_it_is_silent_and_when_the_server_ends(
    stub: AnalyzerStub, pipeline: Pipeline, codec: FrameCodec, served: Bundle, model: LatentModel
) -> None:
    ready: Ready[Pipeline] = Ready("the server")
    ready.fill(pipeline)
    short = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0, stream_idle_ms=20))
    await short.start()
    async with grpc.aio.insecure_channel(short.address) as channel:
        for wait in ("for the open", "for a frame"):
            client = Client(AnalyzerStub(channel), codec, opening(served))
            if wait == "for a frame":
                await client.open()
            assert (await refused(client.call.read())).code() == Code.DEADLINE_EXCEEDED
    await short.end(0)
    other = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0))
    await other.start()
    async with grpc.aio.insecure_channel(other.address) as channel:
        client = Client(AnalyzerStub(channel), codec, opening(served))
        await client.open()
        model.gate.clear()
        latent = random_latent(1)
        await client.send(1, client.frames.intra(1, latent))
        await asyncio.to_thread(model.entered.wait, 30)
        ending = asyncio.create_task(other.end(20))
        await asyncio.sleep(0)
        model.gate.set()
        reply = await client.read()  # what was sent so far is answered
        assert isinstance(reply, FrameReply)
        assert label(reply.outcome) == room(latent)
        assert (await refused(client.call.read())).code() == Code.UNAVAILABLE
        await ending


async def test_tasks_that_change_end_a_session_and_others_do_not(
    stub: AnalyzerStub, codec: FrameCodec, served: Bundle, pipeline: Pipeline, model: LatentModel
) -> None:
    latent = random_latent(1)
    one = Client(stub, codec, opening(served, wanted=Wanted.same(["classification"], 1)))
    all_tasks = Client(stub, codec, opening(served, session=b"\1" * 16))
    await one.open()
    await all_tasks.open()
    pipeline.bundles.swap(served.without_added("mood"), model)
    assert label(await one.ask(1, one.frames.intra(1, latent))) == room(latent)
    await all_tasks.send(1, all_tasks.frames.intra(1, latent))
    error = await refused(all_tasks.call.read())
    assert (error.code(), "open the session again" in str(error.details())) == (Code.UNAVAILABLE, True)
    await one.end()


@pytest.mark.parametrize(
    ("compression", "unpack"), [("none", bytes), ("gzip", gzip.decompress), ("deflate", zlib.decompress)]
)
async def test_answers_are_compressed_as_the_open_says(
    server: GrpcServer, served: Bundle, pipeline: Pipeline, model: LatentModel, compression: str, unpack: Any
) -> None:
    labels = tuple(f"label number {i}" for i in range(200))
    first = served.manifest.tasks[0].model_copy(update={"labels": labels})
    manifest = served.manifest.model_copy(update={"tasks": (first,)})
    pipeline.bundles.swap(Bundle(served.path, manifest), model)
    options = [("grpc.per_message_decompression", 0)]  # messages come as they are on the wire
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        call = channel.stream_stream("/isthmus.v1.Analyzer/AnalyzeSession")()
        opened = opening(served, compression=compression)
        await call.write(sessions.open_message(opened).SerializeToString())
        data = await call.read()
        ready = pb.SessionResponse.FromString(unpack(data)).ready
        assert sessions.ready_of(ready).tasks[0].labels == labels
        assert (len(data) < ready.ByteSize() / 3) == (compression != "none")
        call.cancel()


async def test_answers_that_say_little_are_sent_as_one(
    stub: AnalyzerStub, codec: FrameCodec, served: Bundle
) -> None:
    """They wait for each other, and never longer than for the next answer that says more, or the end."""
    client = Client(stub, codec, opening(served, replies="changes", answers_wait_ms=10_000))
    await client.open()
    first = random_latent(1)
    second = next(one for one in map(random_latent, range(2, 99)) if room(one) != room(first))
    edge = client.frames
    await client.ask(1, edge.intra(1, first))
    for number in (2, 3):  # two of four places: they are sent
        await client.send(number, edge.same(number, first))
    assert [await client.read() for _ in range(2)] == [FrameReply(n, SameAs(1)) for n in (2, 3)]
    assert client.messages == 2
    await client.send(4, edge.same(4, first))
    await client.send(5, edge.intra(5, second))
    assert await client.read() == FrameReply(4, SameAs(1))
    assert label((await client.read()).outcome) == room(second)  # type: ignore[union-attr]
    await client.send(6, edge.same(6, second))
    await client.call.done_writing()
    assert await client.read() == FrameReply(6, SameAs(5))
    assert await client.call.read() is grpc.aio.EOF
    # By the time that was given, with nothing more sent.
    client = Client(stub, codec, opening(served, replies="none", answers_wait_ms=20))
    await client.open()
    assert await client.ask(1, client.frames.intra(1, first)) == Received()
    await client.end()


class Camera:
    """A session that sends bases, and refinements when they are asked for."""

    def __init__(self, client: Client, keeps: bool = True) -> None:
        self.client, self.keeps = client, keeps
        self.asked = 0

    async def show(self, number: int, whole: Latent, when: datetime | None = None) -> None:
        await self.client.ask(number, self.client.frames.intra(number, whole.base), when)
        self.whole, self.number = whole, number

    async def serve_one(self) -> None:
        asked = await self.client.read()
        assert isinstance(asked, RefineAsked)
        assert asked.number == self.number
        self.asked += 1
        if not self.keeps:
            declined = pb.RefineDeclined(number=asked.number)
            await self.client.call.write(pb.SessionRequest(declined=declined))
            return
        number = self.number + 1
        await self.client.send(number, self.client.frames.refinement(number, self.whole))
        reply = await self.client.read()
        assert isinstance(reply, FrameReply)
        assert label(reply.outcome, "mood") == room(self.whole)


async def test_refine(stub: AnalyzerStub, codec: FrameCodec, served: Bundle, sink: Sink) -> None:
    camera = Camera(Client(stub, codec, opening(served, camera="door")))
    await camera.client.open()
    when = datetime(2026, 11, 22, 13, tzinfo=UTC)
    await camera.show(1, random_latent(1), when)
    request = pb.RefineRequest(camera="door", tasks=[pb.TaskQuery(name="mood")])
    asking = [asyncio.ensure_future(stub.Refine(request)) for _ in range(2)]
    await camera.serve_one()
    for message in await asyncio.gather(*asking):
        analysis = convert.analysis_of(message)
        assert set(analysis.results) == {"mood"}
        assert analysis.results["mood"].top[0].label == room(camera.whole)  # type: ignore[attr-defined]
        assert (analysis.captured_at, analysis.quality) == (when, QUALITY)
        assert analysis.request_id == f"s.{bytes(16).hex()}.2"
        assert analysis.bytes.b_v == 0 < analysis.bytes.b_z
    # Asked again, it is known; after the next frame it is asked again.
    assert convert.analysis_of(await stub.Refine(pb.RefineRequest(camera="door"))).results.keys() == {
        "classification",
        "mood",
    }
    assert camera.asked == 1
    await camera.show(3, random_latent(3))
    again = asyncio.ensure_future(stub.Refine(request))
    await camera.serve_one()
    assert convert.analysis_of(await again).results["mood"].top[0].label == room(camera.whole)  # type: ignore[attr-defined]
    assert [(record[2].rsplit(".")[-1], record[5].rsplit(".")[-1]) for record in sink.records] == [
        ("1", ""),
        ("2", "1"),
        ("3", ""),
        ("4", "3"),
    ]
    await camera.client.end()


async def test_refinements_that_do_not_come(stub: AnalyzerStub, codec: FrameCodec, served: Bundle) -> None:
    request = pb.RefineRequest(camera="door")
    error = await refused(stub.Refine(request))
    assert (error.code(), "'door'" in str(error.details())) == (Code.NOT_FOUND, True)
    assert (await refused(stub.Refine(pb.RefineRequest()))).code() == Code.INVALID_ARGUMENT
    camera = Camera(Client(stub, codec, opening(served, camera="door")), keeps=False)
    await camera.client.open()
    error = await refused(stub.Refine(request))
    assert (error.code(), "only the base" in str(error.details())) == (Code.ABORTED, True)
    await camera.show(1, random_latent(1))
    # The edge no longer has it.
    asking = asyncio.ensure_future(stub.Refine(request))
    await camera.serve_one()
    error = await refused(asking)
    assert (error.code(), "no longer has" in str(error.details())) == (Code.ABORTED, True)
    # The edge says nothing.
    assert (await refused(stub.Refine(request, timeout=0.2))).code() == Code.DEADLINE_EXCEEDED
    assert isinstance(await camera.client.read(), RefineAsked)
    # A task that there is not.
    wrong = pb.RefineRequest(camera="door", tasks=[pb.TaskQuery(name="nope")])
    assert (await refused(stub.Refine(wrong))).code() == Code.NOT_FOUND
    # The session ends meanwhile.
    asking = asyncio.ensure_future(stub.Refine(request))
    assert isinstance(await camera.client.read(), RefineAsked)
    camera.client.call.cancel()
    error = await refused(asking)
    assert (error.code(), "ended" in str(error.details())) == (Code.ABORTED, True)


def test_labels_depend_on_the_latent() -> None:
    assert len({room(random_latent(seed)) for seed in range(9)}) == 3
    assert np.ndim(random_latent(0).v) == 1
