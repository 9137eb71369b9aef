"""An archive of schema 1 or 2: read as it is, migrated by a server, whole at any moment.

schema1.sqlite3 was written by the release before schema 2: 20 requests of two cameras, then one of them sent again
after a restart, an id of "door" used for another image, and the same id from a camera without a name. schema2.sqlite3
is the same, migrated by the release before schema 3.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import cloud.archive.store
from cloud.archive.archive import Archive
from cloud.archive.records import UNNAMED, Record, count, read
from cloud.archive.schema import FILE, VERSION
from cloud.archive.store import BYTES_MIN
from shared.errors import DataError
from support.archives import LONG_S, archive_at, at, on_disk, put, record
from support.processes import ROOT

# Written out, so that a change of today's schema does not change what this was.
SCHEMA_1 = """
CREATE TABLE records (
    id INTEGER PRIMARY KEY, time_us INTEGER NOT NULL, camera TEXT NOT NULL, request_id TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX records_by_time ON records (time_us);
PRAGMA application_id = 1230192978;
PRAGMA user_version = 1;
"""
SCHEMA_2 = """
CREATE TABLE records (
    id INTEGER PRIMARY KEY, received_us INTEGER NOT NULL, camera TEXT NOT NULL, request_id TEXT NOT NULL,
    data BLOB NOT NULL, captured_us INTEGER, copy INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX records_by_time ON records (received_us);
CREATE INDEX records_by_capture ON records (coalesce(captured_us, received_us));
CREATE UNIQUE INDEX records_once ON records (camera, request_id, copy);
PRAGMA application_id = 1230192978;
PRAGMA user_version = 2;
"""


def old_record(i: int) -> Record:
    return Record("door" if i % 2 else "hall", at(i), f"r{i}", i.to_bytes(4, "big") * 50)


OLD = [
    *map(old_record, range(20)),
    replace(old_record(1), received_at=at(30)),
    replace(old_record(3), received_at=at(31), data=b"other"),
    Record(UNNAMED, at(32), "r1", b"unnamed"),
]


@pytest.fixture(params=[1, 2])
def old(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(Path(__file__).with_name(f"schema{request.param}.sqlite3"), kept / FILE)
    return kept


def write_old(path: Path, records: list[Record], schema: int = 1) -> None:
    """An archive of schema 1 or 2, as its release left it; of schema 2, request ids must differ."""
    path.mkdir()
    with closing(sqlite3.connect(path / FILE)) as db:
        db.execute("PRAGMA page_size = 4096")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA_1 if schema == 1 else SCHEMA_2)
        rows = [(int(r.received_at.timestamp() * 1e6), r.camera, r.request_id, r.data) for r in records]
        time = "time_us" if schema == 1 else "received_us"
        db.executemany(f"INSERT INTO records ({time}, camera, request_id, data) VALUES (?, ?, ?, ?)", rows)
        db.commit()


def schema_of(path: Path) -> tuple[int, set[str]]:
    with closing(sqlite3.connect(path / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        return int(db.execute("PRAGMA user_version").fetchone()[0]), names


def test_an_old_archive_is_read_without_being_changed(old: Path) -> None:
    before = (old / FILE).read_bytes()
    assert list(read(old)) == list(read(old, by="received")) == OLD
    assert list(read(old, at(5), at(8), "door")) == [old_record(5), old_record(7)]
    assert count(old, camera="door") == 12
    assert (old / FILE).read_bytes() == before


def test_an_old_archive_is_migrated_and_goes_on(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    new = replace(record(40), captured_at=at(35), chunk="r1")
    with archive_at(old) as archive:
        # Sent again: recorded by the old release, one of them twice.
        put(archive, old_record(0), replace(old_record(1), received_at=at(50)), OLD[-1], OLD[-2], new)
    assert (archive.written, archive.repeated, archive.dropped) == (1, 4, 0)
    assert list(read(old)) == [*OLD, new]
    assert list(read(old, by="received")) == [*OLD, new]
    version, names = schema_of(old)
    assert version == VERSION == 3
    assert names == {"records", "records_by_time", "records_by_capture", "records_once", "records_by_chunk"}
    assert caplog.text == ""
    # A new archive has the same schema, column by column.
    with archive_at(old.parent / "new"):
        pass
    columns = []
    for path in (old, old.parent / "new"):
        with closing(sqlite3.connect(path / FILE)) as db:
            columns.append(db.execute("PRAGMA table_info(records)").fetchall())
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert columns[0] == columns[1]


DIES = """
import os, signal, sqlite3, sys
real, left = sqlite3.connect, [int(sys.argv[2])]

def step():
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def connect(*args, **more):
    db = real(*args, **more)
    db.set_progress_handler(step, 1)
    return db

sqlite3.connect = connect
from cloud.archive.store import Store
from pathlib import Path
Store(Path(sys.argv[1]), 1 << 20, 1e11).open()
print(int(sys.argv[2]) - left[0])
"""


@pytest.mark.parametrize("schema", [1, 2])
def test_a_kill_in_the_middle_of_a_migration_loses_nothing(tmp_path: Path, schema: int) -> None:
    records = [old_record(i) for i in range(300)]
    if schema == 1:  # which has repeats
        records += [replace(old_record(i), received_at=at(300 + i)) for i in range(20)]

    def migrate(path: Path, steps: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", DIES, str(path), str(steps)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    write_old(tmp_path / "whole", records, schema)
    total = int(migrate(tmp_path / "whole", 1 << 40).stdout)  # steps of the engine that it takes
    write_old(tmp_path / "kept", records, schema)
    versions, killed = set(), 0
    for part in (0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.999):
        done = migrate(tmp_path / "kept", int(total * part))
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        killed += done.returncode != 0
        version, _ = schema_of(tmp_path / "kept")  # rolls back what was begun
        versions.add(version)
        assert list(read(tmp_path / "kept")) == records
    assert {schema} <= versions <= {schema, VERSION}
    assert killed >= 4
    with archive_at(tmp_path / "kept", BYTES_MIN):
        pass
    assert schema_of(tmp_path / "kept")[0] == VERSION
    assert list(read(tmp_path / "kept")) == records


@pytest.mark.parametrize("schema", [1, 2])
def test_a_full_archive_stays_below_its_bound_while_it_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: int
) -> None:
    kept = tmp_path / "kept"
    records = [replace(old_record(i), data=bytes(40), request_id=f"{i:064}") for i in range(9000)]
    write_old(kept, records, schema)
    # The bound that this archive fills: a quarter is the log's, some is for small files.
    bound = (on_disk(kept) + (128 << 10)) * 4 // 3
    sizes = []
    real = cloud.archive.store.migrate

    def migrate(db: sqlite3.Connection) -> None:
        db.set_progress_handler(lambda: sizes.append(on_disk(kept)), 100)
        real(db)

    monkeypatch.setattr(cloud.archive.store, "migrate", migrate)
    with archive_at(kept, bound) as archive:
        put(archive, record(9001))
    assert max(sizes) <= bound
    left = list(read(kept))
    assert left == [*records[len(records) - len(left) + 1 :], record(9001)]
    assert len(left) > 4000  # what a record and its entries take has nearly doubled


def test_a_reader_of_an_old_archive_puts_its_migration_off(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.archive.store, "BUSY_S", 0.01)
    reader = read(old)
    seen = [next(reader)]
    with pytest.raises(DataError, match=FILE):
        Archive(old, BYTES_MIN, LONG_S)
    assert [*seen, *reader] == OLD
    with archive_at(old) as archive:
        put(archive, record(100))
    assert list(read(old)) == [*OLD, record(100)]


def test_an_archive_of_a_later_release_is_refused(old: Path) -> None:
    with closing(sqlite3.connect(old / FILE)) as db:
        db.execute("PRAGMA user_version = 4")
    with pytest.raises(DataError, match="schema 4; this release reads 1 to 3"):
        list(read(old))
    with pytest.raises(DataError, match="schema 4"):
        Archive(old, BYTES_MIN, LONG_S)
