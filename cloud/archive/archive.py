"""What the cloud received, kept on disk: camera, time, request id, bitstream. Knows no bundle, no model, no request.

    append (event loop, never waits) -> queue, bounded -> writer thread -> SQLite in DIR/archive.sqlite3
    read (any process, also while one writes) <- short transactions, one record in memory at a time

An embedded engine does the hard part, a file that a kill at any moment leaves whole. What is ours is the two bounds:

- bytes: all files together, database, write-ahead log and shared memory. The database has `max_page_count`, which the
  engine itself holds; pages are freed before they are needed, oldest records first, and used again. The log is emptied
  before a transaction that might pass its share; where a reader of another program holds it, what came is dropped.
- age: records past it are deleted, once a minute when nothing arrives. Only a running server does that.

Freed pages are reused, not wiped, and a network file system does not carry a write-ahead log: DIR is a local disk.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.errors import DataError, RequestError

log = logging.getLogger("isthmus.cloud.archive")

FILE = "archive.sqlite3"
LOCK = "archive.lock"
BYTES_MIN = 1 << 20
UNNAMED = "unknown"  # the camera of a request that names none

BUSY_S = 2.0  # how long a write waits for another program's lock
TIDY_EVERY_S = 60.0
WARN_EVERY_S = 60.0

_APPLICATION, _VERSION = 0x49534152, 1  # "ISAR" in the file's header, and the schema below
_PAGE = 4096
_LOG_MAX = 16 << 20  # of the write-ahead log; also a quarter of a small archive
_SMALL_FILES = 128 << 10  # shared memory of the log, and the lock
_ROW = 512  # a record beside its bytes: id, time, camera, request id, index entry
_FIXED = (
    64 << 10
)  # what any transaction may write beside its records: inner pages of the trees, lists of pages
_KEYS = 1000  # rows that a query takes at once

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY,     -- in the order of writing; the lowest is deleted first
    time_us INTEGER NOT NULL,   -- microseconds since 1970, UTC
    camera TEXT NOT NULL,
    request_id TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS records_by_time ON records (time_us);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""


@dataclass(frozen=True)
class Record:
    """One picture as it was received. data: the packed bitstream."""

    camera: str
    received_at: datetime
    request_id: str
    data: bytes


class Archive:
    """The writing side; one process at a time has it. Close it.

    path: a folder, made where it is absent. bytes_max: all its files together; from 64 MiB up, every valid bitstream
    fits, and below that one of more than about an eighth of it is dropped. age_max_s: older records are deleted.
    queue_max, queue_bytes_max: what may wait for the disk; more is dropped.

    Raises DataError where the folder cannot be used, RequestError for a bound out of range.
    """

    def __init__(
        self,
        path: str | Path,
        bytes_max: int,
        age_max_s: float,
        queue_max: int = 1024,
        queue_bytes_max: int = 32 << 20,
    ) -> None:
        if bytes_max < BYTES_MIN:
            raise RequestError(f"an archive of {bytes_max} bytes; it has at least {BYTES_MIN}")
        if not age_max_s > 0:
            raise RequestError(f"an archive of {age_max_s} s; its age is above 0")
        self.path = Path(path)
        self.written = self.dropped = 0
        self.trouble = ""  # why the last batch was not written
        self._age_max_us = int(min(age_max_s * 1e6, 1 << 62))
        self._log_max = min(_LOG_MAX, bytes_max // 4)
        self._pages_max = (bytes_max - self._log_max - _SMALL_FILES) // _PAGE
        self._queue_max, self._queue_bytes_max = queue_max, queue_bytes_max
        self._queue: deque[Record] = deque()
        self._queue_bytes = 0
        self._accepted = self._settled = 0  # settled: written or dropped behind the queue
        self._warned_at, self._not_told = -WARN_EVERY_S, 0
        self._closing = False
        self._changed = threading.Condition()
        self._lock = _locked(self.path)
        self._files: tuple[tuple[int, int] | None, ...] | None = None  # `_there`, behind the last insertion
        try:
            self._db: sqlite3.Connection | None = self._open()
        except sqlite3.Error as error:
            os.close(self._lock)
            raise DataError(f"{self.path / FILE} cannot be used as an archive: {error}") from None
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def append(self, camera: str, received_at: datetime, request_id: str, data: bytes) -> bool:
        """Hand one record to the writer, without waiting. False: dropped and counted. received_at: with its zone."""
        record = Record(camera or UNNAMED, received_at, request_id, data)
        with self._changed:
            why = self._refusal(record)
            if why:
                self._drop(1, why)
                return False
            self._queue.append(record)
            self._queue_bytes += len(data)
            self._accepted += 1
            self._changed.notify_all()
        return True

    def _refusal(self, record: Record) -> str:
        if self._closing:
            return "the archive is closed"
        if _FIXED + _cost(record) > self._log_max:
            return f"a bitstream of {len(record.data)} bytes is too large for an archive of this size"
        if (
            len(self._queue) >= self._queue_max
            or self._queue_bytes + len(record.data) > self._queue_bytes_max
        ):
            return "the disk is slower than what comes"
        return ""

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until what was accepted before this call is on the disk, or dropped. False: not within the time."""
        with self._changed:
            mark = self._accepted
            return self._changed.wait_for(lambda: self._settled >= mark, timeout_s)

    def read(
        self, since: datetime | None = None, until: datetime | None = None, camera: str | None = None
    ) -> Iterator[Record]:
        """As `read` of this module; what still waits for the disk is not in it."""
        return read(self.path, since, until, camera)

    def close(self) -> None:
        """Write what waits, and end. Appending drops from here on."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._lock >= 0:
            os.close(self._lock)

    # What follows runs in the writer thread, but for the first `_open`, and `_drop` under the condition.

    def _run(self) -> None:
        more = True  # a bound that shrank since the last run leaves work at the start
        while True:
            with self._changed:
                if not self._queue and not self._closing and not more:
                    self._changed.wait(TIDY_EVERY_S)
                batch = self._take()
                if not batch and self._closing:
                    break
            more = self._step(batch)
            with self._changed:
                self._settled += len(batch)
                self._changed.notify_all()
        if self._db is not None:
            self._db.close()  # the last connection empties the log into the database

    def _take(self) -> list[Record]:
        """As much of the queue as one transaction may hold, at least one record where there is one."""
        batch: list[Record] = []
        cost = _FIXED
        while self._queue:
            cost += _cost(self._queue[0])
            if batch and cost > self._log_max // 2:
                break
            batch.append(self._queue.popleft())
            self._queue_bytes -= len(batch[-1].data)
        return batch

    def _step(self, batch: list[Record]) -> bool:
        """Write a batch, then do some of what age and size ask. True: more of that is left."""
        unwritten = len(batch)
        try:
            self._look()
            if self._db is None:
                self._db, self._files = self._open(), None
            if batch:
                self._insert(self._db, batch)
                self._files = self._there()
                self.written += unwritten
                self.trouble, unwritten = "", 0
            return self._tidy(self._db)
        except (sqlite3.Error, DataError, OSError) as error:
            self.trouble = f"the disk refused: {error}"
            with self._changed:
                self._drop(unwritten, self.trouble)
            # A connection that met an I/O error may be of no more use; the next step opens another.
            if self._db is not None:
                self._db.close()
                self._db = None
            return False

    def _look(self) -> None:
        """Begin anew where the files were deleted or replaced: what is written to deleted ones is kept by nobody, and
        grows without a bound. Raises DataError or OSError."""
        folder = self._lock >= 0 and _file(self.path / LOCK) != _identity(os.fstat(self._lock))
        files = self._db is not None and self._files is not None and self._files != self._there()
        if folder or files:
            log.error("%s: files of this archive were deleted or replaced; a new one begins", self.path)
            if self._db is not None:
                self._db.close()
                self._db = None
        if folder:
            os.close(self._lock)
            self._lock = -1
        if self._lock < 0:
            self._lock = _locked(self.path)

    def _there(self) -> tuple[tuple[int, int] | None, ...]:
        """Which files the database and its log are. Raises OSError."""
        return tuple(_file(self.path / name) for name in (FILE, f"{FILE}-wal"))

    def _open(self) -> sqlite3.Connection:
        """Raises sqlite3.Error, or DataError for a database of something else."""
        db = sqlite3.connect(self.path / FILE, BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            # Before the first page is written; without effect on a database that exists.
            db.execute(f"PRAGMA page_size = {_PAGE}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                _check(db, self.path)
            db.execute("PRAGMA journal_mode = WAL")
            # FULL: a batch outlives a power cut too. It costs one sync a batch, and only this thread waits for it.
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 0")  # `_transaction` says when
            # Some builds wipe freed pages, which would write each deleted byte once more into the log.
            db.execute("PRAGMA secure_delete = OFF")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA max_page_count = {self._pages_max}")
        except BaseException:
            db.close()
            raise
        return db

    def _insert(self, db: sqlite3.Connection, batch: list[Record]) -> None:
        cost = _FIXED + sum(_cost(record) for record in batch)
        self._free(db, -(-cost // _PAGE))
        rows = [(_microseconds(r.received_at), r.camera, r.request_id, r.data) for r in batch]
        with self._transaction(db, cost):
            db.executemany(
                "INSERT INTO records (time_us, camera, request_id, data) VALUES (?, ?, ?, ?)", rows
            )

    def _free(self, db: sqlite3.Connection, pages: int) -> None:
        """Delete the oldest records until `pages` more fit below the bound."""
        while (excess := _used(db) + pages - self._pages_max) > 0:
            # A little more than needed, so that not every batch deletes.
            enough = max(excess, self._pages_max // 64) * _PAGE
            rows = db.execute(f"SELECT id, length(data) FROM records ORDER BY id LIMIT {_KEYS}").fetchall()
            if not rows:
                return  # an insertion that does not fit all the same is refused by max_page_count
            self._delete(db, rows, enough)

    def _tidy(self, db: sqlite3.Connection) -> bool:
        """One step of ageing, or of giving back what a smaller bound asks. True: call again."""
        before = time.time_ns() // 1000 - self._age_max_us
        query = f"SELECT id, length(data) FROM records WHERE time_us < ? ORDER BY time_us LIMIT {_KEYS}"
        if rows := db.execute(query, (before,)).fetchall():
            self._delete(db, rows, None)
            return True
        size = _pragma(db, "page_count")
        if size <= self._pages_max:
            return False
        self._free(db, 0)
        pages = self._log_share(db) // (8 * _PAGE)
        with self._transaction(
            db, 3 * pages * _PAGE + _FIXED
        ):  # a page that moves, and those that point at it
            db.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.execute(f"PRAGMA max_page_count = {self._pages_max}")
        return _pragma(db, "page_count") < size

    def _delete(self, db: sqlite3.Connection, rows: list[tuple[int, int]], enough_bytes: int | None) -> None:
        """Delete the first of `rows` (id, bytes): as many as one transaction may, or fewer once it is enough."""
        ids, cost, freed = [], _FIXED, 0
        cost_max = self._log_share(db) // 2
        for id_, size in rows:
            # Of a long one the engine changes its list of free pages, and not each page.
            cost += 2 * (min(size, _PAGE) + size // 64 + _ROW)
            if ids and (cost > cost_max or (enough_bytes is not None and freed >= enough_bytes)):
                break
            ids.append((id_,))
            freed += size + _ROW
        with self._transaction(db, cost):
            db.executemany("DELETE FROM records WHERE id = ?", ids)

    @contextmanager
    def _transaction(self, db: sqlite3.Connection, cost: int) -> Iterator[None]:
        """A transaction that writes at most `cost` bytes into the log. Raises sqlite3.Error where they do not fit."""
        wal, share = self.path / f"{FILE}-wal", self._log_share(db)
        if _size(wal) + cost > share:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if _size(wal) + cost > share:
                raise sqlite3.OperationalError("another program has read for long and holds the log")
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _log_share(self, db: sqlite3.Connection) -> int:
        """Bytes that the log may have. Many while an archive shrinks to a new bound, which it does not hold yet."""
        return self._log_max if _pragma(db, "page_count") <= self._pages_max else _LOG_MAX

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._not_told += count
        now = time.monotonic()
        if now - self._warned_at >= WARN_EVERY_S:
            log.warning("%d records not kept (%d in all): %s", self._not_told, self.dropped, why)
            self._warned_at, self._not_told = now, 0


def read(
    path: str | Path,
    since: datetime | None = None,
    until: datetime | None = None,
    camera: str | None = None,
) -> Iterator[Record]:
    """Records with since <= time < until, of one camera or of all, in order of time.

    Each transaction is short, so that a server which writes meanwhile can empty its log; a record that it deletes
    meanwhile is left out. Raises DataError.
    """
    from_us, until_us = _bounds(since, until)
    keys = (
        "SELECT time_us, id, camera FROM records WHERE (time_us, id) > (?, ?) AND time_us < ? "
        f"ORDER BY time_us, id LIMIT {_KEYS}"
    )
    row = "SELECT request_id, data FROM records WHERE id = ? AND time_us = ?"
    with _reading(path) as db:
        last = (from_us, -1)
        while page := db.execute(keys, (*last, until_us)).fetchall():
            for time_us, id_, name in page:
                last = (time_us, id_)
                found = None
                # The camera is chosen here: a search for a rare one would be one long transaction.
                if camera in (None, name):
                    found = db.execute(row, (id_, time_us)).fetchone()
                if found is not None:
                    yield Record(name, _EPOCH + time_us * _MICROSECOND, found[0], bytes(found[1]))


def count(
    path: str | Path,
    since: datetime | None = None,
    until: datetime | None = None,
    camera: str | None = None,
) -> int:
    """How many records `read` would give now. Raises DataError."""
    query = "SELECT count(*) FROM records WHERE time_us >= ? AND time_us < ?"
    bounds: tuple[int | str, ...] = _bounds(since, until)
    if camera is not None:
        query, bounds = f"{query} AND camera = ?", (*bounds, camera)
    with _reading(path) as db:
        return int(db.execute(query, bounds).fetchone()[0])


@contextmanager
def _reading(path: str | Path) -> Iterator[sqlite3.Connection]:
    file = Path(path) / FILE
    if not file.is_file():
        raise DataError(f"no archive at {path}: there is no {FILE} in it")
    try:
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, BUSY_S, isolation_level=None, uri=True)) as db:
            _check(db, Path(path))
            yield db
    except sqlite3.Error as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _check(db: sqlite3.Connection, path: Path) -> None:
    if _pragma(db, "application_id") != _APPLICATION:
        raise DataError(f"{path / FILE} is a database, but no archive")
    if (version := _pragma(db, "user_version")) != _VERSION:
        raise DataError(f"{path} is an archive of version {version}; this release reads version {_VERSION}")


def _locked(path: Path) -> int:
    """The open lock of an archive's folder, which is made. Raises DataError where another process has it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(f"cannot keep an archive in {path}: {error.strerror}") from None
    try:
        fcntl.flock(
            lock, fcntl.LOCK_EX | fcntl.LOCK_NB
        )  # the kernel lets go of it when its process is killed
    except OSError:
        os.close(lock)
        raise DataError(f"{path} is the archive of another process; each server needs its own") from None
    return lock


def _cost(record: Record) -> int:
    """The most that writing a record adds to the database, and to the log: twice its size, for half-filled pages."""
    return 2 * (len(record.data) + _ROW)


def _used(db: sqlite3.Connection) -> int:
    return _pragma(db, "page_count") - _pragma(db, "freelist_count")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _file(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(path.stat())
    except FileNotFoundError:
        return None


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _bounds(since: datetime | None, until: datetime | None) -> tuple[int, int]:
    return (
        -(1 << 62) if since is None else _microseconds(since),
        1 << 62 if until is None else _microseconds(until),
    )


def _microseconds(when: datetime) -> int:
    return (when - _EPOCH) // _MICROSECOND
