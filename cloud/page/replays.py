"""Asks an archive a new question while the server serves: one replay at a time, with progress. Knows no transport.

    Replays.start -> count -> open_records -> cloud.archive.replay.replay -> Lines -> progress, newest lines, a file

The last replay stays until the next one starts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field

from cloud.archive.frames import FrameReader
from cloud.archive.replay import ReplayRequest, open_records, replay
from cloud.archive.sources import count_records
from cloud.engine.batch_work import Served
from cloud.page.inspection import using
from cloud.pipeline import Pipeline
from cloud.requests import queries_of
from shared.errors import DataError, IsthmusError, NotFoundError, OverloadedError, RequestError
from shared.frozen import Frozen, Moment
from shared.kinds import KINDS
from shared.process.cli import MapFolder
from shared.times import to_rfc3339
from shared.types import TaskQuery, Wanted, check_camera, new_request_id

log = logging.getLogger("isthmus.cloud.replays")

NEWEST_MAX = 60
LABELS_MAX = 24
FILE_BYTES_MAX = 256 << 20
BATCH = 8  # smaller than a batch of cameras, which a replay must not keep waiting for long

State = Literal["running", "done", "cancelled", "failed"]


class Question(Frozen):
    """What is asked of the archive: one task, since <= time < until, of one camera or of all."""

    task: str = Field(min_length=1, max_length=64)
    since: datetime = Field(description="ISO 8601; UTC where it has no zone")
    until: datetime = Field(description="ISO 8601; UTC where it has no zone")
    camera: str = Field(default="", max_length=64, description="empty: all")
    bundle: str = Field(
        default="",
        pattern="^([0-9a-f]{8})?$",
        description="fingerprint; empty: the default. Frames that were made with another one are errors",
    )


class ReplayLine(Frozen):
    """One record's answer, for a person."""

    camera: str
    at: str = Field(description="capture time, or reception where that is unknown; RFC 3339")
    request_id: str
    lines: tuple[str, ...] = ()
    error: str = ""


class LabelCount(Frozen):
    label: str
    count: int


class Replay(Frozen):
    id: str
    question: Question
    state: State
    why: str = Field(default="", description="of a failed one")
    total: int = Field(description="records of that time when it began")
    answered: int
    failed: int
    errors: dict[str, int] = Field(description="records without an answer, by the problem's title")
    labels: tuple[LabelCount, ...] = Field(description="how many records each best label has, most first")
    newest: tuple[ReplayLine, ...] = Field(description="the last lines, newest first")
    started_at: Moment
    ended_at: Moment | None = None
    whole: bool = Field(description="whether the file of results holds every line")


class _Lines:
    """The file that a replay writes to: counts, keeps the newest lines, and all of them in a file without a name."""

    def __init__(self, kind: str, task: str) -> None:
        self._kind, self._task = KINDS[kind], task
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.newest: deque[ReplayLine] = deque(maxlen=NEWEST_MAX)
        self.file: IO[bytes] = tempfile.TemporaryFile(prefix="isthmus-replay-")  # noqa: SIM115, closed by the next
        self.bytes, self.whole = 0, True

    def write(self, line: bytes) -> int:
        fields: dict[str, Any] = json.loads(line)
        self.newest.appendleft(self._shown(fields))
        if self.bytes + len(line) > FILE_BYTES_MAX:
            self.whole = False
        elif self.whole:
            self.file.write(line)
            self.bytes += len(line)
        return len(line)

    def _shown(self, fields: dict[str, Any]) -> ReplayLine:
        known = {name: fields[name] for name in ("camera", "request_id")}
        known["at"] = fields["captured_at"] or fields["received_at"]
        if "error" in fields:
            error = fields["error"]
            self.errors[error["title"]] += 1
            return ReplayLine(**known, error=f"{error['title']}: {error['detail']}")
        self.answered += 1
        result = self._kind.result.model_validate(fields["result"])
        if best := self._kind.best(result):
            self.labels[best[0]] += 1
        return ReplayLine(**known, lines=tuple(self._kind.lines(result)))


