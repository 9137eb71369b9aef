"""The sessions of a box on a scripted cloud that really decodes: what is sent in them, and what by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edge.lanes
from edge.groups import Bounds, Group
from edge.lanes import LIGHT_MAX, InSession, Lanes, UnansweredError
from edge.settings import CloudLink, SessionSettings
from edge.spool.records import NewFrame, Spooled
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import (
    CloudUnreachableError,
    DeadlineError,
    OverloadedError,
    RemoteRejectedError,
    RequestError,
)
from shared.session_packets import Answered, NeedIntra, Outcome, RefineAsked, Refused, SameAs, SentFrame
from shared.types import TaskQuery, Wanted
from support.levels import write_levels
from support.service import until
from support.session_cloud import TASK, Cloud, Stream, result

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
SECOND_US = 1_000_000


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(Bundle.open(write_levels(tmp_path_factory.mktemp("levels") / "bundle", video=True)))


@pytest.fixture
def cloud(encoder: Encoder) -> Cloud:
    return Cloud(encoder)


class Camera:
    """Makes frames as a box spools them, a fifth of a second apart."""

    def __init__(self, encoder: Encoder, wanted: Wanted | None = None) -> None:
        self.encoder, self.wanted = encoder, wanted or Wanted(top_k=2)
        self.group = Group(encoder, hold=0.3)
        self.us = 0

    def frame(self, seed: int = 0, after_us: int = SECOND_US // 5) -> Spooled:
        image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        self.us += after_us
        made = self.group.code(Image.fromarray(image), Bounds(30), 0.0)
        fingerprint = self.encoder.bundle.fingerprint.hex()
        new = NewFrame("door", fingerprint, made.data, self.wanted.model_dump_json(), NOON)
        return Spooled(self.group.id(), new, self.us)


Make = Callable[..., Lanes]


@pytest.fixture
async def make(encoder: Encoder, cloud: Cloud) -> AsyncIterator[Make]:
    made: list[Lanes] = []
    encoding = ThreadPoolExecutor(1)

    def lanes(deadline_ms: int = 20_000, **settings: Any) -> Lanes:
        link = CloudLink(deadline_ms=deadline_ms, address="cloud.example:1")
        made.append(Lanes(cloud, link, SessionSettings(**settings), encoder, encoding))
        return made[-1]

    yield lanes
    for one in made:
        await one.close()
    encoding.shutdown()


async def sent(lanes: Lanes, one: Spooled) -> InSession:
    done = await lanes.analyze(one)
    assert done is not None
    assert done.answer.request_id == one.id
    return done


async def test_a_scene_that_stays_costs_three_bytes_a_frame(
    make: Make, cloud: Cloud, encoder: Encoder
) -> None:
    lanes, camera = make(), Camera(encoder)
    first, second = camera.frame(), camera.frame()
    moved, back = camera.frame(1), camera.frame(1)
    done = [await sent(lanes, one) for one in (first, second, moved, back)]
    assert [one.type for one in done][:2] == ["I", "S"]
    assert done[2].type in "IP"
    assert [one.size for one in done][1::2] == [3, 3]
    assert done[3].type == "S"
    [stream] = cloud.streams
    assert stream.opened is not None
    assert [stream.opened.request_id(number) for number, _ in stream.frames] == [
        one.id for one in (first, second, moved, back)
    ]
    assert (stream.opened.camera, stream.opened.wanted.top_k) == ("door", 2)
    answer = done[0].answer
    assert (answer.quality, answer.captured_at, answer.results) == (30, NOON, result(0))
    assert answer.bytes.total == done[0].size


async def test_lanes_that_nobody_uses_give_way_to_several_frames_at_once(
    make: Make, cloud: Cloud, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.lanes, "LANES_MAX", 1)
    lanes, act = make(), cloud.act
    cloud.act = lambda stream, frame: None
    old = [asyncio.create_task(sent(lanes, Camera(encoder).frame())) for _ in range(6)]
    await until(lambda: sum(len(stream.frames) for stream in cloud.streams) == 6)
    for stream in cloud.streams:
        stream.reply(1, Answered(result(0)))
    await asyncio.gather(*old)
    cloud.act = act
    await asyncio.gather(*(sent(lanes, Camera(encoder).frame()) for _ in range(3)))
    assert [stream.cancelled for stream in cloud.streams] == [True] * 5 + [False] * 4


async def test_frames_whose_answers_wait_leave_their_places(
    make: Make, cloud: Cloud, encoder: Encoder
) -> None:
    """One frame at once is worked on; those that say nothing new are sent all the same."""
    lanes, camera = make(in_flight_max=1), Camera(encoder)
    await sent(lanes, camera.frame())
    cloud.act = lambda stream, frame: None
    waiting = [asyncio.create_task(sent(lanes, camera.frame())) for _ in range(5)]
    [stream] = cloud.streams
    await until(lambda: len(stream.frames) == 6 and lanes.light == 5)
    moved = asyncio.create_task(sent(lanes, camera.frame(1)))
    await until(lambda: len(stream.frames) == 7)
    for number in range(2, 7):
        stream.reply(number, SameAs(1))
    stream.reply(7, Answered(result(1)))
    done = await asyncio.gather(*waiting, moved)
    assert [(one.type, one.answer.results) for one in done[:5]] == [("S", result(0))] * 5
    assert done[5].type in "IP"
    assert lanes.light == 0
    # And however many wait, there is an end.
    waiting = [asyncio.create_task(sent(lanes, camera.frame(1))) for _ in range(2 * LIGHT_MAX)]
    await until(lambda: lanes.light == LIGHT_MAX and len(stream.frames) == 7 + LIGHT_MAX + 1)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert lanes.light == 0


async def test_a_frame_without_an_answer_goes_on_by_itself(
    make: Make, cloud: Cloud, encoder: Encoder
) -> None:
    """And the next stream has the session's name, counts on, and begins with a frame I."""
    lanes, camera = make(), Camera(encoder)
    await sent(lanes, camera.frame())
    cloud.act = lambda stream, frame: stream.answers.put_nowait(CloudUnreachableError("gone"))
    lost = camera.frame()
    with pytest.raises(UnansweredError, match="gone") as raised:
        await lanes.analyze(lost)
    assert isinstance(raised.value.cause, CloudUnreachableError)
    assert await lanes.analyze(replace(lost, again=True)) is None
    cloud.act = lambda stream, frame: Answered(result(0))
    assert (await sent(lanes, camera.frame())).type == "I"
    assert (await sent(lanes, camera.frame())).type == "S"
    first, second = cloud.streams
    assert first.opened is not None
    assert second.opened is not None
    assert second.opened.session == first.opened.session
    assert [number for number, _ in first.frames + second.frames] == [1, 2, 3, 4]


