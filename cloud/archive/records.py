"""What an archive holds, record by record. Reads in any process, also while a server writes; knows no server.

One record is in memory at a time, and each transaction is short.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cloud.archive.encryption import decrypt, is_encrypted
from cloud.archive.schema import CHUNKS_SINCE, FILE, Clock, Columns, columns_of, pragma, version
from cloud.segments.head import pending
from shared.database import Database
from shared.errors import DataError
from shared.times import from_microseconds, to_microseconds

UNNAMED = "unknown"  # the camera of a request that names none

BUSY_S = 2.0  # how long a read waits for another program's lock
KEYS = 1000  # rows that a query takes at once
KEYS_OF_CHUNK = 64  # the same, of rows with their bytes


@dataclass(frozen=True)
class Record:
    """One image as it was received.

    data: the packed bitstream, of version 1 or a packet of version 2; of a damaged encrypted one what is stored.
    captured_at: None if unknown.
    chunk: the request id of the frame I at the root of its references; empty: it needs none. id: its place in the order
    of writing, of a record that was read. encrypted: its form on the disk, where it is stored encrypted.
    """

    camera: str
    received_at: datetime
    request_id: str
    data: bytes
    captured_at: datetime | None = None
    chunk: str = ""
    id: int = field(default=0, compare=False)
    encrypted: bytes = field(default=b"", compare=False, repr=False)

    @classmethod
    def stored(
        cls,
        camera: str,
        received_at: datetime,
        request_id: str,
        data: bytes,
        captured_at: datetime | None,
        chunk: str,
        id_: int,
    ) -> Record:
        """A record as it is stored, decrypted if it must be. Raises DataError where this process has not the key."""
        plain = decrypt(data, camera, request_id, to_microseconds(received_at))
        encrypted = data if is_encrypted(data) else b""
        return cls(camera, received_at, request_id, plain, captured_at, chunk, id_, encrypted)

    def time(self, by: Clock) -> datetime:
        """The time that counts by a clock: see `Clock`."""
        return self.received_at if by == "received" or self.captured_at is None else self.captured_at


def read(
    path: str | Path,
    since: datetime | None = None,
    until: datetime | None = None,
    camera: str | None = None,
    by: Clock = "captured",
) -> Iterator[Record]:
    """Records with since <= time < until by a clock, of one camera or of all, in order of that time.

    A server that writes meanwhile can empty its log; a record that it deletes meanwhile is left out. An archive of an
    older schema is read as it is. Raises DataError.
    """
    from_us, until_us = bounds(since, until)
    with reading(path) as db:
        columns = columns_of(db, Path(path))
        when = columns.clocks[by]
        row = f"{_row(columns)} FROM records WHERE id = ? AND {when} = ?{_not_sealed(db)}"
        for time_us, id_, name in _keys(db, when, from_us, until_us):
            # The camera is chosen here: a search for a rare one would be one long transaction.
            found = db.execute(row, (id_, time_us)).fetchone() if camera in (None, name) else None
            if found is not None:
                yield _record(*found)


def count(
    path: str | Path,
    since: datetime | None = None,
    until: datetime | None = None,
    camera: str | None = None,
    by: Clock = "captured",
) -> int:
    """How many records `read` would give now. Raises DataError."""
    wanted: tuple[int | str, ...] = bounds(since, until)
    with reading(path) as db:
        when = columns_of(db, Path(path)).clocks[by]
        query = f"SELECT count(*) FROM records WHERE {when} >= ? AND {when} < ?{_not_sealed(db)}"
        if camera is not None:
            query, wanted = f"{query} AND camera = ?", (*wanted, camera)
        return int(db.execute(query, wanted).fetchone()[0])


def _not_sealed(db: sqlite3.Connection) -> str:
    """SQL that leaves out records which a segment holds already: a kill kept them from being deleted."""
    sealing = pending(db)
    return " AND id NOT IN (SELECT id FROM sealing_ids)" if sealing is not None and sealing.written else ""


def _keys(db: sqlite3.Connection, when: str, from_us: int, until_us: int) -> Iterator[tuple[int, int, str]]:
    """Time, id and camera of the records with from_us <= time < until_us, in order of time and id, page by page."""
    columns = f"SELECT {when}, id, camera FROM records WHERE"
    # Two searches of the index and not one: a camera whose clock stands still may give many records one time.
    same = f"{columns} {when} = ? AND id > ? ORDER BY id LIMIT {KEYS}"
    later = f"{columns} {when} > ? AND {when} < ? ORDER BY {when}, id LIMIT {KEYS}"
    time_us, id_ = from_us - 1, -1
    while True:
        page = db.execute(same, (time_us, id_)).fetchall() if id_ >= 0 else []
        page = page or db.execute(later, (time_us, until_us)).fetchall()
        if not page:
            return
        before = time_us, id_
        time_us, id_, _ = page[-1]
        # Of a damaged index the same page may come again, for ever.
        if not (isinstance(time_us, int) and isinstance(id_, int) and (time_us, id_) > before):
            raise sqlite3.DatabaseError("the index of times is damaged")
        yield from page


def begins_chunk(db: sqlite3.Connection, record: Record) -> bool:
    """Whether other records refer to this one, or to one that does. db: see `reading`. Raises sqlite3.Error."""
    query = "SELECT 1 FROM records WHERE camera = ? AND chunk = ? LIMIT 1"
    return db.execute(query, (record.camera, record.request_id)).fetchone() is not None


def earlier_in_chunk(db: sqlite3.Connection, record: Record, after: int) -> Iterator[Record]:
    """The records of a record's chunk that were written before it and after the id `after`, in that order, the one that
    the chunk begins with first. db: see `reading`, of a current schema. Raises sqlite3.Error.
    """
    first = f"{_row(Columns())} FROM records WHERE camera = ? AND request_id = ? AND copy = 0 AND id > ? AND id < ?"
    later = f"""{_row(Columns())} FROM records
                WHERE camera = ? AND chunk = ? AND id > ? AND id < ? ORDER BY id LIMIT {KEYS_OF_CHUNK}"""
    if found := db.execute(first, (record.camera, record.chunk, after, record.id)).fetchone():
        yield _record(*found)
    while page := db.execute(later, (record.camera, record.chunk, after, record.id)).fetchall():
        for row in page:
            yield _record(*row)
        after = page[-1][0]


def count_earlier_in_chunk(db: sqlite3.Connection, record: Record) -> int:
    """How many records of a record's chunk were written before it. db: see `reading`. Raises sqlite3.Error."""
    query = "SELECT count(*) FROM records WHERE camera = ? AND chunk = ? AND id < ?"
    return (
        int(db.execute(query, (record.camera, record.chunk, record.id)).fetchone()[0]) if record.chunk else 0
    )