class _Job:
    """One replay at work or ended. Must be used in one event loop."""

    def __init__(self, question: Question, query: TaskQuery, kind: str, total: int) -> None:
        self.id, self.question, self.query, self.total = new_request_id(), question, query, total
        self.lines = _Lines(kind, query.name)
        self.state: State = "running"
        self.why = ""
        self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        self.task: asyncio.Task[None] | None = None

    async def run(
        self, request: ReplayRequest, served: Served, reader: FrameReader, end: Callable[[], Awaitable[None]]
    ) -> None:
        """end: called at the end, whatever it is."""
        ended: State = "cancelled"
        try:
            opened = open_records(request, reader)
            await replay(served, opened, self.query, self.lines, MapFolder(None), BATCH, request.by)
            ended = "done"
        except IsthmusError as error:
            ended, self.why = "failed", str(error)
        except Exception:
            log.exception("replay %s: unexpected error", self.id)
            ended, self.why = "failed", "internal error; the server's log has more"
        finally:
            self.state, self.ended_at = ended, datetime.now(UTC)
            await end()

    def shown(self) -> Replay:
        lines = self.lines
        return Replay(
            id=self.id,
            question=self.question,
            state=self.state,
            why=self.why,
            total=self.total,
            answered=lines.answered,
            failed=lines.errors.total(),
            errors=dict(lines.errors),
            labels=tuple(LabelCount(label=k, count=n) for k, n in lines.labels.most_common(LABELS_MAX)),
            newest=tuple(lines.newest),
            started_at=self.started_at,
            ended_at=self.ended_at,
            whole=lines.whole,
        )


class Replays:
    """The one replay of a server. path: the archive's folder. Must be used in one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._job: _Job | None = None
        self._starting = False

    async def start(self, question: Question, pipeline: Pipeline) -> Replay:
        """Starts one, which keeps its bundle loaded.

        Raises RequestError or a subclass, NotReadyError, DataError where the archive has nothing of that time or cannot
        be read, or OverloadedError while another one runs.
        """
        if self._starting or (self._job is not None and self._job.state == "running"):
            raise OverloadedError("another replay is running; wait for its end, or cancel it")
        self._starting = True
        try:
            async with AsyncExitStack() as stack:
                served = await stack.enter_async_context(using(pipeline, question.bundle))
                request, query, kind = _checked(question, served, self._path)
                total = await self._count(request)
                self._drop()
                job = self._job = _Job(question, query, kind, total)
                reader = FrameReader(served.bundle, served.model.codec, pipeline.settings.grid_cells_max)
                end = stack.pop_all().aclose
                job.task = asyncio.create_task(job.run(request, served, reader, end))
                await asyncio.sleep(0)  # it has begun: cancelled from here on, it ends in good order
                return job.shown()
        finally:
            self._starting = False

    async def _count(self, request: ReplayRequest) -> int:
        """How many records there are. Raises DataError, also for none."""
        total = await asyncio.to_thread(
            count_records, request.archive, request.since, request.until, request.camera, request.by
        )
        if not total:
            span = f"between {to_rfc3339(request.since)} and {to_rfc3339(request.until)}"
            of = f" of camera {request.camera}" if request.camera else ""
            raise DataError(f"the archive has no record{of} {span}")
        return total

    def last(self) -> Replay | None:
        """The one that runs, or the one that ran last."""
        return None if self._job is None else self._job.shown()

    def find(self, id_: str) -> Replay:
        """Raises NotFoundError."""
        return self._find(id_).shown()

    async def cancel(self, id_: str) -> Replay:
        """Stops it, and returns once it has stopped. Raises NotFoundError."""
        job = self._find(id_)
        await _stopped(job)
        return job.shown()

    def results(self, id_: str) -> Iterator[bytes]:
        """The lines so far, as `isthmus cloud replay` writes them. Raises NotFoundError."""
        lines = self._find(id_).lines
        lines.file.flush()
        return _pieces(lines.file, lines.bytes)

    async def close(self) -> None:
        if self._job is not None:
            await _stopped(self._job)
        self._drop()

    def _find(self, id_: str) -> _Job:
        if self._job is None or self._job.id != id_:
            raise NotFoundError(f"there is no replay {id_[:64]} here; a server keeps the last one alone")
        return self._job

    def _drop(self) -> None:
        if self._job is not None:
            self._job.lines.file.close()
            self._job = None


async def _stopped(job: _Job) -> None:
    if job.task is not None and not job.task.done():
        job.task.cancel()
        await asyncio.wait([job.task])


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The first `size` bytes. Reads by position, so that a replay may go on writing."""
    at = 0
    while at < size and not file.closed:
        piece = os.pread(file.fileno(), min(1 << 16, size - at), at)
        if not piece:
            return
        at += len(piece)
        yield piece


def _checked(question: Question, served: Served, path: Path) -> tuple[ReplayRequest, TaskQuery, str]:
    """Raises RequestError or UnknownTaskError."""
    since, until = _utc(question.since), _utc(question.until)
    if since >= until:
        raise RequestError("the start of the time must be before its end")
    check_camera(question.camera)
    [query] = queries_of(served.bundle, Wanted.same([question.task], 5))
    kind = served.bundle.task(question.task).kind
    return ReplayRequest(path, since, until, question.camera or None, question.task), query, kind


def _utc(when: datetime) -> datetime:
    """Raises RequestError."""
    try:
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise RequestError(f"{when} is out of range") from None
