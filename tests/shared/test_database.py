"""A damaged file whose bytes are in SQLite's message."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cloud.archive.records import read
from cloud.archive.schema import FILE
from edge.spool.store import is_damage
from shared.database import Database
from shared.errors import DataError
from support.archives import archive_at, put, record


def damage(path: Path) -> None:
    """A table whose name is no text, and whose definition is none."""
    data = path.read_bytes()
    at = data.index(b"tablerecordsrecords") + len("table")
    data = data[:at] + b"\xff" + data[at + 1 :]
    path.write_bytes(data.replace(b"CREATE TABLE records", b"CREATE TABLX records"))


def test_its_error_is_one_of_sqlite(tmp_path: Path) -> None:
    with archive_at(tmp_path) as archive:
        put(archive, record(0))
    damage(tmp_path / FILE)
    with closing(sqlite3.connect(tmp_path / FILE)) as plain, pytest.raises(UnicodeDecodeError):
        plain.execute("SELECT * FROM records")
    with closing(sqlite3.connect(tmp_path / FILE, factory=Database)) as db:
        with pytest.raises(sqlite3.DatabaseError) as caught:
            db.execute("SELECT * FROM records")
        assert is_damage(caught.value)
    with pytest.raises(DataError, match="damaged"):
        list(read(tmp_path))
    with pytest.raises(DataError, match="damaged"), archive_at(tmp_path):
        pass
