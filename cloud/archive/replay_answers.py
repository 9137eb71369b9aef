"""A replay of sealed segments into Parquet: segment by segment, each record once. Knows no Parquet.

parts of the archive -> those of the shard -> here, or in other processes
per segment: records that have no answer yet -> `replay` -> AnswerWriter
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloud.archive.chunks import Chunks, Opened
from cloud.archive.frames import FrameReader
from cloud.archive.records import Record
from cloud.archive.replay import Counts, ReplayRequest, check_request, progress, replay, with_task
from cloud.archive.sources import Part, Source, open_part, parts_of
from cloud.engine.batch_work import Served
from cloud.requests import queries_of
from cloud.segments.answers import AnswerStore, Key, Maker
from cloud.settings import EngineSettings, PipelineSettings
from shared.bundle import CLOUD, Bundle, tail_file
from shared.errors import DataError, RequestError
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


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of all segments, number 1..count; each segment is in exactly one, also if others come."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """ "2/8". Raises RequestError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise RequestError(
                f"{text!r} is no shard; give the number and how many there are, as 1/8 .. 8/8",
                setting="shard",
            )
        return cls(int(found[1]), int(found[2]))

    def has(self, part: Part) -> bool:
        return zlib.crc32(part.name.encode()) % self.count == self.number - 1


@dataclass(frozen=True)
class Machine:
    """What answers. device, threads: torch's. batch: images in one batch."""

    device: str = "cpu"
    threads: int | None = None
    batch: int = 16


@dataclass(frozen=True)
class SegmentWork:
    """Replays segments in any process: all that it takes can be sent there. bundle: its folder, which must be there."""

    request: ReplayRequest
    bundle: Path
    answers: str
    machine: Machine
    parts: tuple[Part, ...]

    def load(self) -> Callable[[int], AnswerCounts]:
        """Loads the bundle; what it returns answers one of the parts. Raises BundleError or RequestError."""
        replayed = self.replay()
        return lambda at: asyncio.run(replayed.run(self.parts[at]))

    def replay(self) -> SegmentReplay:
        """Loads the bundle. Raises BundleError or RequestError."""
        from cloud.engine.load import load

        request, machine = self.request, self.machine
        opened = with_task(self.bundle, request.task)
        engine = EngineSettings.of(device=machine.device, threads=machine.threads)
        loaded = load(opened, engine.device, engine.threads, engine.encode_threads)
        [query] = queries_of(opened, wanted_of([request.task], request.top_k, request.maps))
        folder = MapFolder(request.maps, force=True)  # a replay that goes on meets its own maps
        store = AnswerStore(self.answers, maker_of(opened, request))
        return SegmentReplay(request, Served(opened, loaded.model), query, store, folder, machine.batch)


RunParts = Callable[[SegmentWork], Iterator[AnswerCounts]]


def replay_into(
    request: ReplayRequest,
    bundle: Path,
    answers: str,
    machine: Machine | None = None,
    shard: Shard | None = None,
    elsewhere: RunParts | None = None,
) -> AnswerCounts:
    """The whole command: checks, loads, answers the sealed records of an archive with a progress bar on stderr.

    answers: folder or address of all answers. machine: what answers. shard: the segments of which it alone answers.
    elsewhere: answers parts in other processes, and gives each part's counts when it is done; None: this one does.

    Raises before anything is loaded RequestError, UnknownTaskError, BundleError, or DataError where nothing is sealed
    of that time, or `answers` holds others'; and DataError where not one record could be answered.
    """
    total, opened = check_request(request, bundle)
    parts = parts_of(request.archive, request.since, request.until, request.by)
    all_of = AnswerCounts(unsealed=_unsealed(request, parts))
    if total == all_of.unsealed:
        raise DataError(
            f"nothing of that time is sealed in {request.archive}; isthmus cloud archive seal does it"
        )
    AnswerStore(answers, maker_of(opened, request)).check()
    chosen = tuple(part for part in parts if part.segment is not None and (shard or Shard()).has(part))
    work = SegmentWork(request, bundle.resolve(), answers, machine or Machine(), chosen)
    with progress(request.task, _records(request, chosen)) as advance:
        if elsewhere is None:
            asyncio.run(_run_here(work, all_of, advance))
        else:
            for counts in elsewhere(work):
                all_of.add(counts)
                advance(counts.known + counts.counts.answered + counts.counts.failed)
    if not all_of.counts.answered and not all_of.known and all_of.counts.failed:
        [(title, _)] = all_of.counts.errors.most_common(1)
        raise DataError(f"none of {all_of.counts.failed} records could be answered (mostly: {title})")
    return all_of


async def _run_here(work: SegmentWork, all_of: AnswerCounts, advance: Callable[[int], None]) -> None:
    if not work.parts:
        return
    segments = await asyncio.to_thread(work.replay)
    for part in work.parts:
        all_of.add(await segments.run(part, lambda: advance(1)))


def _records(request: ReplayRequest, parts: Sequence[Part]) -> int:
    """Records of the time that is asked for in those parts."""
    total = 0
    for part in parts:
        with open_part(part) as source:
            total += source.count(request.since, request.until, request.camera, request.by)
    return total


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