def record_of(db: sqlite3.Connection, id_: int) -> Record | None:
    """The record of that id, if there is one. db: see `reading`, of a current schema. Raises sqlite3.Error."""
    found = db.execute(f"{_row(Columns())} FROM records WHERE id = ?", (id_,)).fetchone()
    return _record(*found) if found else None


@dataclass(frozen=True)
class Head:
    """An archive's database, as a source of records. path: the archive's folder. db: see `reading`."""

    path: Path
    db: sqlite3.Connection

    @property
    def has_chunks(self) -> bool:
        return pragma(self.db, "user_version") >= CHUNKS_SINCE

    def read(
        self, since: datetime | None, until: datetime | None, camera: str | None, by: Clock
    ) -> Iterator[Record]:
        """See `read`."""
        return read(self.path, since, until, camera, by)

    def count(self, since: datetime | None, until: datetime | None, camera: str | None, by: Clock) -> int:
        """See `count`."""
        return count(self.path, since, until, camera, by)

    def begins_chunk(self, record: Record) -> bool:
        """See `begins_chunk`."""
        return begins_chunk(self.db, record)

    def earlier_in_chunk(self, record: Record, after: int) -> Iterator[Record]:
        """See `earlier_in_chunk`."""
        return earlier_in_chunk(self.db, record, after)

    def record_of(self, id_: int) -> Record | None:
        """See `record_of`."""
        return record_of(self.db, id_)


def _row(columns: Columns) -> str:
    return f"SELECT id, camera, request_id, {columns.received}, {columns.captured}, {columns.chunk}, data"


def _record(
    id_: int,
    camera: str,
    request_id: str,
    received_us: int,
    captured_us: int | None,
    chunk: str | None,
    data: bytes,
) -> Record:
    captured_at = None if captured_us is None else from_microseconds(captured_us)
    received_at = from_microseconds(received_us)
    return Record.stored(camera, received_at, request_id, bytes(data), captured_at, chunk or "", id_)


@contextmanager
def reading(path: str | Path) -> Iterator[sqlite3.Connection]:
    """An archive's database, to read. Raises DataError, also for sqlite3.Error inside the block."""
    file = Path(path) / FILE
    if not file.is_file():
        raise DataError(f"no archive at {path}: there is no {FILE} in it")
    try:
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, BUSY_S, isolation_level=None, uri=True, factory=Database)) as db:
            if not version(db, Path(path)):
                raise DataError(f"{file} is an empty database")
            yield db
    except sqlite3.Error as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def bounds(since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """Times as microseconds since 1970; what is not given lies beyond all of them."""
    return (
        -(1 << 62) if since is None else to_microseconds(since),
        1 << 62 if until is None else to_microseconds(until),
    )
