"""A replay of sealed segments into Parquet: segment by segment, each record once. Knows no Parquet.

parts of the archive -> per segment: records that have no answer yet -> `replay` -> AnswerWriter
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloud.archive.chunks import Chunks, Opened
from cloud.archive.frames import FrameReader
from cloud.archive.records import Record
from cloud.archive.replay import Counts, ReplayRequest, check_request, progress, replay
from cloud.archive.sources import Part, Source, open_part, parts_of
from cloud.engine.batch_work import Served
from cloud.requests import queries_of
from cloud.segments.answers import AnswerStore, Key, Maker
from cloud.settings import EngineSettings, PipelineSettings
from shared.bundle import CLOUD, Bundle, tail_file
from shared.errors import DataError
from shared.process.cli import MapFolder, wanted_of
from shared.types import TaskQuery


@dataclass
class AnswerCounts:
    """counts: of this replay. known: records that had an answer. unsealed: records of the database, which stay out."""

    counts: Counts = field(default_factory=Counts)
    known: int = 0
    unsealed: int = 0

    def add(self, other: AnswerCounts) -> None:
        self.counts.answered += other.counts.answered
        self.counts.errors += other.counts.errors
        self.known += other.known


@dataclass(frozen=True)
class SegmentReplay:
    """Replays segments of one request. `answers`: where to."""

    request: ReplayRequest
    served: Served
    query: TaskQuery
    answers: AnswerStore
    folder: MapFolder
    batch: int = 16

    async def run(self, part: Part, advance: Callable[[], None] = lambda: None) -> AnswerCounts:
        """One segment: answers what has no answer yet. Raises DataError, or RequestError where a map cannot be
        written."""
        assert part.segment is not None
        known, done = self.answers.known(part.segment), AnswerCounts()
        writer = self.answers.writer(part.segment)
        opened = self._unanswered(part, known, done, advance)
        try:
            done.counts = await replay(
                self.served, opened, self.query, writer, self.folder, self.batch, self.request.by, advance
            )
        finally:
            writer.flush()  # also where it ends early: the next one goes on from there
        return done

    def _unanswered(
        self, part: Part, known: set[Key], done: AnswerCounts, advance: Callable[[], None]
    ) -> Generator[Opened, None, None]:
        request, served = self.request, self.served
        reader = FrameReader(served.bundle, served.model.codec, PipelineSettings().grid_cells_max)

        def unanswered(source: Source) -> Iterator[Record]:
            for record in source.read(request.since, request.until, request.camera, request.by):
                if (record.camera, record.request_id) in known:
                    done.known += 1
                    advance()
                else:
                    yield record

        with open_part(part) as source:
            yield from Chunks(source, reader).open(unanswered(source))


def replay_into(
    request: ReplayRequest,
    bundle: Path,
    answers: str,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 16,
) -> AnswerCounts:
    """The whole command: checks, loads, answers the sealed records of an archive with a progress bar on stderr.

    answers: folder or address of all answers. device, threads: torch's. batch: images in one batch.

    Raises before anything is loaded RequestError, UnknownTaskError, BundleError, or DataError where nothing is sealed
    of that time, or `answers` holds others'; and DataError where not one record could be answered.
    """
    total, opened = check_request(request, bundle)
    parts = parts_of(request.archive, request.since, request.until, request.by)
    sealed = [part for part in parts if part.segment is not None]
    all_of = AnswerCounts(unsealed=_unsealed(request, parts))
    if total == all_of.unsealed:
        raise DataError(
            f"nothing of that time is sealed in {request.archive}; isthmus cloud archive seal does it"
        )
    store = AnswerStore(answers, maker_of(opened, request))
    store.check()
    engine = EngineSettings.of(device=device, threads=threads)
    with progress(request.task, total - all_of.unsealed) as advance:
        asyncio.run(_run(request, opened, store, engine, batch, sealed, all_of, advance))
    if not all_of.counts.answered and not all_of.known:
        [(title, _)] = all_of.counts.errors.most_common(1)
        raise DataError(f"none of {all_of.counts.failed} records could be answered (mostly: {title})")
    return all_of


async def _run(
    request: ReplayRequest,
    bundle: Bundle,
    store: AnswerStore,
    engine: EngineSettings,
    batch: int,
    parts: Sequence[Part],
    all_of: AnswerCounts,
    advance: Callable[[], None],
) -> None:
    from cloud.engine.load import load

    loaded = await asyncio.to_thread(load, bundle, engine.device, engine.threads, engine.encode_threads)
    [query] = queries_of(bundle, wanted_of([request.task], request.top_k, request.maps))
    folder = MapFolder(request.maps, force=True)  # a replay that goes on meets its own maps
    segments = SegmentReplay(request, Served(bundle, loaded.model), query, store, folder, batch)
    for part in parts:
        all_of.add(await segments.run(part, advance))


def maker_of(bundle: Bundle, request: ReplayRequest) -> Maker:
    """What makes the answers to a request. Raises UnknownTaskError."""
    name = request.task
    added = next((one for one in bundle.added if one.task.name == name), None)
    files = (
        [
            bundle.manifest.files[file].sha256
            for file in (CLOUD, tail_file(name))
            if file in bundle.manifest.files
        ]
        if added is None
        else [added.file.sha256, *([added.tail.sha256] if added.tail else [])]
    )
    asked = (bundle.task(name).model_dump_json(), str(request.top_k), bundle.manifest.fingerprint, *files)
    digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()
    return Maker(name, bundle.fingerprint.hex(), digest)


def _unsealed(request: ReplayRequest, parts: Sequence[Part]) -> int:
    """Records of the time that are asked for which no segment holds yet."""
    heads = [part for part in parts if part.segment is None]
    if not heads:
        return 0
    with open_part(heads[0]) as source:
        return source.count(request.since, request.until, request.camera, request.by)
