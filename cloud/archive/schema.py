"""The archive's database file: its three schemas, and the way from the first two to the third. Knows no server.

Schema 1 had the reception time alone (`time_us`) and no rule against repeats, schema 2 no `chunk`. Schema 3:

    id            in the order of writing; the lowest is deleted first, with the chunk that begins with it
    received_us   when the server received the bitstream, microseconds since 1970, UTC
    camera, request_id
    data          the packed bitstream
    captured_us   when the camera captured the image, as the client said; NULL: unknown
    copy          0. Of several records of one camera and request id, which schema 1 could hold, all but the last have
                  their own id here
    chunk         the request id of the frame I at the root of this frame's references, of the same camera; NULL: it
                  needs none. The frames of a chunk are decoded in order of id

A camera and a request id together are recorded once: request ids are chosen by clients, and two cameras may choose the
same one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from shared.errors import DataError

FILE = "archive.sqlite3"
VERSION = 3
CHUNKS_SINCE = 3
PAGE = 4096

# Which time of a record counts: "captured" is its capture time where that is known, otherwise its reception.
Clock = Literal["captured", "received"]

_APPLICATION = 0x49534152  # "ISAR", in the file's header
# SQL of the time that a clock goes by, written as in the index, or the index is not used.
_CAPTURED = "coalesce(captured_us, received_us)"
CLOCKS: dict[Clock, str] = {"captured": _CAPTURED, "received": "received_us"}

_ONCE = "CREATE UNIQUE INDEX records_once ON records (camera, request_id, copy)"
_BY_CAPTURE = f"CREATE INDEX records_by_capture ON records ({_CAPTURED})"
_BY_RECEPTION = "CREATE INDEX records_by_time ON records (received_us)"
_BY_CHUNK = "CREATE INDEX records_by_chunk ON records (camera, chunk) WHERE chunk IS NOT NULL"
_STAMP = (f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {VERSION}")

# The columns stand in the order that a migrated archive has them, so that there is one schema 3.
_CREATE = (
    """CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    received_us INTEGER NOT NULL,
    camera TEXT NOT NULL,
    request_id TEXT NOT NULL,
    data BLOB NOT NULL,
    captured_us INTEGER,
    copy INTEGER NOT NULL DEFAULT 0,
    chunk TEXT
)""",
    _BY_RECEPTION,
    _BY_CAPTURE,
    _ONCE,
    _BY_CHUNK,
    *_STAMP,
)

_TO_3 = ("ALTER TABLE records ADD COLUMN chunk TEXT", _BY_CHUNK, *_STAMP)
# New columns cost no rewriting of rows, and the index on time_us follows the column's new name. Only repeats are
# written again. The index of chunks is empty: no earlier release wrote any.
_FROM: dict[int, tuple[str, ...]] = {2: _TO_3}
_FROM[1] = (
    "ALTER TABLE records RENAME COLUMN time_us TO received_us",
    "ALTER TABLE records ADD COLUMN captured_us INTEGER",
    "ALTER TABLE records ADD COLUMN copy INTEGER NOT NULL DEFAULT 0",
    "UPDATE records SET copy = id WHERE id NOT IN (SELECT max(id) FROM records GROUP BY camera, request_id)",
    _BY_CAPTURE,
    _ONCE,
    *_TO_3,
)
_ENTRIES = (
    64  # most bytes that the two indices of schema 2 hold for a record, beside its camera and its request id
)


def version(db: sqlite3.Connection, path: Path) -> int:
    """Schema of an archive, 0 for an empty database. path: the archive's folder, for messages.

    Raises DataError for a database of something else, or an archive of a later release.
    """
    if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return 0
    if pragma(db, "application_id") != _APPLICATION:
        raise DataError(f"{path / FILE} is a database, but no archive")
    found = pragma(db, "user_version")
    if not 1 <= found <= VERSION:
        raise DataError(f"{path} is an archive of schema {found}; this release reads 1 to {VERSION}")
    return found


def create(db: sqlite3.Connection) -> None:
    """An empty archive in an empty database. Raises sqlite3.Error."""
    _run(db, "BEGIN IMMEDIATE", _CREATE)


def migrate(db: sqlite3.Connection) -> None:
    """Brings an older schema to schema 3 in one transaction: a kill at any moment leaves one or the other.

    The caller has made room for `pages_of_migration`. Leaves the database without a write-ahead log. Raises
    sqlite3.Error, also where another program has the archive open.
    """
    # A log would hold each page of the new indices once more, and pass the archive's bound; a rollback journal holds
    # only old pages that change.
    if db.execute("PRAGMA journal_mode = DELETE").fetchone()[0] != "delete":
        raise sqlite3.OperationalError(
            "another program reads it, so it cannot be brought to this release's schema"
        )
    _run(db, "BEGIN EXCLUSIVE", _FROM[pragma(db, "user_version")])


def pages_of_migration(db: sqlite3.Connection) -> int:
    """The most pages by which `migrate` enlarges a database of an older schema."""
    if pragma(db, "user_version") > 1:
        return 16
    query = f"SELECT total(length(camera) + length(request_id) + {_ENTRIES}) FROM records"
    return int(1.1 * db.execute(query).fetchone()[0]) // PAGE + 16


class Columns(NamedTuple):
    """SQL of what an archive of some schema holds about a record; `clocks`: what each clock goes by."""

    received: str = "received_us"
    captured: str = "captured_us"
    chunk: str = "chunk"
    clocks: dict[Clock, str] = CLOCKS


def columns_of(db: sqlite3.Connection, path: Path) -> Columns:
    """The columns of an archive of any schema. Raises DataError."""
    found = version(db, path)
    if found == 1:
        return Columns("time_us", "NULL", "NULL", {"captured": "time_us", "received": "time_us"})
    return Columns(chunk="NULL") if found == 2 else Columns()


@contextmanager
def transaction(db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """A transaction of the block, undone where that is left by an error. Raises sqlite3.Error."""
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _run(db: sqlite3.Connection, begin: str, statements: tuple[str, ...]) -> None:
    with transaction(db, begin):
        for statement in statements:
            db.execute(statement)
