"""Asks a task of what an archive holds: its records -> the engine of a server -> JSON lines. Knows no network.

    records, part by part -> Chunks: frames that need others are decoded, from the beginning of their chunk
                          -> up to two batches in flight -> Batcher -> a line each, in the same order

    {"camera": ..., "captured_at": ..., "received_at": ..., "request_id": ..., "frame": ..., "task": ..., "result": ...}
    {"camera": ..., "captured_at": ..., "received_at": ..., "request_id": ..., "frame": ..., "task": ..., "error": ...}

Times are RFC 3339 in UTC; captured_at is null where it is unknown. `frame` is its type: I, I base, I refinement, P or
S; I for version 1, and null where it cannot be read. A result is the one of the HTTP answer, an error has a title and a
detail. A frame S repeats the answer of the frame that it names, and no tail runs. A frame without the one that it needs
is an error "Reference missing", one whose base does not answer the task an error "Invalid request".

A database's records come in order of time, a segment's by camera (`cloud.archive.sources`).

The file is written under another name and renamed at the end: a kill leaves no half of it. The archive is only read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Protocol

from cloud.archive.chunks import Chunks, Content, Opened
from cloud.archive.frames import FrameReader, Known
from cloud.archive.schema import Clock
from cloud.archive.sources import count_records, open_parts
from cloud.engine.batch_work import Done, Job, Results, Served, base_tasks_of, work
from cloud.engine.batcher import Batcher
from cloud.requests import queries_of
from cloud.settings import EngineSettings, PipelineSettings
from shared.bundle import TASKS, Bundle, task_folders
from shared.codec.bitstream import Bitstream
from shared.codec.frame_codec import Coded, Latent
from shared.errors import DataError, IsthmusError, RequestError, exit_of
from shared.files import writing_atomically
from shared.process.cli import MapFolder, wanted_of
from shared.times import to_rfc3339
from shared.types import TaskQuery, check_camera

LINE_S = 30.0  # between two lines of progress where there is no terminal
BATCH_WAIT_MS = 50.0  # nobody waits for one image, and frames that are decoded one by one fill a batch slowly


class LineFile(Protocol):
    """Takes lines, each with its end."""

    def write(self, line: bytes, /) -> object: ...


@dataclass(frozen=True)
class ReplayRequest:
    """What is asked of an archive: one task, from `since` (included) to `until` (not), of one camera or of all.

    archive: a server's folder, or a store of segments (see `cloud.archive.sources`).
    by: whether both mean capture times, with the reception where those are unknown, or receptions.
    maps: folder for the maps of a dense task, <time>_<camera>_<request id>_<task>.png; None: no maps.
    """

    archive: str | Path
    since: datetime
    until: datetime
    camera: str | None
    task: str
    top_k: int = 5
    maps: Path | None = None
    by: Clock = "captured"


@dataclass
class Counts:
    """errors: records that were not answered, by the kind of their problem."""

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.errors.total()

    def add(self, outcome: Outcome) -> None:
        if outcome.title is None:
            self.answered += 1
        else:
            self.errors[outcome.title] += 1


def replay_archive(
    request: ReplayRequest,
    bundle: Path,
    out: Path,
    force: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 16,
) -> Counts:
    """The whole command: checks, loads, answers with a progress bar on stderr, writes `out`.

    force: replace `out`. device, threads: torch's. batch: images in one batch.

    Raises before anything is loaded RequestError, UnknownTaskError, BundleError, or DataError where the archive is
    missing or has nothing of that time; and DataError, with `out` written, where not one record could be answered.
    """
    _check_out(out, force)
    total, opened = check_request(request, bundle)
    folder = MapFolder(request.maps, force=force)
    engine = EngineSettings.of(device=device, threads=threads)
    try:
        with writing_atomically(out) as file:
            counts = _answer_all(request, opened, engine, batch, file, folder, total)
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}") from None
    if not counts.answered:
        [(title, _)] = counts.errors.most_common(1)
        raise DataError(
            f"none of {counts.failed} records could be answered (mostly: {title}); {out} says why"
        )
    return counts


def check_request(request: ReplayRequest, bundle: Path) -> tuple[int, Bundle]:
    """How many records there are, and the bundle that answers them. Raises what `replay_archive` raises early."""
    if request.since >= request.until:
        raise RequestError("the start of the time must be before its end", setting="from")
    check_camera(request.camera or "")
    opened = with_task(bundle, request.task)
    total = count_records(*_chosen(request))
    if not total:
        camera = f" of camera {request.camera}" if request.camera else ""
        span = f"{to_rfc3339(request.since)} and {to_rfc3339(request.until)}"
        raise DataError(f"{request.archive} has no record{camera} between {span}, by the time {request.by}")
    return total, opened


def _chosen(request: ReplayRequest) -> tuple[str | Path, datetime, datetime, str | None, Clock]:
    """What `count_records` takes."""
    return request.archive, request.since, request.until, request.camera, request.by


def _answer_all(
    request: ReplayRequest,
    bundle: Bundle,
    engine: EngineSettings,
    batch: int,
    file: IO[bytes],
    folder: MapFolder,
    total: int,
) -> Counts:
    """Writes a line for each record, under a progress bar. Raises DataError where no record is left."""
    with progress(request.task, total) as advance:
        counts = asyncio.run(_run(bundle, engine, request, batch, file, folder, lambda: advance(1)))
    if not counts.answered and not counts.failed:
        raise DataError(f"the records of {request.archive} were deleted meanwhile: too old, or too many")
    return counts


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Progress on stderr with rate and time left: a bar on a terminal, elsewhere a line every LINE_S seconds.

    What it gives advances it by a number of records.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    rate = TextColumn("{task.fields[rate]:,.0f}/s")
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), rate, TimeRemainingColumn())
    said = time.monotonic()
    done, first, started = 0, 0, 0.0  # the rate counts from the first answers: loading is no part of it

    def advance(count: int) -> None:
        nonlocal done, first, said, started
        done, now = done + count, time.monotonic()
        if not started:
            first, started = done, now
        per_s = (done - first) / max(now - started, 1e-3)
        bar.update(shown, advance=count, rate=per_s)
        if bar.disable and now - said >= LINE_S:
            said = now
            left = timedelta(seconds=round((total - done) / per_s)) if per_s else "unknown time"
            print(f"{name}: {done:,} of {total:,}, {per_s:,.0f}/s, {left} left", file=sys.stderr, flush=True)

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task(name, total=total, rate=0.0)
        yield advance


def with_task(path: Path, name: str) -> Bundle:
    """The bundle with no added task except the one asked for: others may be damaged, or vanish meanwhile.

    Raises UnknownTaskError, BundleError.
    """
    bundle = Bundle.open_without_added(path)
    if any(folder.name == name for folder in task_folders(path)):
        return bundle.with_added(bundle.read_added(path / TASKS / name))
    if not any(task.name == name for task in bundle.tasks):
        Bundle.open(path).task(name)
    return bundle


async def _run(
    bundle: Bundle,
    engine: EngineSettings,
    request: ReplayRequest,
    batch: int,
    file: IO[bytes],
    folder: MapFolder,
    advance: Callable[[], None],
) -> Counts:
    from cloud.engine.load import load

    loaded = await asyncio.to_thread(load, bundle, engine.device, engine.threads, engine.encode_threads)
    served = Served(bundle, loaded.model)
    wanted = wanted_of([request.task], request.top_k, request.maps)
    [query] = queries_of(bundle, wanted)
    opened = open_records(request, FrameReader(bundle, loaded.model.codec, PipelineSettings().grid_cells_max))
    return await replay(served, opened, query, file, folder, batch, request.by, advance)


def open_records(request: ReplayRequest, reader: FrameReader) -> Generator[Opened, None, None]:
    """The records that are asked for, with what they say, part by part of the archive. Raises DataError."""
    for source in open_parts(request.archive, request.since, request.until, request.by):
        asked = source.read(request.since, request.until, request.camera, request.by)
        yield from Chunks(source, reader).open(asked)


async def replay(
    served: Served,
    opened: Generator[Opened, None, None],
    query: TaskQuery,
    file: LineFile,
    folder: MapFolder,
    batch: int = 16,
    by: Clock = "captured",
    advance: Callable[[], None] = lambda: None,
) -> Counts:
    """Asks a task of each record, and writes a line for each, in order, and its map to `folder`.

    opened: used in one thread of its own, so that frames are decoded while others are answered. batch: images in one
    batch. by: the clock that maps are named by. advance: called after each line.

    At most two batches are in flight: one is worked on while the next one forms. Raises RequestError where a map cannot
    be written, and DataError where the archive cannot be read.
    """
    answers = _Answers(served, query, batch)
    running: deque[tuple[Opened, asyncio.Task[Outcome]]] = deque()
    counts = Counts()

    async def settle() -> None:
        one, running_task = running.popleft()
        outcome = await running_task
        counts.add(outcome)
        file.write(json.dumps(_line(one, query.name, outcome), ensure_ascii=False).encode() + b"\n")
        advance()

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoding:
        try:
            while one := await loop.run_in_executor(decoding, next, opened, None):
                running.append((one, asyncio.create_task(_ask(answers, one, query.name, folder, by))))
                if len(running) >= 2 * batch:
                    await settle()
            while running:
                await settle()
        finally:
            for _, left in running:
                left.cancel()
            decoding.submit(opened.close)  # the database is closed in the thread that opened it
            await answers.close()
    return counts


def _line(one: Opened, task: str, outcome: Outcome) -> dict[str, Any]:
    record = one.record
    return {
        "camera": record.camera,
        "captured_at": record.captured_at and to_rfc3339(record.captured_at),
        "received_at": to_rfc3339(record.received_at),
        "request_id": record.request_id,
        "frame": one.frame or None,
        "task": task,
        **outcome.fields,
    }


@dataclass(frozen=True)
class Outcome:
    """One record's answer. fields: of its line. title: its problem's, where there is one."""

    fields: dict[str, Any]
    title: str | None = None


class _Answers:
    """Answers contents in batches, each latent that a chunk holds once. Must be made and used in one event loop."""

    def __init__(self, served: Served, query: TaskQuery, batch: int) -> None:
        self._served, self._query = served, query
        self._batcher: Batcher[Job, Done] = Batcher(
            work, lambda job: job.batch_key, batch, BATCH_WAIT_MS, 2 * batch
        )

    async def close(self) -> None:
        await self._batcher.close()

    async def answer(self, content: Content) -> Results:
        """Raises IsthmusError."""
        if not isinstance(content, Known):
            return await self._submit(content)
        if content.answer is None:
            content.answer = asyncio.ensure_future(self._submit(content.latent))
        results: Results = await content.answer
        return results

    async def _submit(self, source: Bitstream | Coded | Latent) -> Results:
        has_z = source.z is not None if isinstance(source, Latent) else getattr(source, "has_z", True)
        if not has_z and self._query.name not in base_tasks_of(self._served.model):
            raise RequestError(
                f"only the base of this frame is here, and it does not answer {self._query.name}"
            )
        done, _ = await self._batcher.submit(Job(source, (self._query,), self._served))
        return done.results


async def _ask(answers: _Answers, one: Opened, task: str, folder: MapFolder, by: Clock) -> Outcome:
    record, content = one.record, one.content
    try:
        if isinstance(content, IsthmusError):
            raise content
        results = await answers.answer(content)
    except IsthmusError as error:
        title = exit_of(error).title
        return Outcome({"error": {"title": title, "detail": str(error)}}, title)
    image = f"{record.time(by):%Y%m%dT%H%M%S.%fZ}_{record.camera}_{_short(record.request_id)}"
    result = folder.save_results(image, {task: results[task]})[task]
    return Outcome({"result": result.model_dump(mode="json", exclude_none=True)})


def _short(request_id: str) -> str:
    """A request id for a file's name, which may have 255 bytes: a long one ends in a digest of all of it."""
    digest = hashlib.sha256(request_id.encode()).hexdigest()[:8]
    return request_id if len(request_id) <= 64 else f"{request_id[:55]}-{digest}"


def _check_out(out: Path, force: bool) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise RequestError(f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}")
    if out.exists() and not force:
        raise RequestError(f"{out} exists; choose another name, or have it replaced", setting="force")
