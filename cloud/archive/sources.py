"""Where an archive's records are: its database, its sealed segments, or both. Each part is replayed by itself.

kept/                  the archive of a server: kept/archive.sqlite3, and kept/segments once it was sealed
kept/segments, s3://bucket/cameras, ...   segments alone: a folder, or an address that fsspec knows
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cloud.archive.chunks import ChunkSource
from cloud.archive.records import Head, Record, reading
from cloud.archive.schema import FILE, Clock
from shared.errors import DataError

if TYPE_CHECKING:
    from cloud.segments.segment import Facts, Name
    from cloud.segments.store import SegmentStore

SEGMENTS = "segments"


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
    """The parts that may hold a record with since <= time < until by a clock: segments in order, the database last.

    Raises DataError where there is no archive.
    """
    return [part for part, _ in _parts(archive, since, until, by)]


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
    total = 0
    for part, facts in _parts(archive, since, until, by):
        if facts is not None and camera is None and _inside(facts, since, until, by):
            total += facts.records
            continue
        with open_part(part) as source:
            total += source.count(since, until, camera, by)
    return total


def _parts(
    archive: str | Path, since: datetime | None, until: datetime | None, by: Clock
) -> Iterator[tuple[Part, Facts | None]]:
    head = (Path(archive) / FILE).is_file()
    place = str(Path(archive) / SEGMENTS) if head else str(archive)
    found = False
    if not head or Path(place).is_dir():
        if not head and "://" not in place and not Path(place).is_dir():
            raise _no_archive(archive)
        for name, facts in _store(place).between(since, until, by):
            found = True
            yield Part(place, name), facts
    if head:
        yield Part(str(archive)), None
    elif not found and not _store(place).names():
        raise _no_archive(archive)


def _no_archive(archive: str | Path) -> DataError:
    return DataError(f"no archive at {archive}: there is neither {FILE} nor a segment in it")


def _store(place: str) -> SegmentStore:
    from cloud.segments.store import SegmentStore

    return SegmentStore(place)


def _inside(facts: Facts, since: datetime | None, until: datetime | None, by: Clock) -> bool:
    """Whether every record of a segment is of that time."""
    from shared.times import to_microseconds

    first, last = facts.captured_us if by == "captured" else facts.received_us
    return (since is None or first >= to_microseconds(since)) and (
        until is None or last < to_microseconds(until)
    )
