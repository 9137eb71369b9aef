"""What sealing keeps in an archive's database: which records are on their way. Knows no file of a segment.

    sealing       at most one row: the segment that is being made, in which store, and whether it is written
    sealing_ids   the records that go into it: their id, and a digest of their camera and request id
    sealed_ids    the digests of records that were sealed, the last million: a server records none of them again
    sealed_into   the stores elsewhere that hold records of this archive: what is deleted is deleted there, too

    BEGIN: sealing, sealing_ids -> the segment is written -> UPDATE: written -> records are deleted, some at a time
                                                                             -> sealing is empty again

A kill at any moment leaves a row from which the next command goes on. Until `written` is set the records count and the
segment does not; from then on it is the other way round. Readers hold the lock, so that none sees the change.
A deletion needs no such lock: it goes on during a long replay, which misses what is gone. Sealing waits for both.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloud.archive.schema import FILE, VERSION, transaction, version
from shared.database import Database
from shared.errors import DataError
from shared.files import lock_now

FOLDER = "segments"  # in the archive's; see `seal_archive`
LOCK = "seal.lock"
CHANGE_LOCK = "change.lock"
SEALED_IDS_MAX = 1_000_000
ROWS = 500  # of a transaction
BUSY_S = 30.0
WAIT_S = 600.0  # of a reader for the end of sealing

_TABLES = (
    """CREATE TABLE IF NOT EXISTS sealing (
    name TEXT PRIMARY KEY, store TEXT NOT NULL, written INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE IF NOT EXISTS sealing_ids (id INTEGER PRIMARY KEY, digest BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS sealed_ids (number INTEGER PRIMARY KEY, digest BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS sealed_into (store TEXT PRIMARY KEY)",
    "CREATE UNIQUE INDEX IF NOT EXISTS sealed_ids_by_digest ON sealed_ids (digest)",
)


@dataclass(frozen=True)
class Pending:
    """A segment that is on its way. store: empty for the archive's own folder. written: whether it counts, and the
    records that are left here do not."""

    name: str
    store: str
    written: bool


def digest_of(camera: str, request_id: str) -> bytes:
    return hashlib.sha256(f"{camera}\0{request_id}".encode()).digest()[:16]


@contextmanager
def change_lock(path: Path) -> Iterator[None]:
    """The lock of who seals, deletes or expires: one at a time, while others read. Raises DataError."""
    with _locked(path, CHANGE_LOCK, fcntl.LOCK_EX, 0.0, "is being sealed or deleted from"):
        yield


@contextmanager
def move_lock(path: Path) -> Iterator[None]:
    """The lock of who moves records into a segment, inside `change_lock`: nobody reads them meanwhile. Raises
    DataError."""
    with _locked(path, LOCK, fcntl.LOCK_EX, 0.0, "is being replayed"):
        yield


@contextmanager
def reading_lock(path: Path) -> Iterator[None]:
    """The lock that readers share, who wait for the end of sealing; none where nobody has sealed yet. Raises
    DataError."""
    if not (path / LOCK).exists():
        yield
        return
    with _locked(path, LOCK, fcntl.LOCK_SH, WAIT_S, "is being sealed"):
        yield


@contextmanager
def _locked(path: Path, name: str, kind: int, wait_s: float, what: str) -> Iterator[None]:
    """what: is happening where the lock is taken."""
    try:
        lock = os.open(path / name, os.O_RDONLY if kind == fcntl.LOCK_SH else os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(f"cannot lock {path}: {error.strerror}") from None
    try:
        try:
            held = _held(lock, wait_s, kind)
        except OSError as error:
            raise DataError(f"cannot lock {path}: {error.strerror}") from None
        if not held:
            raise DataError(f"{path} {what}; try again when that has ended")
        yield
    finally:
        os.close(lock)


def _held(lock: int, wait_s: float, kind: int) -> bool:
    """False: not within the time. Raises OSError."""
    until = time.monotonic() + wait_s
    while not lock_now(lock, kind):
        if time.monotonic() >= until:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """An archive's database with the tables of sealing; a server may have it open too. Raises DataError, also for
    sqlite3.Error inside the block."""
    file = path / FILE
    if not file.is_file():
        raise DataError(f"no archive at {path}: there is no {FILE} in it")
    try:
        with closing(sqlite3.connect(file, BUSY_S, isolation_level=None, factory=Database)) as db:
            if version(db, path) != VERSION:
                raise DataError(
                    f"{path} is an archive of an older release; `isthmus cloud serve` brings it up to date"
                )
            db.execute("PRAGMA synchronous = FULL")
            for statement in _TABLES:
                db.execute(statement)
            yield db
    except sqlite3.Error as error:
        raise DataError(f"{file} cannot be written: {error}") from None


def pending(db: sqlite3.Connection) -> Pending | None:
    """The segment that is on its way, if there is one. Raises sqlite3.Error."""
    if not has_tables(db):
        return None
    row = db.execute("SELECT name, store, written FROM sealing").fetchone()
    return None if row is None else Pending(row[0], row[1], bool(row[2]))


def has_tables(db: sqlite3.Connection) -> bool:
    return (
        db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sealed_ids_by_digest'").fetchone() is not None
    )


def sealed_among(db: sqlite3.Connection, records: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of some records, by camera and request id, were sealed already. Raises sqlite3.Error."""
    if not has_tables(db):
        return set()
    query = "SELECT 1 FROM sealed_ids WHERE digest = ?"
    return {one for one in records if db.execute(query, (digest_of(*one),)).fetchone() is not None}


def begin(db: sqlite3.Connection, name: str, store: str, ids: Sequence[tuple[int, bytes]]) -> None:
    """Notes which records go into a segment. ids: of each its id and `digest_of`. Raises sqlite3.Error."""
    with transaction(db):
        db.execute("INSERT INTO sealing (name, store) VALUES (?, ?)", (name, store))
        db.executemany("INSERT INTO sealing_ids VALUES (?, ?)", ids)


def set_written(db: sqlite3.Connection) -> None:
    with transaction(db):
        db.execute("INSERT OR IGNORE INTO sealed_into SELECT store FROM sealing WHERE store != ''")
        db.execute("UPDATE sealing SET written = 1")


def sealed_into(db: sqlite3.Connection) -> list[str]:
    """The stores elsewhere that hold records of an archive. Raises sqlite3.Error."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sealed_into'").fetchone() is None:
        return []
    return [store for (store,) in db.execute("SELECT store FROM sealed_into ORDER BY store")]


def give_up(db: sqlite3.Connection) -> None:
    """The segment was not finished: its records stay as they are."""
    with transaction(db):
        db.execute("DELETE FROM sealing_ids")
        db.execute("DELETE FROM sealing")


def finish(db: sqlite3.Connection) -> None:
    """Deletes the records that the segment holds, some at a time, and remembers their digests."""
    while rows := db.execute(f"SELECT id, digest FROM sealing_ids ORDER BY id LIMIT {ROWS}").fetchall():
        with transaction(db):
            for id_, digest in rows:
                found = db.execute("SELECT camera, request_id FROM records WHERE id = ?", (id_,)).fetchone()
                # Another record may have the id by now: the one that was sealed was too old, and went.
                if found is not None and digest_of(*found) == digest:
                    db.execute("DELETE FROM records WHERE id = ?", (id_,))
            db.executemany(
                "INSERT OR IGNORE INTO sealed_ids (digest) VALUES (?)", ((row[1],) for row in rows)
            )
            db.execute("DELETE FROM sealing_ids WHERE id <= ?", (rows[-1][0],))
    with transaction(db):
        newest = db.execute("SELECT max(number) FROM sealed_ids").fetchone()[0] or 0
        db.execute("DELETE FROM sealed_ids WHERE number <= ?", (newest - SEALED_IDS_MAX,))
        db.execute("DELETE FROM sealing")
