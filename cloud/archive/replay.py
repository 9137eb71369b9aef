"""A question put to what an archive holds: its records -> the pipeline of a server -> JSON lines. Knows no network.

    records in order of time -> up to two batches in flight -> Pipeline.analyze -> a line each, in the same order

    {"camera": ..., "time": ..., "request_id": ..., "task": ..., "result": {as the HTTP answer has it}}
    {"camera": ..., "time": ..., "request_id": ..., "task": ..., "error": {"title": ..., "detail": ...}}

The file is written beside its place and renamed at the end: a kill leaves no half of it, and the archive is only read.
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

from cloud.archive.archive import Record, count, read
from cloud.pipeline import Pipeline
from cloud.settings import CloudSettings
from shared.bundle import TASKS, Bundle, task_folders
from shared.errors import DataError, IsthmusError, RequestError, exit_of
from shared.files import writing_atomically
from shared.process.cli import MapFolder, wanted_of
from shared.types import Wanted, check_camera, new_request_id

DEADLINE_MS = 24 * 3600 * 1000  # nobody waits for one picture; a slow batch is no error


@dataclass(frozen=True)
class Question:
    """What is asked of an archive: one task, from `since` (included) to `until` (not), of one camera or of all.

    maps: folder for the maps of a dense task, <time>_<camera>_<request id>_<task>.png; None: no maps.
    """

    archive: Path
    since: datetime
    until: datetime
    camera: str | None
    task: str
    top_k: int = 5
    maps: Path | None = None


@dataclass
class Counts:
    """errors: records that were not answered, by the kind of their problem."""

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.errors.total()


def parse_time(option: str, text: str) -> datetime:
    """ISO 8601 -> UTC; without a zone it is taken as UTC. Raises RequestError."""
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise RequestError(f"{option} {text!r} is no time; give ISO 8601, as 2026-11-22T13:00:00Z") from None


def replay_archive(
    question: Question,
    bundle: Path,
    out: Path,
    force: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 16,
) -> Counts:
    """The whole command: check, load, run with a progress bar on stderr, write `out`.

    Raises before anything is loaded RequestError, UnknownTaskError, BundleError, or DataError where the archive is
    missing or has nothing of that time; and DataError, with `out` written, where not one record could be answered.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    if question.since >= question.until:
        raise RequestError("--from must be before --to")
    check_camera(question.camera or "")
    _check_out(out, force)
    opened = _with_task(bundle, question.task)
    chosen = (question.archive, question.since, question.until, question.camera)
    total = count(*chosen)
    if not total:
        of = f" of camera {question.camera}" if question.camera else ""
        raise DataError(
            f"{question.archive} has no record{of} between {_iso(question.since)} and {_iso(question.until)}"
        )
    folder = MapFolder(question.maps)
    settings = CloudSettings(
        bundle,
        device=device,
        threads=threads,
        batch_max=batch,
        queue_max=2 * batch,
        deadline_ms=DEADLINE_MS,
        answers_kept=1,
    )
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with (
            writing_atomically(out) as file,
            Progress(*columns, console=console, disable=not console.is_terminal) as bar,
        ):
            shown = bar.add_task(question.task, total=total)
            counts = asyncio.run(
                _run(opened, settings, question, read(*chosen), file, folder, lambda: bar.advance(shown))
            )
            if not counts.answered and not counts.failed:
                raise DataError(
                    f"the records of {question.archive} were deleted meanwhile: too old, or too many"
                )
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}") from None
    if not counts.answered:
        [(title, _)] = counts.errors.most_common(1)
        raise DataError(
            f"none of {counts.failed} records could be answered (mostly: {title}); {out} says why"
        )
    return counts


def _with_task(path: Path, name: str) -> Bundle:
    """The bundle with no added task but the one that is asked for: others may be damaged, or go meanwhile.

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
    settings: CloudSettings,
    question: Question,
    records: Iterable[Record],
    file: IO[bytes],
    folder: MapFolder,
    advance: Callable[[], None],
) -> Counts:
    from cloud.engine.load import load

    loaded = await asyncio.to_thread(load, bundle, settings.device, settings.threads, settings.encode_threads)
    pipeline = Pipeline(bundle, loaded.model, loaded.encoder, settings)
    try:
        wanted = wanted_of([question.task], question.top_k, question.maps)
        return await replay(pipeline, records, wanted, file, folder, advance)
    finally:
        await pipeline.close()


async def replay(
    pipeline: Pipeline,
    records: Iterable[Record],
    wanted: Wanted,
    file: IO[bytes],
    folder: MapFolder,
    advance: Callable[[], None] = lambda: None,
) -> Counts:
    """Ask the one task of `wanted` of each record, and write a line for each, in order, and its map to `folder`;
    `advance` is called for each line. Raises RequestError where a map cannot be written.

    At most two batches of the pipeline's settings are in flight: one is worked on while the next one forms.
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
            "time": _iso(record.received_at),
            "request_id": record.request_id,
            "task": query.name,
            **outcome.fields,
        }
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        advance()

    try:
        for record in records:
            running.append((record, asyncio.create_task(_ask(pipeline, record, wanted, folder))))
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
    """fields: of the line. title: of the problem, where there is one."""

    fields: dict[str, Any]
    title: str | None = None


async def _ask(pipeline: Pipeline, record: Record, wanted: Wanted, folder: MapFolder) -> Outcome:
    try:
        # An id of its own: two cameras may have chosen the same one.
        analysis = await pipeline.analyze(record.data, wanted, new_request_id())
    except IsthmusError as error:
        title = exit_of(error).title
        return Outcome({"error": {"title": title, "detail": str(error)}}, title)
    picture = f"{record.received_at:%Y%m%dT%H%M%S.%fZ}_{record.camera}_{_short(record.request_id)}"
    [result] = folder.keep(picture, analysis).results.values()
    return Outcome({"result": result.model_dump(mode="json", exclude_none=True)})


def _short(request_id: str) -> str:
    """As a part of a file's name, which may have 255 bytes: a long one ends in a digest of all of it."""
    digest = hashlib.sha256(request_id.encode()).hexdigest()[:8]
    return request_id if len(request_id) <= 64 else f"{request_id[:55]}-{digest}"


def _check_out(out: Path, force: bool) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise RequestError(f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}")
    if out.exists() and not force:
        raise RequestError(f"{out} exists; --force replaces it")


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")