@pytest.mark.parametrize("error", [RequestError("damaged"), OverloadedError("full"), DeadlineError("late")])
async def test_a_frame_that_a_session_refuses(
    make: Make, cloud: Cloud, encoder: Encoder, error: Exception
) -> None:
    lanes, camera = make(), Camera(encoder)
    cloud.act = lambda stream, frame: Refused(error)
    with pytest.raises(UnansweredError, match=str(error)):
        await lanes.analyze(camera.frame())
    cloud.act = lambda stream, frame: Answered(result(0))
    assert (await sent(lanes, camera.frame())).type == "I"  # what was refused is referred to by nothing
    assert len(cloud.streams) == 1


async def test_need_intra_keeps_the_number(make: Make, cloud: Cloud, encoder: Encoder) -> None:
    lanes, camera = make(), Camera(encoder)
    await sent(lanes, camera.frame())

    def once(stream: Stream, frame: SentFrame) -> Outcome:
        cloud.act = lambda stream, frame: Answered(result(0))
        return NeedIntra()

    cloud.act = once
    assert (await sent(lanes, camera.frame())).type == "I"
    assert [number for number, _ in cloud.streams[0].frames] == [1, 2, 2]


async def test_what_is_sent_by_itself(make: Make, cloud: Cloud, encoder: Encoder) -> None:
    lanes, camera = make(), Camera(encoder)
    one = camera.frame()
    for other in (
        replace(one, again=True),
        replace(one, id="0" * 32),
        replace(one, frame=replace(one.frame, bundle="00000000")),
        replace(one, frame=replace(one.frame, data=b"damaged")),
    ):
        assert await lanes.analyze(other) is None
    assert cloud.streams == []
    await sent(lanes, one)
    await sent(lanes, camera.frame(after_us=100 * SECOND_US))  # the session is open all the same
    cloud.streams[0].answers.put_nowait(DeadlineError("no request for 60 s"))
    await until(lambda: cloud.streams[0].cancelled)
    assert await lanes.analyze(camera.frame(after_us=100 * SECOND_US)) is None
    assert len(cloud.streams) == 1
    await sent(lanes, camera.frame())  # but two that follow one another are worth one
    assert len(cloud.streams) == 2


