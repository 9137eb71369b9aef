"""The client of sessions on a scripted cloud that really decodes: references, NEED_INTRA, breaks, answers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge import client
from edge.session import CameraSession, SessionAnswer, Shot
from edge.settings import CloudLink, SessionSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import (
    CloudUnreachableError,
    DeadlineError,
    ImageError,
    OverloadedError,
    RemoteError,
    RemoteRejectedError,
    RequestError,
)
from shared.session_packets import (
    Answered,
    NeedIntra,
    Outcome,
    Received,
    RefineAsked,
    Refused,
    SameAs,
    SentFrame,
)
from shared.types import TaskQuery, Wanted
from shared.wire import analyzer_pb2 as pb
from support.levels import write_levels
from support.service import until
from support.session_cloud import TASK, Cloud, Stream, result

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(Bundle.open(write_levels(tmp_path_factory.mktemp("levels") / "bundle")))


@pytest.fixture
def cloud(encoder: Encoder) -> Cloud:
    return Cloud(encoder)


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.001)


Make = Callable[..., CameraSession]


@pytest.fixture
async def make(encoder: Encoder, cloud: Cloud) -> AsyncIterator[Make]:
    made: list[CameraSession] = []

    def session(wanted: Wanted | None = None, deadline_ms: int = 20_000, **settings: Any) -> CameraSession:
        link = CloudLink(deadline_ms=deadline_ms, address="cloud.example:1")
        made.append(CameraSession(encoder, link, SessionSettings(**settings), wanted, "door", cloud))
        return made[-1]

    yield session
    for one in made:
        await one.close()


def image(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


async def answers(session: CameraSession, images: list[Any]) -> list[SessionAnswer]:
    return [one async for one in session.run(images)]


async def test_images_one_by_one(make: Make, cloud: Cloud, encoder: Encoder) -> None:
    """Equal images are frames S, whose answer is the earlier one's; everything about an answer is filled in."""
    cloud.act = lambda stream, frame: Answered(result(1)) if frame.number != 2 else SameAs(1)
    session = make(Wanted(top_k=1))
    first = await session.analyze(image(), 30, NOON)
    second = await session.analyze(image(), 30, NOON + timedelta(seconds=0.2))
    third = await session.analyze(image(1), 30)
    assert [one.frame for one in (first, second, third)] == ["I", "S", "I"]
    assert [one.same_as for one in (first, second, third)] == [None, 1, None]
    assert first.analysis.results == second.analysis.results == result(1)
    [stream] = cloud.streams
    assert stream.opened is not None
    assert (stream.opened.camera, stream.opened.grid, stream.opened.wanted.top_k) == ("door", (4, 4), 1)
    assert stream.opened.fingerprint.hex() == encoder.bundle.manifest.fingerprint
    assert [frame.captured_at for frame in stream.sent] == [NOON, NOON + timedelta(seconds=0.2), None]
    told = first.analysis
    assert told.request_id == stream.opened.request_id(1)
    assert (told.bundle, told.quality, told.captured_at) == ("levels", 30, NOON)
    assert told.bytes.total == len(stream.sent[0].data) == told.bytes.b_v + told.bytes.b_z + 4
    assert second.analysis.bytes.total == 3
    assert (told.times.read_ms or 0) > 0
    assert (told.times.code_ms or 0) > 0
    assert (told.times.send_ms or 0) > 0


async def test_files_and_bytes_of_files(make: Make, tmp_path: Path) -> None:
    data = io.BytesIO()
    image().save(data, "PNG")
    (tmp_path / "a.png").write_bytes(data.getvalue())
    got = await answers(make(), [tmp_path / "a.png", data.getvalue(), Shot(image(), NOON)])
    assert got[0].frame == "I"
    assert got[2].analysis.captured_at == NOON


async def test_answers_come_in_the_order_of_the_images(make: Make, cloud: Cloud) -> None:
    """Although the cloud answers the second first."""
    held: list[int] = []

    def act(stream: Stream, frame: SentFrame) -> Outcome | None:
        if frame.number % 2:
            held.append(frame.number)
            return None
        stream.reply(frame.number, Answered(result(frame.number % 3)))
        stream.reply(held.pop(), Answered(result((frame.number - 1) % 3)))
        return None

    cloud.act = act
    shots = [Shot(image(i), NOON + timedelta(seconds=i)) for i in range(6)]
    got = await answers(make(in_flight_max=2), shots)
    assert [one.analysis.captured_at for one in got] == [shot.captured_at for shot in shots]
    assert sorted(one.number for one in got) == [1, 2, 3, 4, 5, 6]
    assert all(one.analysis.results == result(one.number % 3) for one in got)


