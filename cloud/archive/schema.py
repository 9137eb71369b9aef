"""The archive's database file: its two schemas, and the way from the first to the second. Knows no server.

Schema 1 had the reception time alone (`time_us`) and no rule against repeats. Schema 2:

    id            in the order of writing; the lowest is deleted first
    received_us   when the server received the bitstream, microseconds since 1970, UTC
    camera, request_id
    data          the packed bitstream
    captured_us   when the camera captured the image, as the client said; NULL: unknown
    copy          0. Of several records of one camera and request id, which schema 1 could hold, all but the last have
                  their own id here

A camera and a request id together are recorded once: request ids are chosen by clients, and two cameras may choose the
same one.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal

from shared.errors import DataError

FILE = "archive.sqlite3"
VERSION = 2
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
_STAMP = (f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {VERSION}")

# The columns stand in the order that a migrated archive has them, so that there is one schema 2.
_CREATE = (
    """CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    received_us INTEGER NOT NULL,
    camera TEXT NOT NULL,
    request_id TEXT NOT NULL,
    data BLOB NOT NULL,
    captured_us INTEGER,
    copy INTEGER NOT NULL DEFAULT 0
)""",
    _BY_RECEPTION,
    _BY_CAPTURE,
    _ONCE,
    *_STAMP,
)

# New columns cost no rewriting of rows, and the index on time_us follows the column's new name. Only repeats are
# written again.
_FROM_1 = (
    "ALTER TABLE records RENAME COLUMN time_us TO received_us",
    "ALTER TABLE records ADD COLUMN captured_us INTEGER",
    "ALTER TABLE records ADD COLUMN copy INTEGER NOT NULL DEFAULT 0",
    "UPDATE records SET copy = id WHERE id NOT IN (SELECT max(id) FROM records GROUP BY camera, request_id)",
    _BY_CAPTURE,
    _ONCE,
    *_STAMP,
)
_ENTRIES = 64  # most bytes that the two new indices hold for a record, beside its camera and its request id


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
    """Brings schema 1 to schema 2 in one transaction: a kill at any moment leaves one or the other.

    The caller has made room for `pages_of_migration`. Leaves the database without a write-ahead log. Raises
    sqlite3.Error, also where another program has the archive open.
    """
    # A log would hold each page of the new indices once more, and pass the archive's bound; a rollback journal holds
    # only old pages that change.
    if db.execute("PRAGMA journal_mode = DELETE").fetchone()[0] != "delete":
        raise sqlite3.OperationalError(
            "another program reads it, so it cannot be brought to this release's schema"
        )
    _run(db, "BEGIN EXCLUSIVE", _FROM_1)


def pages_of_migration(db: sqlite3.Connection) -> int:
    """The most pages by which `migrate` enlarges a database of schema 1."""
    query = f"SELECT total(length(camera) + length(request_id) + {_ENTRIES}) FROM records"
    return int(1.1 * db.execute(query).fetchone()[0]) // PAGE + 16


def time_columns(db: sqlite3.Connection, path: Path) -> tuple[str, str, dict[Clock, str]]:
    """SQL of an archive's times, of either schema: received, captured, and what each clock goes by.

    Raises DataError.
    """
    if version(db, path) == 1:
        return "time_us", "NULL", {"captured": "time_us", "received": "time_us"}
    return "received_us", "captured_us", CLOCKS


def pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _run(db: sqlite3.Connection, begin: str, statements: tuple[str, ...]) -> None:
    db.execute(begin)
    try:
        for statement in statements:
            db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
