"""Turns the messages of sessions into the packets of `shared.session_packets` and back, like `shared.wire.convert`.

What a message can leave out depends on those before it in its stream: the number after the last one, the time since the
last one, labels that were sent once. So each direction of a stream has a writer and a reader that remember as much.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import grpc
from pydantic import ValidationError

from shared.errors import RemoteError, RemoteRejectedError, RequestError
from shared.session_packets import (
    NUMBER_MAX,
    Answered,
    Compression,
    FrameReply,
    NeedIntra,
    Outcome,
    Received,
    RefineAsked,
    Refused,
    Replies,
    Results,
    SameAs,
    SentFrame,
    SessionOpen,
    SessionReady,
)
from shared.times import captured_at_number, captured_at_of
from shared.types import TaskInfo, TaskResult
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert

_REPLIES: dict[Replies, pb.ReplyPolicy] = {
    "all": pb.REPLIES_ALL,
    "changes": pb.REPLIES_CHANGES,
    "none": pb.REPLIES_NONE,
}
_REPLIES_BACK = {number: name for name, number in _REPLIES.items()}

_COMPRESSIONS: dict[Compression, pb.Compression] = {
    "none": pb.COMPRESSION_NONE,
    "gzip": pb.COMPRESSION_GZIP,
    "deflate": pb.COMPRESSION_DEFLATE,
}
_COMPRESSIONS_BACK = {number: name for name, number in _COMPRESSIONS.items()}

_ALSO_MAX = 1024

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def open_message(opened: SessionOpen) -> pb.SessionRequest:
    """The first message of a session."""
    wanted = opened.wanted
    message = pb.SessionOpen(
        fingerprint=opened.fingerprint,
        session=opened.session,
        camera=opened.camera,
        h=opened.grid[0],
        w=opened.grid[1],
        tasks=convert.query_messages(wanted),
        top_k=wanted.top_k,
        maps=convert.MAPS[wanted.maps],
        replies=_REPLIES[opened.replies],
        compression=_COMPRESSIONS[opened.compression],
        details=opened.details,
        answers_wait_ms=opened.answers_wait_ms,
    )
    return pb.SessionRequest(open=message)


def open_of(message: pb.SessionOpen) -> SessionOpen:
    """What a session opens with. Raises RequestError or StreamTooLargeError."""
    wanted = convert.wanted_of(message)
    replies, compression = _REPLIES_BACK.get(message.replies), _COMPRESSIONS_BACK.get(message.compression)
    if replies is None:
        raise RequestError(f"replies: {message.replies} is no ReplyPolicy that this server knows")
    if compression is None:
        raise RequestError(f"compression: {message.compression} is none that this server knows")
    try:
        return SessionOpen(
            fingerprint=message.fingerprint,
            session=message.session,
            camera=message.camera,
            grid=(message.h, message.w),
            wanted=wanted,
            replies=replies,
            compression=compression,
            details=message.details,
            answers_wait_ms=message.answers_wait_ms,
        )
    except ValidationError as error:
        raise RequestError(convert.first_of(error)) from None


def ready_message(ready: SessionReady) -> pb.SessionResponse:
    message = pb.SessionReady(
        bundle=ready.bundle,
        tasks=[pb.Task(name=t.name, kind=t.kind, labels=t.labels) for t in ready.tasks],
        base_tasks=ready.base_tasks,
        references_max=ready.references_max,
        frames_max=ready.frames_max,
        idle_ms=ready.idle_ms,
    )
    return pb.SessionResponse(ready=message)


def ready_of(message: pb.SessionReady) -> SessionReady:
    """Raises RemoteError where it holds something that this version does not know."""
    try:
        return SessionReady(
            bundle=message.bundle,
            tasks=tuple(
                TaskInfo.model_validate({"name": t.name, "kind": t.kind, "labels": tuple(t.labels)})
                for t in message.tasks
            ),
            base_tasks=tuple(message.base_tasks),
            references_max=message.references_max,
            frames_max=message.frames_max,
            idle_ms=message.idle_ms,
        )
    except ValidationError as error:
        raise RemoteError(
            f"the cloud's answer to the session cannot be read: {convert.first_of(error)}"
        ) from None


class _Numbers:
    """Numbers of which 0 stands for the one after the last, or after some that are skipped."""

    def __init__(self) -> None:
        self._last = 0

    def write(self, number: int, skipped: int = 0) -> int:
        short = 0 if number == self._last + 1 + skipped else number
        self._last = number
        return short

    def read(self, number: int, skipped: int = 0) -> int:
        """Raises RequestError beyond the last number there is."""
        self._last = number or self._last + 1 + skipped
        if self._last > NUMBER_MAX:
            raise RequestError(f"a session has at most {NUMBER_MAX} frames; open another one")
        return self._last


class FrameWriter:
    """The frames of one stream as messages, in the order in which they are sent."""

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self._captured = 0

    def message(self, frame: SentFrame) -> pb.SessionRequest:
        """Raises RequestError for a capture time without a zone or not after the start of 1970."""
        captured = captured_at_number(frame.captured_at)
        message = pb.SessionFrame(number=self._numbers.write(frame.number), data=frame.data)
        if captured and self._captured:
            message.captured_after = captured - self._captured
        elif captured:
            message.captured_at = captured
        self._captured = captured or self._captured
        return pb.SessionRequest(frame=message)


class FrameReader:
    """The frames of one stream of messages, in the order in which they come."""

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self._captured = 0

    def frame(self, message: pb.SessionFrame) -> SentFrame:
        """Raises RequestError for a number or a time out of range."""
        number = self._numbers.read(message.number)
        return SentFrame(number, message.data, self._time(message))

    def _time(self, message: pb.SessionFrame) -> datetime | None:
        captured = message.captured_at
        if not captured and message.HasField("captured_after"):
            if not self._captured:
                raise RequestError("captured_after: no frame before this one had a time; send captured_at")
            captured = self._captured + message.captured_after
            if captured <= 0:
                raise RequestError("captured_after: the time is not after 1970-01-01T00:00:00 UTC")
        when = captured_at_of(captured)
        self._captured = captured or self._captured
        return when


class ReplyWriter:
    """The answers of one stream as messages, in the order in which they are sent. tasks: those of its SessionReady."""

    def __init__(self, tasks: tuple[TaskInfo, ...]) -> None:
        self._numbers = _Numbers()
        self._order = [task.name for task in tasks]

    def message(self, reply: FrameReply | RefineAsked, also: int = 0) -> pb.SessionResponse:
        """also: frames right before it that have the same answer, which is SameAs or Received."""
        if isinstance(reply, RefineAsked):
            return pb.SessionResponse(refine=pb.RefineFrame(number=reply.number))
        message = pb.FrameAnswer(number=self._numbers.write(reply.number, also), also=also)
        match reply.outcome:
            case Answered(results, missing):
                message.results.SetInParent()
                message.results.results.extend(
                    _without_names(convert.result_message(name, results[name]))
                    for name in self._order
                    if name in results
                )
                message.missing.extend(missing)
            case SameAs(number):
                message.same_as = number
            case NeedIntra():
                message.need_intra = True
            case Received():
                message.received = True
            case Refused(error):
                message.error.CopyFrom(convert.error_message(error))
        if reply.bytes is not None:
            message.bytes.CopyFrom(convert.count_message(reply.bytes))
        if reply.times is not None:
            message.times.CopyFrom(convert.times_message(reply.times))
        return pb.SessionResponse(answer=message)


class ReplyReader:
    """The answers of one stream of messages, in the order in which they come. ready: the first of them."""

    def __init__(self, ready: SessionReady) -> None:
        self._numbers = _Numbers()
        self._tasks = ready.tasks

    def replies(self, message: pb.SessionResponse) -> list[FrameReply | RefineAsked]:
        """One, or several where one message answers several frames, in the order of their numbers.

        Raises RemoteError where it is not one that a cloud of this version gives.
        """
        which = message.WhichOneof("message")
        if which == "refine":
            return [RefineAsked(message.refine.number)]
        if which != "answer":
            raise RemoteError("the cloud sent a message that is unknown here; update this edge")
        answer = message.answer
        try:
            number = self._numbers.read(answer.number, answer.also)
            outcome = self._outcome(answer)
            last = FrameReply(
                number,
                outcome,
                convert.count_of(answer.bytes) if answer.HasField("bytes") else None,
                convert.times_of(answer.times) if answer.HasField("times") else None,
            )
            if answer.also and (not isinstance(outcome, SameAs | Received) or answer.also > _ALSO_MAX):
                raise RequestError(f"one answer for {answer.also + 1} frames that cannot share it")
            return [*(FrameReply(number - n, outcome) for n in range(answer.also, 0, -1)), last]
        except ValidationError as error:
            raise RemoteError(f"the cloud's answer cannot be read: {convert.first_of(error)}") from None
        except RequestError as error:
            raise RemoteError(f"the cloud's answer cannot be read: {error}") from None

    def _outcome(self, answer: pb.FrameAnswer) -> Outcome:
        match answer.WhichOneof("outcome"):
            case "results":
                return Answered(self._results(answer), tuple(answer.missing))
            case "same_as":
                return SameAs(answer.same_as)
            case "need_intra":
                return NeedIntra()
            case "received":
                return Received()
            case "error":
                code = _CODES.get(answer.error.code, "UNKNOWN")
                return Refused(RemoteRejectedError(code, answer.error.text))
        raise RemoteError("the cloud's answer to a frame is unknown here; update this edge")

    def _results(self, answer: pb.FrameAnswer) -> Results:
        there = [task for task in self._tasks if task.name not in answer.missing]
        given = answer.results.results
        if len(given) != len(there):
            raise RemoteError(f"the cloud's answer has {len(given)} results for {len(there)} tasks")
        return {task.name: _named(one, task) for one, task in zip(given, there, strict=True)}


def _labelled(message: pb.TaskResult) -> Any:
    """Those parts of a result that have a label and an index; empty if its kind has none."""
    member = message.WhichOneof("result")
    part = getattr(message, member) if member else None
    return getattr(part, "top", None) or getattr(part, "areas", None) or ()


def _without_names(message: pb.TaskResult) -> pb.TaskResult:
    message.task = ""
    for one in _labelled(message):
        one.label = ""
    return message


def _named(message: pb.TaskResult, task: TaskInfo) -> TaskResult:
    """The result with its names again. Raises RemoteError for an index beyond the labels."""
    whole = pb.TaskResult()
    whole.CopyFrom(message)
    whole.task = task.name
    for one in _labelled(whole):
        if one.index >= len(task.labels):
            raise RemoteError(f"the cloud's result of {task.name!r} has class {one.index}, which has no label")
        one.label = task.labels[one.index]
    return convert.result_of(whole)