@pytest.mark.parametrize("error", [OverloadedError("sessions"), RemoteRejectedError("UNIMPLEMENTED", "none")])
async def test_a_cloud_that_opens_no_more_sessions(
    make: Make, cloud: Cloud, encoder: Encoder, error: Exception
) -> None:
    lanes, camera = make(), Camera(encoder)
    cloud.refuses = [error]
    assert await lanes.analyze(camera.frame()) is None
    assert await lanes.analyze(camera.frame()) is None
    assert len(cloud.streams) == 1  # it is left alone for a while


async def test_a_cloud_that_is_away_has_no_frame(make: Make, cloud: Cloud, encoder: Encoder) -> None:
    lanes, camera = make(), Camera(encoder)
    cloud.refuses = [CloudUnreachableError("nobody there")]
    one = camera.frame()
    with pytest.raises(CloudUnreachableError, match="nobody there"):
        await lanes.analyze(one)
    assert (await sent(lanes, one)).type == "I"  # it was not sent, so it may begin a session


@pytest.mark.parametrize(("deadline_ms", "asked_ms"), [(20_000, 1000), (800, 200)])
async def test_answers_wait_for_less_than_the_deadline(
    make: Make, cloud: Cloud, encoder: Encoder, deadline_ms: int, asked_ms: int
) -> None:
    await sent(make(deadline_ms=deadline_ms, answers_wait_ms=1000), Camera(encoder).frame())
    assert cloud.streams[0].opened is not None
    assert cloud.streams[0].opened.answers_wait_ms == asked_ms


async def test_an_answer_that_does_not_come(make: Make, cloud: Cloud, encoder: Encoder) -> None:
    lanes, camera = make(deadline_ms=300), Camera(encoder)
    cloud.act = lambda stream, frame: None
    with pytest.raises(UnansweredError, match="did not answer within 300 ms"):
        await lanes.analyze(camera.frame())
    assert cloud.streams[0].cancelled


async def test_a_refinement_has_a_number_of_its_own(make: Make, cloud: Cloud, encoder: Encoder) -> None:
    """Those that follow are given to frames that are spooled."""
    cloud.base_tasks = (TASK.name,)
    lanes, camera = make(), Camera(encoder, Wanted(tasks=(TaskQuery(name=TASK.name),)))
    assert (await sent(lanes, camera.frame())).type == "I base"
    [stream] = cloud.streams
    stream.answers.put_nowait(stream.writer.message(RefineAsked(1)))
    await until(lambda: len(stream.frames) == 2)
    await sent(lanes, camera.frame(1))
    assert [number for number, _ in stream.frames] == [1, 1 + (1 << 31), 2]


async def test_several_at_once_and_another_bundle(make: Make, cloud: Cloud, encoder: Encoder) -> None:
    lanes, camera = make(), Camera(encoder)
    frames = [camera.frame(seed // 3) for seed in range(12)]
    done = await asyncio.gather(*[sent(lanes, one) for one in frames])
    assert len(done) == 12
    lanes.use(Encoder(encoder.bundle))  # the same bundle in another encoder, as after a rollout and back
    assert (await sent(lanes, camera.frame(9))).type in "IP"
