"""Messages of sessions: what is left out is found again, and a steady state takes few bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ChecksumError, RemoteError, RemoteRejectedError, RequestError, StreamTooLargeError
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.kinds.segmentation import ClassArea, SegmentationResult
from shared.session_packets import (
    NUMBER_MAX,
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
    new_session,
)
from shared.types import ByteCount, TaskInfo, TaskQuery, Times, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import sessions

ROOM = TaskInfo(name="room", kind="classification", labels=("kitchen", "bedroom", "hall"))
THINGS = TaskInfo(name="things", kind="segmentation", labels=("wall", "floor"))
READY = SessionReady(
    bundle="rooms",
    tasks=(ROOM, THINGS),
    base_tasks=("room",),
    references_max=8,
    frames_max=16,
    idle_ms=60_000,
)
OPEN = SessionOpen(
    fingerprint=bytes(range(32)),
    session=bytes(16),
    camera="door.1",
    grid=(16, 9),
    wanted=Wanted(tasks=(TaskQuery(name="room", top_k=2),), maps="png"),
    replies="changes",
    compression="gzip",
    details=True,
    answers_wait_ms=1000,
)
RESULTS = {
    "room": ClassificationResult(top=(ClassScore(label="hall", index=2, score=0.75),)),
    "things": SegmentationResult(areas=(ClassArea(label="floor", index=1, share=1.0),)),
}
START = datetime(2026, 11, 22, 13, 0, 0, 5, tzinfo=UTC)


def test_an_open_and_its_answer_survive_the_wire() -> None:
    message = pb.SessionRequest.FromString(sessions.open_message(OPEN).SerializeToString())
    assert sessions.open_of(message.open) == OPEN
    answer = pb.SessionResponse.FromString(sessions.ready_message(READY).SerializeToString())
    assert sessions.ready_of(answer.ready) == READY


def test_a_session_is_named_at_random() -> None:
    assert len({new_session() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda m: m.ClearField("fingerprint"), RequestError, "fingerprint"),
        (lambda m: setattr(m, "session", bytes(15)), RequestError, "session"),
        (lambda m: setattr(m, "camera", "a b"), RequestError, "camera"),
        (lambda m: setattr(m, "h", 0), StreamTooLargeError, "grid of 0 x 9"),
        (lambda m: setattr(m, "w", 4000), StreamTooLargeError, "cells"),
        (lambda m: setattr(m, "replies", 7), RequestError, "ReplyPolicy"),
        (lambda m: setattr(m, "compression", 9), RequestError, "compression"),
        (lambda m: setattr(m, "maps", 9), RequestError, "maps"),
        (lambda m: setattr(m, "answers_wait_ms", 10_001), RequestError, "answers_wait_ms"),
        (lambda m: m.tasks.extend([pb.TaskQuery(name="a")] * 65), RequestError, "66 of them"),
    ],
)
def test_opens_that_are_refused(spoil, error: type[Exception], text: str) -> None:  # type: ignore[no-untyped-def]
    message = sessions.open_message(OPEN).open
    spoil(message)
    with pytest.raises(error, match=text):
        sessions.open_of(message)


moments = st.none() | st.integers(1, 10**15).map(
    lambda us: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)
)
frames = st.builds(SentFrame, st.integers(1, NUMBER_MAX), st.binary(max_size=20), moments)


@given(st.lists(frames, max_size=12))
def test_any_frames_survive_the_wire(sent: list[SentFrame]) -> None:
    writer, reader = sessions.FrameWriter(), sessions.FrameReader()
    for frame in sent:
        message = pb.SessionRequest.FromString(writer.message(frame).SerializeToString())
        assert reader.frame(message.frame) == frame


def test_a_frame_in_steady_state_takes_eight_bytes_more_than_its_data() -> None:
    writer = sessions.FrameWriter()
    for number in range(1, 100_000, 33):
        writer.message(SentFrame(number, b"", START))
    frame = SentFrame(number + 1, bytes(100), START + timedelta(milliseconds=200))
    assert writer.message(frame).ByteSize() == 2 + 2 + 100 + 4
    assert writer.message(SentFrame(number + 2, bytes(100))).ByteSize() == 2 + 2 + 100


def test_times_and_numbers_out_of_range_are_refused() -> None:
    reader = sessions.FrameReader()
    with pytest.raises(RequestError, match="no frame before"):
        reader.frame(pb.SessionFrame(captured_after=0))
    reader.frame(pb.SessionFrame(number=NUMBER_MAX, captured_at=5))
    with pytest.raises(RequestError, match="captured_after"):
        reader.frame(pb.SessionFrame(number=1, captured_after=-5))
    reader.frame(pb.SessionFrame(number=NUMBER_MAX))
    with pytest.raises(RequestError, match="at most 4294967295 frames"):
        reader.frame(pb.SessionFrame())


COUNT, TIMES = ByteCount(b_v=1, b_z=2, total=7, bits_per_pixel=0.5), Times(queue_ms=0.0, tails_ms=2.5)
REPLIES = [
    FrameReply(1, Answered(RESULTS)),
    FrameReply(2, SameAs(1), COUNT, TIMES),
    FrameReply(9, Answered({"room": RESULTS["room"]}, ("things",))),
    FrameReply(3, NeedIntra()),
    RefineAsked(9),
    FrameReply(4, Received()),
    FrameReply(5, Answered({}, ("room", "things"))),
]


def test_replies_survive_the_wire_and_names_are_left_out() -> None:
    writer, reader = sessions.ReplyWriter(READY.tasks), sessions.ReplyReader(READY)
    for reply in REPLIES:
        data = writer.message(reply).SerializeToString()
        assert not any(name in data for name in (b"room\n", b"hall", b"floor", b"kitchen"))
        assert reader.replies(pb.SessionResponse.FromString(data)) == [reply]


def test_an_error_becomes_one_of_the_remote() -> None:
    message = sessions.ReplyWriter(READY.tasks).message(FrameReply(1, Refused(ChecksumError("damaged"))))
    [reply] = sessions.ReplyReader(READY).replies(message)
    assert isinstance(reply, FrameReply)
    assert isinstance(reply.outcome, Refused)
    error = reply.outcome.error
    assert isinstance(error, RemoteRejectedError)
    assert (error.code, str(error)) == ("INVALID_ARGUMENT", "damaged")


def test_an_answer_as_before_takes_eight_bytes_at_most() -> None:
    writer = sessions.ReplyWriter(READY.tasks)
    writer.message(FrameReply(999_999, Received()))
    assert writer.message(FrameReply(1_000_000, SameAs(900_000))).ByteSize() == 2 + 4
    assert writer.message(FrameReply(1_000_001, Received())).ByteSize() == 2 + 2


def test_one_message_answers_several_frames() -> None:
    writer, reader = sessions.ReplyWriter(READY.tasks), sessions.ReplyReader(READY)
    sent = [(FrameReply(1, Received()), 0), (FrameReply(6, SameAs(1)), 4), (FrameReply(9, Received()), 1)]
    got = []
    for reply, also in sent:
        message = writer.message(reply, also)
        assert message.answer.number == (9 if reply.number == 9 else 0)  # 7 has another answer
        got += reader.replies(message)
    outcomes = {1: Received()} | dict.fromkeys(range(2, 7), SameAs(1)) | {8: Received(), 9: Received()}
    assert got == [FrameReply(number, outcome) for number, outcome in outcomes.items()]


@pytest.mark.parametrize(
    "answer",
    [
        pb.FrameAnswer(number=1),
        pb.FrameAnswer(number=9, also=1, need_intra=True),
        pb.FrameAnswer(number=NUMBER_MAX, also=NUMBER_MAX - 1, received=True),
        pb.FrameAnswer(results=pb.FrameResults(results=[pb.TaskResult()])),
        pb.FrameAnswer(results=pb.FrameResults(results=[pb.TaskResult(), pb.TaskResult()])),
        pb.FrameAnswer(
            missing=["things"],
            results=pb.FrameResults(
                results=[
                    pb.TaskResult(classification=pb.Classification(top=[pb.ClassScore(index=3, score=0.5)]))
                ]
            ),
        ),
        pb.FrameAnswer(
            missing=["things"],
            results=pb.FrameResults(
                results=[
                    pb.TaskResult(classification=pb.Classification(top=[pb.ClassScore(index=2, score=-0.5)]))
                ]
            ),
        ),
    ],
)
def test_replies_that_cannot_be_read(answer: pb.FrameAnswer) -> None:
    with pytest.raises(RemoteError):
        sessions.ReplyReader(READY).replies(pb.SessionResponse(answer=answer))


def test_a_message_from_the_future_is_named() -> None:
    with pytest.raises(RemoteError, match="update this edge"):
        sessions.ReplyReader(READY).replies(pb.SessionResponse())