async def test_what_is_in_flight_is_bounded(make: Make, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: None
    session = make(in_flight_max=3)
    tasks = [asyncio.create_task(session.analyze(image(i))) for i in range(8)]
    await until(lambda: bool(cloud.streams) and len(cloud.streams[0].sent) == 3)
    [stream] = cloud.streams
    cloud.act = lambda stream, frame: Answered(result(0))
    for number in (1, 2, 3):
        stream.reply(number, Answered(result(0)))
    await asyncio.gather(*tasks)
    assert len(stream.sent) == 8


async def test_a_lost_reference_is_sent_again_by_itself(make: Make, cloud: Cloud) -> None:
    session = make()
    assert (await session.analyze(image())).frame == "I"
    cloud.streams[0].receiver.kept.clear()
    again = await session.analyze(image())
    assert (again.frame, again.number) == ("I", 3)
    assert cloud.streams[0].frames == [(1, "I"), (2, "S"), (3, "I")]
    assert (await session.analyze(image())).frame == "S"


async def test_a_cloud_that_takes_no_frame(make: Make, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: NeedIntra()
    with pytest.raises(RemoteError, match="does not take it"):
        await make().analyze(image())


async def test_a_stream_that_breaks(make: Make, cloud: Cloud) -> None:
    """The image in flight goes into a new session, which begins anew."""
    session = make()
    await session.analyze(image())

    def breaks(stream: Stream, frame: SentFrame) -> Outcome | None:
        cloud.act = lambda stream, frame: Answered(result(2))
        stream.answers.put_nowait(CloudUnreachableError("gone"))
        return None

    cloud.act = breaks
    again = await session.analyze(image())
    assert (again.frame, again.number, again.analysis.results) == ("I", 1, result(2))
    first, second = cloud.streams
    assert first.cancelled
    assert first.opened is not None
    assert second.opened is not None
    assert first.opened.session != second.opened.session


@pytest.mark.parametrize("end", [None, DeadlineError("idle")])
async def test_a_stream_that_ended_while_nothing_was_sent(
    make: Make, cloud: Cloud, end: Exception | None
) -> None:
    session = make()
    await session.analyze(image())
    cloud.streams[0].answers.put_nowait(end)
    await until(lambda: cloud.streams[0].cancelled)
    assert (await session.analyze(image())).frame == "I"
    assert len(cloud.streams) == 2


async def test_a_cloud_that_is_away(make: Make, cloud: Cloud) -> None:
    cloud.refuses = [CloudUnreachableError("loading")] * 2
    session = make()
    assert (await session.analyze(image())).frame == "I"
    assert len(cloud.streams) == 3
    await session.close()
    cloud.refuses = [CloudUnreachableError("loading")] * 9
    with pytest.raises(
        CloudUnreachableError, match=r"cloud\.example:1 is not available \(tried 4 times\): loading"
    ):
        await make().analyze(image())


@pytest.mark.parametrize(
    "error", [RemoteRejectedError("FAILED_PRECONDITION", "another bundle"), OverloadedError("full")]
)
async def test_a_session_that_is_refused(make: Make, cloud: Cloud, error: Exception) -> None:
    cloud.refuses = [error]
    with pytest.raises(type(error), match=str(error)):
        await make().analyze(image())
    assert len(cloud.streams) == 1


@pytest.mark.parametrize(
    ("cause", "error"),
    [
        (RequestError("no"), RemoteRejectedError),
        (OverloadedError("no"), OverloadedError),
        (DeadlineError("no"), DeadlineError),
    ],
)
async def test_one_frame_that_is_refused(
    make: Make, cloud: Cloud, cause: Exception, error: type[Exception]
) -> None:
    """It is not referred to, and the session goes on."""
    cloud.act = lambda stream, frame: Refused(cause)
    session = make()
    with pytest.raises(error, match="no"):
        await session.analyze(image())
    cloud.act = lambda stream, frame: Answered(result(0))
    assert (await session.analyze(image())).frame == "I"
    assert len(cloud.streams) == 1


async def test_an_answer_that_comes_too_late(make: Make, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: None
    session = make(deadline_ms=150)
    with pytest.raises(DeadlineError, match="did not answer within 150 ms"):
        await session.analyze(image())
    cloud.streams[0].reply(1, Answered(result(0)))
    cloud.act = lambda stream, frame: Answered(result(0))
    assert (await session.analyze(image())).frame == "S"  # what came late still counts as a reference


async def test_no_replies_are_wanted(make: Make, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: Received()
    got = await answers(make(replies="none"), [image(), image()])
    assert [one.analysis.results for one in got] == [{}, {}]
    [stream] = cloud.streams
    assert stream.opened is not None
    assert stream.opened.replies == "none"


async def test_answers_that_wait_for_each_other(make: Make, cloud: Cloud) -> None:
    """One message answers three frames; each caller gets its own."""
    session = make(answers_wait_ms=1000)
    cloud.act = lambda stream, frame: Answered(result(1)) if frame.number == 1 else None
    await session.analyze(image())
    tasks = [asyncio.create_task(session.analyze(image())) for _ in range(3)]
    [stream] = cloud.streams
    await until(lambda: len(stream.sent) == 4)
    assert stream.opened is not None
    assert stream.opened.answers_wait_ms == 1000
    answer = pb.FrameAnswer(number=4, same_as=1, also=2)
    stream.answers.put_nowait(pb.SessionResponse(answer=answer))
    got = await asyncio.gather(*tasks)
    assert sorted(one.number for one in got) == [2, 3, 4]
    assert all((one.frame, one.same_as, one.analysis.results) == ("S", 1, result(1)) for one in got)


async def test_as_a_frame_that_is_not_known(make: Make, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: SameAs(99)
    with pytest.raises(RemoteError, match="frame 99"):
        await make().analyze(image())


async def test_bases_alone(make: Make, cloud: Cloud) -> None:
    """Where all that is asked can be answered from them; the rest is sent when the cloud asks for it."""
    cloud.base_tasks = (TASK.name,)
    session = make(Wanted(tasks=(TaskQuery(name=TASK.name),)))
    first = await session.analyze(image())
    assert (first.frame, first.analysis.bytes.b_z) == ("I base", 0)
    assert (await session.analyze(image())).frame == "S"
    [stream] = cloud.streams
    for number in (1, 77):
        stream.answers.put_nowait(stream.writer.message(RefineAsked(number)))
    await until(lambda: bool(stream.declined))
    assert stream.declined == [77]
    assert stream.frames == [(1, "I base"), (2, "S"), (3, "I refinement")]
    assert (await session.analyze(image())).frame == "S"


async def test_an_image_that_cannot_be_read(make: Make) -> None:
    session = make()
    with pytest.raises(ImageError):
        await session.analyze(b"hello")
    with pytest.raises(RequestError, match="quality 99"):
        await session.analyze(image(), 99)
    with pytest.raises(RequestError, match="no zone"):
        await session.analyze(image(), captured_at=NOON.replace(tzinfo=None))
    assert (await session.analyze(image())).frame == "I"


async def test_images_that_come_when_they_come(make: Make) -> None:
    async def camera() -> AsyncIterator[Image.Image]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield image()

    got = [one async for one in make().run(camera())]
    assert got[0].frame == "I"
    assert len(got) == 3


async def test_an_answer_does_not_wait_for_the_next_image(make: Make) -> None:
    answered = asyncio.Event()

    async def camera() -> AsyncIterator[Image.Image]:
        yield image()
        await answered.wait()
        yield image()

    got = []
    async for one in make().run(camera()):
        got.append(one.frame)
        answered.set()
    assert got == ["I", "S"]


async def test_a_camera_that_breaks(make: Make) -> None:
    """What came before is answered, and then its error is the caller's."""

    def camera() -> Iterator[Image.Image]:
        yield image()
        raise ImageError("the lens fell off")

    run = make().run(camera())
    assert (await anext(run)).frame == "I"
    with pytest.raises(ImageError, match="lens"):
        await anext(run)


async def test_leaving_a_run_early_ends_what_is_in_flight(make: Make, cloud: Cloud) -> None:
    session = make()
    async for _ in session.run(image(i) for i in range(100)):
        break
    assert len(cloud.streams[0].sent) < 20
    assert (await session.analyze(image())).analysis.results == result(0)


async def test_a_session_that_is_closed(make: Make, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: None
    session = make()
    task = asyncio.create_task(session.analyze(image()))
    await until(lambda: bool(cloud.streams) and bool(cloud.streams[0].sent))
    cloud.refuses = [RemoteRejectedError("UNAUTHENTICATED", "no")]
    await session.close()
    with pytest.raises((CloudUnreachableError, RemoteRejectedError)):
        await task
    assert cloud.streams[0].cancelled
