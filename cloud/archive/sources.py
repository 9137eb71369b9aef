"""Where an archive's records are: its database, its sealed segments, or both. Each part is replayed by itself.

kept/                  the archive of a server: kept/archive.sqlite3, and kept/segments once it was sealed
kept/segments, s3://bucket/cameras, ...   segments alone: a folder, or an address that fsspec knows
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cloud.archive.chunks import ChunkSource
from cloud.archive.records import Head, Record, bounds, reading
from cloud.archive.schema import FILE, Clock
from cloud.segments.head import FOLDER, pending, reading_lock
from shared.errors import DataError

if TYPE_CHECKING:
    from cloud.segments.segment import Facts, Name
    from cloud.segments.store import SegmentStore


class Source(ChunkSource, Protocol):
    """Records that can be read and answered without any others."""

    def read(
        self, since: datetime | None, until: datetime | None, camera: str | None, by: Clock
    ) -> Iterator[Record]:
        """Records with since <= time < until by a clock, of one camera or of all: a database's in order of that time,
        a segment's by camera, in the order of writing."""
        ...

    def count(self, since: datetime | None, until: datetime | None, camera: str | None, by: Clock) -> int:
        """How many records `read` would give now."""
        ...


@dataclass(frozen=True)
class Part:
    """One segment of a store, or the database of an archive's folder. Can be pickled. place: the store or the folder.

    segment: its name; None: the database.
    """

    place: str
    segment: Name | None = None

    @property
    def name(self) -> str:
        return FILE if self.segment is None else str(self.segment)


def parts_of(
    archive: str | Path, since: datetime | None = None, until: datetime | None = None, by: Clock = "captured"
) -> list[Part]:
    """The parts that may hold a record with since <= time < until by a clock: the database first, then the segments.

    Records that are sealed after this call and before the database is read are in none of them; `open_parts` keeps
    sealing waiting. Raises DataError where there is no archive.
    """
    return [part for part, _ in _parts(archive, since, until, by)]


def open_parts(
    archive: str | Path, since: datetime | None = None, until: datetime | None = None, by: Clock = "captured"
) -> Iterator[Source]:
    """Each of `parts_of`, open until the next one is asked for. Raises DataError, also where the archive is being
    sealed."""
    with ExitStack() as until_read:
        if (Path(archive) / FILE).is_file():
            until_read.enter_context(reading_lock(Path(archive)))
        for part in parts_of(archive, since, until, by):
            if part.segment is not None:
                until_read.close()  # segments do not change
            with open_part(part) as source:
                yield source


@contextmanager
def open_part(part: Part) -> Iterator[Source]:
    """A part, to read in one thread. Raises DataError, also inside the block."""
    if part.segment is not None:
        yield _store(part.place).open(part.segment)
        return
    with reading(part.place) as db:
        yield Head(Path(part.place), db)


def count_records(
    archive: str | Path,
    since: datetime | None = None,
    until: datetime | None = None,
    camera: str | None = None,
    by: Clock = "captured",
) -> int:
    """How many records an archive has with since <= time < until by a clock. Raises DataError."""
    from_us, until_us = bounds(since, until)
    total = 0
    for part, facts in _parts(archive, since, until, by):
        first, last = (0, -1) if facts is None else facts.span_us(by)
        if facts is not None and camera is None and from_us <= first and last < until_us:
            total += facts.records
            continue
        with open_part(part) as source:
            total += source.count(since, until, camera, by)
    return total


def _parts(
    archive: str | Path, since: datetime | None, until: datetime | None, by: Clock
) -> Iterator[tuple[Part, Facts | None]]:
    head = (Path(archive) / FILE).is_file()
    place = str(Path(archive) / FOLDER) if head else str(archive)
    found, unfinished = False, ""
    if head:
        with reading(archive) as db:
            sealing = pending(db)
        unfinished = sealing.name if sealing is not None and not sealing.written else ""
        yield Part(str(archive)), None
    if not head or Path(place).is_dir():
        if not head and "://" not in place and not Path(place).is_dir():
            raise _no_archive(archive)
        for name, facts in _store(place).between(*bounds(since, until), by, unfinished):
            found = True
            yield Part(place, name), facts
    if not head and not found and not _store(place).names():
        raise _no_archive(archive)


def _no_archive(archive: str | Path) -> DataError:
    return DataError(f"no archive at {archive}: there is neither {FILE} nor a segment in it")


def _store(place: str) -> SegmentStore:
    from cloud.segments.store import SegmentStore

    return SegmentStore(place)
