"""The file of a spool: records in SQLite, with a write-ahead log synced at each commit. For one thread at a time.

Every method raises sqlite3.Error where the disk refuses or the file is damaged, and OSError.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edge.spool.records import ROW_BYTES, Spooled, Version
from shared.database import Database
from shared.errors import DataError
from shared.files import sync_folder

FILE = "spool.sqlite3"
PAGE = 4096
DISK_RESERVE = 2 << 20  # bytes of the disk that are left for the log
_LOG_PAGES = 256  # of the write-ahead log, before it is emptied into the database
_VERSION = 2
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_COLUMNS = "id, source, bundle, captured_us, spooled_us, wanted, origin, data, crc"
_COST = f"length(data) + length(wanted) + length(origin) + {ROW_BYTES}"
_SCHEMA = (
    """CREATE TABLE frames (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, bundle TEXT NOT NULL,
        captured_us INTEGER, spooled_us INTEGER NOT NULL, wanted TEXT NOT NULL, origin TEXT NOT NULL,
        data BLOB NOT NULL, crc INTEGER NOT NULL)""",
    "CREATE INDEX by_age ON frames (spooled_us)",
)
# Since version 2. files: those of folders whose files are kept, as they were when a frame of them was accepted.
_SCHEMA_2 = (
    """CREATE TABLE files (
        source TEXT NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        PRIMARY KEY (source, file)) WITHOUT ROWID""",
    # One row: the last place (seq) whose frame may have been sent. Of those after it none was.
    "CREATE TABLE sent (seq INTEGER NOT NULL)",
    "INSERT INTO sent VALUES (0)",
    f"PRAGMA user_version = {_VERSION}",
)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file itself is damaged, not that the disk is full or away."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


class Store:
    """Opens the file, or makes it. count, cost: of the records in it. Close it.

    Raises DataError for a file that a later release wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._db = sqlite3.connect(
            self._file, 2.0, isolation_level=None, check_same_thread=False, factory=Database
        )
        # Damaged text is read, so that its record's check finds the damage.
        self._db.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            self._prepare()
            count, cost = self._db.execute(f"SELECT count(*), total({_COST}) FROM frames").fetchone()
        except BaseException:
            self._db.close()
            raise
        self.count, self.cost = int(count), int(cost)

    def close(self) -> None:
        """Empties the log into the database where the disk lets it."""
        with suppress(sqlite3.Error):
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is done in the block is on the disk once it is left, or was not done."""
        before = self.count, self.cost
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self.count, self.cost = before
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def disk_short(self, cost: int) -> bool:
        """Whether records of that cost would leave too little of the disk for the log, without which nothing can be
        deleted either. Pages that are free in the file are used again."""
        (pages,) = self._db.execute("PRAGMA freelist_count").fetchone()
        needed = 2 * cost + 16 * PAGE
        if pages * PAGE >= needed:
            return False
        disk = os.statvfs(self._file.parent)
        return disk.f_bavail * disk.f_frsize < DISK_RESERVE + needed

    def insert(self, one: Spooled) -> None:
        self._db.execute(f"INSERT INTO frames ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", one.row())
        self.count, self.cost = self.count + 1, self.cost + one.frame.cost
        if one.frame.version is not None:
            row = (one.frame.source, one.frame.origin, *one.frame.version)
            self._db.execute("INSERT OR REPLACE INTO files VALUES (?,?,?,?)", row)

    def delete(self, ids: Iterable[str]) -> int:
        """How many of these records there were."""
        return sum(self._delete("id", id_) for id_ in ids)

    def delete_at(self, places: Iterable[int]) -> None:
        """Deletes records by their place in the file, for those whose id may be wrong."""
        for place in places:
            self._delete("seq", place)

    def oldest(self) -> Iterator[tuple[str, int]]:
        """Id and cost of each record, the oldest first."""
        yield from self._db.execute(f"SELECT id, {_COST} FROM frames ORDER BY seq")

    def rows(
        self, newest_first: bool, bundles: Collection[str] | None, limit: int
    ) -> list[tuple[int, tuple[Any, ...]]]:
        """Place and columns (see `spooled_of`) of the first records. bundles: of these fingerprints alone."""
        values: list[Any] = [] if bundles is None else sorted(bundles)
        where = "" if bundles is None else f"WHERE bundle IN ({','.join('?' * len(values))})"
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT seq, {_COLUMNS} FROM frames {where} ORDER BY seq {order} LIMIT ?"
        return [(row[0], row[1:]) for row in self._db.execute(query, (*values, limit))]

    def aged(self, since_us: int, before_us: int) -> list[str]:
        """Records spooled in between."""
        query = "SELECT id FROM frames WHERE spooled_us >= ? AND spooled_us < ?"
        return [row[0] for row in self._db.execute(query, (since_us, before_us))]

    def oldest_us(self, since_us: int) -> int | None:
        """When the oldest record was spooled, of those not before `since_us`."""
        query = "SELECT min(spooled_us) FROM frames WHERE spooled_us >= ?"
        found: int | None = self._db.execute(query, (since_us,)).fetchone()[0]
        return found

    def last_id(self) -> str:
        """The largest of the ids that were made here: those begin with a hexadecimal digit."""
        return str(self._db.execute("SELECT max(id) FROM frames WHERE id < 'g'").fetchone()[0] or "")

    def origins(self, source: str) -> list[str]:
        query = "SELECT origin FROM frames WHERE source = ? AND origin != ''"
        return [row[0] for row in self._db.execute(query, (source,))]

    def last_place(self) -> int:
        """The place of the frame that was put last, also if it has gone."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'frames'").fetchone()
        return 0 if row is None else int(row[0])

    def sent_place(self) -> int:
        return int(self._db.execute("SELECT seq FROM sent").fetchone()[0])

    def set_sent_place(self, place: int) -> None:
        self._db.execute("UPDATE sent SET seq = ?", (place,))

    def files(self, source: str) -> dict[str, Version]:
        """The files of a source that were taken and are remembered."""
        query = "SELECT file, size, mtime_ns FROM files WHERE source = ?"
        return {file: (size, mtime_ns) for file, size, mtime_ns in self._db.execute(query, (source,))}

    def forget(self, source: str, files: Iterable[str]) -> None:
        each = [(source, file) for file in files]
        self._db.executemany("DELETE FROM files WHERE source = ? AND file = ?", each)

    def empty_log(self) -> None:
        """Gives back what the log takes of the disk."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _delete(self, column: str, value: object) -> int:
        query = f"DELETE FROM frames WHERE {column} = ? RETURNING {_COST}"
        gone = self._db.execute(query, (value,)).fetchall()
        self.count, self.cost = self.count - len(gone), self.cost - sum(row[0] for row in gone)
        return len(gone)

    def _prepare(self) -> None:
        db = self._db
        db.execute(f"PRAGMA page_size = {PAGE}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        db.execute("PRAGMA journal_size_limit = 1048576")
        (flaw,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if flaw != "ok":
            error = sqlite3.DatabaseError(flaw)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise DataError(f"{self._file} was written by a later release (version {version})")
        if version < _VERSION:
            db.execute("BEGIN IMMEDIATE")
            for statement in (*(_SCHEMA if version == 0 else ()), *_SCHEMA_2):
                db.execute(statement)
            db.execute("COMMIT")
            sync_folder(self._file.parent)


def set_aside(folder: Path) -> str:
    """Renames a damaged file and what belongs to it. Returns its new name. Raises OSError."""
    number = 1
    while (folder / f"{FILE}.damaged-{number}").exists():
        number += 1
    name = f"{FILE}.damaged-{number}"
    for ending in ("-wal", "-shm", ""):  # the database last: until then a new start finds it and tries again
        with suppress(FileNotFoundError):
            os.rename(folder / (FILE + ending), folder / (name + ending))
    sync_folder(folder)
    return name
