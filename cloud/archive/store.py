"""An archive's database within its bounds. For one thread; knows no queue and no server.

- bytes: all files together, database, write-ahead log and shared memory. The database has `max_page_count`, which the
  engine itself holds; pages are freed before they are needed, oldest records first, and used again. The log is emptied
  before a transaction that might pass its share; where another program reads for long, the transaction is refused.
- age: records received longer ago are deleted, some in each step.
- chunks: a record that begins a chunk goes with the whole chunk, and after it, so that what is left can be decoded.
  What is written to the chunk afterwards cannot.

Freed pages are reused, not wiped; `erase` leaves nothing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cloud.archive.deletion import Deletion, erase
from cloud.archive.encrypting import check_key, encrypt
from cloud.archive.encryption import OVERHEAD, ArchiveKey, decrypt
from cloud.archive.records import Record
from cloud.archive.schema import (
    FILE,
    PAGE,
    VERSION,
    columns_of,
    create,
    migrate,
    pages_of_migration,
    pragma,
    transaction,
    version,
)
from cloud.segments.head import sealed_among
from shared.database import Database
from shared.times import to_microseconds

BYTES_MIN = 1 << 20

BUSY_S = 2.0  # how long a write waits for another program's lock
_LOG_MAX = 16 << 20  # of the write-ahead log; also a quarter of a small archive
_SMALL_FILES = 128 << 10  # shared memory of the log, and the lock
# A record without its bytes: id, times, camera, request id, chunk, index entries.
_ROW = 896 + OVERHEAD
_FIXED = 64 << 10  # what any transaction may write without its records: inner pages, lists of pages
# Request ids, capture times and chunks come in any order: a record may change a page of its own in each index of them.
_SCATTERED = 3 * PAGE
KEYS = 1000  # rows that a query takes at once


class Store:
    """Records on the disk, in the folder `path`. Close it.

    bytes_max: all files together, at least BYTES_MIN. age_max_s: since a record was received. key: encrypts what is
    inserted; None for an archive that has no key.
    Every method raises sqlite3.Error where the disk or another program refuses, and OSError; `open` and those that
    open a closed store raise DataError for a database that is no archive of this release, or has another key.
    """

    def __init__(self, path: Path, bytes_max: int, age_max_s: float, key: ArchiveKey | None = None) -> None:
        self.path, self._key = path, key
        self._age_max_us = int(min(age_max_s * 1e6, 1 << 62))
        self._log_max = min(_LOG_MAX, bytes_max // 4)
        self._pages_max = (bytes_max - self._log_max - _SMALL_FILES) // PAGE
        self._db: sqlite3.Connection | None = None
        self._files: tuple[tuple[int, int] | None, ...] | None = None  # `_there`, after the last insertion

    def open(self) -> None:
        """Opens the database, makes it where there is none, and migrates an older one."""
        if self._db is None:
            self._db, self._files = self._connect(), None

    def close(self) -> None:
        """May be called again. The last connection empties the log into the database."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def replaced(self) -> bool:
        """Whether the files were deleted or replaced since the last insertion: nobody would find what is written."""
        return self._db is not None and self._files is not None and self._files != self._there()

    def holds(self, record: Record) -> bool:
        """Whether a record is small enough for an archive of this size."""
        return _FIXED + _log_bytes(record) <= self._log_max

    def batch(self, records: Iterable[Record]) -> int:
        """How many of the first records one transaction may hold; at least one where there is one."""
        count, cost = 0, _FIXED
        for record in records:
            cost += _log_bytes(record)
            if count and cost > self._log_max * 3 // 4:
                break
            count += 1
        return count

    def insert(self, batch: Sequence[Record]) -> tuple[int, list[Record]]:
        """Writes a batch in one transaction; a camera and request id that are recorded already are left as they are.

        Returns how many records are new, and those whose id stands for another bitstream.
        """
        db = self._opened()
        self._free(db, -(-(_FIXED + sum(map(_bytes, batch))) // PAGE))
        new, others = 0, []
        with self._transaction(db, _FIXED + sum(map(_log_bytes, batch))):
            known = sealed_among(db, [(record.camera, record.request_id) for record in batch])
            for record in batch:
                if (record.camera, record.request_id) in known:
                    continue  # repeated: a segment holds it
                if _insert(db, record, self._key):
                    new += 1
                elif not _same(db, record):
                    others.append(record)
        self._files = self._there()
        return new, others

    def tidy(self) -> bool:
        """Takes one step of ageing, or of giving back what a smaller bound asks. True: call again."""
        db = self._opened()
        before = time.time_ns() // 1000 - self._age_max_us
        if self._delete_first(db, "WHERE received_us < ? ORDER BY received_us", (before,), None):
            return True
        size = pragma(db, "page_count")
        if size <= self._pages_max:
            return False
        self._free(db, 0)
        pages = self._log_share(db) // (8 * PAGE)
        # A page that moves, and those that point at it.
        with self._transaction(db, 3 * pages * PAGE + _FIXED):
            # One at a time: Python steps once through a pragma without a column, which is one page whatever it asks.
            for _ in range(min(pages, pragma(db, "freelist_count"))):
                db.execute("PRAGMA incremental_vacuum(1)").fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.execute(f"PRAGMA max_page_count = {self._pages_max}")
        return pragma(db, "page_count") < size

    def erase(self, deletions: Sequence[Deletion]) -> int:
        """Deletes records so that the files hold nothing of them. Returns how many. See `cloud.archive.deletion`.

        Meanwhile the files take up to three times their size.
        """
        count = erase(self._opened(), deletions)
        self._files = self._there()
        return count

    def encrypt(self, key: ArchiveKey) -> int:
        """Encrypts what was inserted without a key. Returns how many records. See `cloud.archive.encrypting`."""
        return encrypt(self._opened(), key)

    def _opened(self) -> sqlite3.Connection:
        self.open()
        assert self._db is not None
        return self._db

    def _there(self) -> tuple[tuple[int, int] | None, ...]:
        """Which files the database and its log are."""
        return tuple(identity(self.path / name) for name in (FILE, f"{FILE}-wal"))

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.path / FILE, BUSY_S, isolation_level=None, check_same_thread=False, factory=Database
        )
        try:
            # Before the first page is written; without effect on a database that exists.
            db.execute(f"PRAGMA page_size = {PAGE}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            found = version(db, self.path)
            # FULL: a batch outlives a power cut too. It costs one sync a batch, and only one thread waits for it.
            db.execute("PRAGMA synchronous = FULL")
            # Some builds wipe freed pages, which would write each deleted byte once more into the log.
            db.execute("PRAGMA secure_delete = OFF")
            _log_on(db)
            if not found:
                create(db)
            elif found < VERSION:
                self._migrate(db)
            check_key(db, self._key)
            db.execute(f"PRAGMA max_page_count = {self._pages_max}")
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Brings an older schema to this release's. New indices take the place of the oldest records if they must."""
        while (used := _used(db)) + (needed := pages_of_migration(db)) > self._pages_max:
            # A record that goes needs no index entry either: records and entries shrink by the same share.
            share = self._pages_max / (used + needed)
            self._free(db, self._pages_max - int(used * share))
        db.execute(f"PRAGMA max_page_count = {self._pages_max}")
        migrate(db)
        _log_on(db)

    def _free(self, db: sqlite3.Connection, pages: int) -> None:
        """Deletes the oldest records until `pages` more fit below the bound."""
        while (excess := _used(db) + pages - self._pages_max) > 0:
            # A little more than needed, so that not every batch deletes.
            enough = max(excess, self._pages_max // 64) * PAGE
            if not self._delete_first(db, "ORDER BY id", (), enough):
                return  # an insertion that does not fit all the same is refused by max_page_count

    def _delete_first(
        self, db: sqlite3.Connection, order: str, values: tuple[int, ...], enough_bytes: int | None
    ) -> bool:
        """Deletes the first records of an order: as many as one transaction may, or fewer once it is enough, but whole
        chunks, for which it takes as many transactions as they need. False: there is no record."""
        chunk = columns_of(db, self.path).chunk
        query = f"SELECT id, length(data), camera, request_id, {chunk} FROM records {order} LIMIT {KEYS}"
        unfinished = True
        while unfinished:
            rows = db.execute(query, values).fetchall()
            if not rows:
                return False
            alone = ((id_, size, True) for id_, size, *_ in rows)
            unfinished = self._delete(db, alone if chunk == "NULL" else _with_chunks(db, rows), enough_bytes)
        return True

    def _delete(
        self, db: sqlite3.Connection, rows: Iterator[tuple[int, int, bool]], enough_bytes: int | None
    ) -> bool:
        """One transaction of deleting `rows`: id, bytes, whether its chunk ends here. True: it ended in a chunk."""
        ids: list[tuple[int]] = []
        cost, freed, whole = _FIXED, 0, True
        cost_max = self._log_share(db) * 3 // 4
        for id_, size, last in rows:
            # Of a long one the engine changes its list of free pages, and not each page.
            cost += 2 * (min(size, PAGE) + size // 64 + _ROW) + _SCATTERED
            enough = whole and enough_bytes is not None and freed >= enough_bytes
            if ids and (cost > cost_max or enough):
                break
            ids.append((id_,))
            freed += size + _ROW
            whole = last
        with self._transaction(db, cost):
            db.executemany("DELETE FROM records WHERE id = ?", ids)
        return not whole

    @contextmanager
    def _transaction(self, db: sqlite3.Connection, cost: int) -> Iterator[None]:
        """A transaction that writes at most `cost` bytes into the log. Raises sqlite3.Error where they do not fit."""
        wal, share = self.path / f"{FILE}-wal", self._log_share(db)
        if _size(wal) + cost > share:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if _size(wal) + cost > share:
                raise sqlite3.OperationalError("another program has read for long and holds the log")
        with transaction(db):
            yield

    def _log_share(self, db: sqlite3.Connection) -> int:
        """Bytes that the log may have. Many while an archive shrinks to a new bound, which it does not hold yet."""
        return self._log_max if pragma(db, "page_count") <= self._pages_max else _LOG_MAX


def identity(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to, None if there is none. Raises OSError."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def _log_on(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # `_transaction` says when


def _with_chunks(
    db: sqlite3.Connection, rows: list[tuple[int, int, str, str, str | None]]
) -> Iterator[tuple[int, int, bool]]:
    """Each of `rows` (id, bytes, camera, request id, chunk) after the chunk that begins with it, the last record first.

    Gives id, bytes, and whether it is the last of its chunk to go.
    """
    query = f"""SELECT id, length(data) FROM records
                WHERE camera = ? AND chunk = ? AND id != ? ORDER BY id DESC LIMIT {KEYS}"""
    seen = set()
    for id_, size, camera, request_id, chunk in rows:
        members = db.execute(query, (camera, request_id, id_)).fetchall() if chunk is None else []
        for member, member_size in members:
            seen.add(member)
            yield member, member_size, False
        if len(members) == KEYS:
            return  # the next transaction goes on with this chunk
        if id_ not in seen:
            yield id_, size, True


def _insert(db: sqlite3.Connection, record: Record, key: ArchiveKey | None) -> bool:
    """False: the camera and the request id are recorded already."""
    captured = None if record.captured_at is None else to_microseconds(record.captured_at)
    received, chunk = to_microseconds(record.received_at), record.chunk or None
    data = record.data
    if key is not None:
        data = key.encrypt(data, record.camera, record.request_id, received)
    row = (received, captured, record.camera, record.request_id, data, chunk)
    done = db.execute(
        "INSERT INTO records (received_us, captured_us, camera, request_id, data, chunk) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (camera, request_id, copy) DO NOTHING",
        row,
    )
    return done.rowcount == 1


def _same(db: sqlite3.Connection, record: Record) -> bool:
    """Whether any record of this camera and request id holds the same image, as far as can be seen here: the same
    bitstream, or one of the two is given other frames, which a camera box sends by itself after a break."""
    names = record.camera, record.request_id
    query = "SELECT data, received_us, chunk FROM records WHERE camera = ? AND request_id = ?"
    for data, received, chunk in db.execute(query, names).fetchall():
        if chunk or record.chunk or decrypt(bytes(data), *names, received) == record.data:
            return True
    return False


def _bytes(record: Record) -> int:
    """The most that a record adds to the database: twice its size, for half-filled pages."""
    return 2 * (len(record.data) + _ROW)


def _log_bytes(record: Record) -> int:
    """The most that writing a record adds to the log, which holds whole pages."""
    return _bytes(record) + _SCATTERED


def _used(db: sqlite3.Connection) -> int:
    return pragma(db, "page_count") - pragma(db, "freelist_count")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
