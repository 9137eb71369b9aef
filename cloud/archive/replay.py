"""Asks a task of what an archive holds: its records -> the pipeline of a server -> JSON lines. Knows no network.

    records in order of time -> up to two batches in flight -> Pipeline.analyze -> a line each, in the same order

    {"camera": ..., "captured_at": ..., "received_at": ..., "request_id": ..., "task": ..., "result": {...}}
    {"camera": ..., "captured_at": ..., "received_at": ..., "request_id": ..., "task": ..., "error": {...}}

Times are RFC 3339 in UTC; captured_at is null where it is unknown. A result is the one of the HTTP answer, an error has
a title and a detail. The file is written under another name and renamed
at the end: a kill leaves no half of it, and the archive is only read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cloud.archive.records import Record, count, read
from cloud.archive.schema import Clock
from cloud.pipeline import Pipeline
from cloud.settings import EngineSettings, PipelineSettings
from shared.bundle import TASKS, Bundle, task_folders
from shared.errors import DataError, IsthmusError, RequestError, exit_of
from shared.files import writing_atomically
from shared.process.cli import MapFolder, wanted_of
from shared.times import to_rfc3339
from shared.types import Wanted, check_camera, new_request_id

DEADLINE_MS = 24 * 3600 * 1000  # nobody waits for one image; a slow batch is no error


@dataclass(frozen=True)
class ReplayRequest:
    """What is asked of an archive: one task, from `since` (included) to `until` (not), of one camera or of all.

    by: whether both mean capture times, with the reception where those are unknown, or receptions.
    maps: folder for the maps of a dense task, <time>_<camera>_<request id>_<task>.png; None: no maps.
    """

    archive: Path
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


def parse_time(setting: str, text: str) -> datetime:
    """ISO 8601 -> UTC; without a zone it is taken as UTC. Raises RequestError about `setting`."""
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        expected = f"{text!r} is no time; give ISO 8601, as 2026-11-22T13:00:00Z"
        raise RequestError(expected, setting=setting) from None


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
    total, opened = _check(request, bundle, out, force)
    folder = MapFolder(request.maps, force=force)
    engine = EngineSettings.of(device=device, threads=threads)
    settings = PipelineSettings.of(
        batch_max=batch,
        queue_max=2 * batch,
        deadline_ms=DEADLINE_MS,
        answers_kept=1,
    )
    try:
        with writing_atomically(out) as file:
            counts = _answer_all(request, opened, engine, settings, file, folder, total)
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}") from None
    if not counts.answered:
        [(title, _)] = counts.errors.most_common(1)
        raise DataError(
            f"none of {counts.failed} records could be answered (mostly: {title}); {out} says why"
        )
    return counts


def _check(request: ReplayRequest, bundle: Path, out: Path, force: bool) -> tuple[int, Bundle]:
    """How many records there are, and the bundle that answers them. Raises what `replay_archive` raises early."""
    if request.since >= request.until:
        raise RequestError("the start of the time must be before its end", setting="from")
    check_camera(request.camera or "")
    _check_out(out, force)
    opened = _with_task(bundle, request.task)
    total = count(*_chosen(request))
    if not total:
        camera = f" of camera {request.camera}" if request.camera else ""
        span = f"{to_rfc3339(request.since)} and {to_rfc3339(request.until)}"
        raise DataError(f"{request.archive} has no record{camera} between {span}, by the time {request.by}")
    return total, opened


def _chosen(request: ReplayRequest) -> tuple[Path, datetime, datetime, str | None, Clock]:
    """What `read` and `count` take."""
    return request.archive, request.since, request.until, request.camera, request.by


def _answer_all(
    request: ReplayRequest,
    bundle: Bundle,
    engine: EngineSettings,
    settings: PipelineSettings,
    file: IO[bytes],
    folder: MapFolder,
    total: int,
) -> Counts:
    """Writes a line for each record, under a progress bar. Raises DataError where no record is left."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    records = read(*_chosen(request))
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task(request.task, total=total)
        counts = asyncio.run(
            _run(bundle, engine, settings, request, records, file, folder, lambda: bar.advance(shown))
        )
    if not counts.answered and not counts.failed:
        raise DataError(f"the records of {request.archive} were deleted meanwhile: too old, or too many")
    return counts


def _with_task(path: Path, name: str) -> Bundle:
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
    settings: PipelineSettings,
    request: ReplayRequest,
    records: Iterable[Record],
    file: IO[bytes],
    folder: MapFolder,
    advance: Callable[[], None],
) -> Counts:
    from cloud.engine.load import load

    loaded = await asyncio.to_thread(load, bundle, engine.device, engine.threads, engine.encode_threads)
    pipeline = Pipeline(bundle, loaded.model, loaded.encoder, settings)
    try:
        wanted = wanted_of([request.task], request.top_k, request.maps)
        return await replay(pipeline, records, wanted, file, folder, request.by, advance)
    finally:
        await pipeline.close()


async def replay(
    pipeline: Pipeline,
    records: Iterable[Record],
    wanted: Wanted,
    file: IO[bytes],
    folder: MapFolder,
    by: Clock = "captured",
    advance: Callable[[], None] = lambda: None,
) -> Counts:
    """Asks the one task of `wanted` of each record, and writes a line for each, in order, and its map to `folder`.

    by: the clock that maps are named by. advance: called after each line.

    At most two batches of the pipeline's settings are in flight: one is worked on while the next one forms. Raises
    RequestError where a map cannot be written.
    """
    [query] = wanted.tasks
    counts = Counts()
    running: deque[tuple[Record, asyncio.Task[Outcome]]] = deque()

    async def settle() -> None:
        record, running_task = running.popleft()
        outcome = await running_task
        if outcome.title is None:
            counts.answered += 1
        else:
            counts.errors[outcome.title] += 1
        line = {
            "camera": record.camera,
            "captured_at": record.captured_at and to_rfc3339(record.captured_at),
            "received_at": to_rfc3339(record.received_at),
            "request_id": record.request_id,
            "task": query.name,
            **outcome.fields,
        }
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        advance()

    try:
        for record in records:
            running.append((record, asyncio.create_task(_ask(pipeline, record, wanted, folder, by))))
            if len(running) >= 2 * pipeline.settings.batch_max:
                await settle()
        while running:
            await settle()
    finally:
        for _, left in running:
            left.cancel()
    return counts


@dataclass(frozen=True)
class Outcome:
    """One record's answer. fields: of its line. title: its problem's, where there is one."""

    fields: dict[str, Any]
    title: str | None = None


async def _ask(pipeline: Pipeline, record: Record, wanted: Wanted, folder: MapFolder, by: Clock) -> Outcome:
    try:
        # An id of its own: two cameras may have chosen the same one.
        analysis = await pipeline.analyze(record.data, wanted, new_request_id())
    except IsthmusError as error:
        title = exit_of(error).title
        return Outcome({"error": {"title": title, "detail": str(error)}}, title)
    image = f"{record.time(by):%Y%m%dT%H%M%S.%fZ}_{record.camera}_{_short(record.request_id)}"
    [result] = folder.save(image, analysis).results.values()
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
