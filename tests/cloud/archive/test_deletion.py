"""Deletion by camera and time: what goes is in no file of the archive, what stays is whole, a kill changes neither."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import cloud.archive.deletion
from cloud.archive.deletion import Deletion, requested
from cloud.archive.records import Record, count, read
from cloud.archive.schema import FILE
from support.archives import archive_at, at, put, record, wait_until
from support.processes import ROOT, refused, run_here


def content(i: int, size: int = 300) -> bytes:
    """Bytes that are found again: of this record alone, and nowhere else in a database."""
    return random.Random(i).randbytes(size)


def kept(i: int, camera: str = "door", size: int = 300) -> Record:
    return replace(record(i, camera), data=content(i, size))


def fill(path: Path, number: int = 400) -> list[Record]:
    """Two cameras in turn; short and long records, and some that grew old before."""
    records = [kept(i, ("door", "hall")[i % 2], 300 if i % 7 else 9000) for i in range(number)]
    with archive_at(path) as archive:
        put(archive, *records)
    return records


def found(path: Path, record: Record) -> bool:
    """Whether any file of a folder holds some of a record's bytes: rows may lie in pieces, a page apart."""
    pieces = [record.data[i : i + 32] for i in range(0, len(record.data) - 32, 64)]
    everything = b"\0".join(file.read_bytes() for file in path.iterdir())
    return any(piece in everything for piece in pieces)


def delete(path: Path, *more: str, camera: str = "door") -> str:
    done = run_here("cloud", "archive", "delete", "--archive", path, "--camera", camera, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_deleted_row_alone_leaves_its_bytes(tmp_path: Path) -> None:
    records = fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("PRAGMA secure_delete = OFF")  # as the archive has it
        db.execute("DELETE FROM records WHERE camera = 'door'")
        db.commit()
    assert found(tmp_path, records[10])  # so the tests below can fail


def test_deleted_bytes_are_in_no_file(tmp_path: Path) -> None:
    records = fill(tmp_path)
    assert delete(tmp_path).startswith(f"{tmp_path}: 200 records deleted")
    left = [one for one in records if one.camera == "hall"]
    assert list(read(tmp_path)) == left
    assert [one.request_id for one in records if one.camera == "door" and found(tmp_path, one)] == []
    assert all(found(tmp_path, one) for one in left)
    assert requested(tmp_path) == []
    # What is written afterwards is written as ever.
    with archive_at(tmp_path) as archive:
        put(archive, kept(1000))
    assert list(read(tmp_path)) == [*left, kept(1000)]


def test_what_age_deleted_before_is_wiped_too(tmp_path: Path) -> None:
    records = fill(tmp_path)
    with archive_at(tmp_path, age_max_s=1e-6):
        wait_until(lambda: count(tmp_path) == 0)
    assert any(found(tmp_path, one) for one in records)
    delete(tmp_path)
    assert not any(found(tmp_path, one) for one in records)


def test_times_and_patterns_choose(tmp_path: Path) -> None:
    records = fill(tmp_path, 100)
    late = replace(kept(500, "gate-1"), captured_at=at(20))
    with archive_at(tmp_path) as archive:
        put(archive, late)
    span = ["--from", at(10).isoformat(), "--to", at(30).isoformat()]
    assert "10 records would be deleted" in delete(tmp_path, *span, "--dry-run")
    assert len(list(read(tmp_path))) == 101
    assert "10 records deleted" in delete(tmp_path, *span)
    assert "0 records deleted" in delete(tmp_path, *span, "--by", "received", camera="gate-*")
    assert "1 records deleted" in delete(tmp_path, *span, camera="g*-1")
    gone = [one for i, one in enumerate(records) if one.camera == "door" and 10 <= i < 30]
    assert list(read(tmp_path)) == [one for one in records if one not in gone]
    assert not any(found(tmp_path, one) for one in [*gone, late])


def test_a_running_server_deletes_also_what_waits(tmp_path: Path) -> None:
    records = fill(tmp_path)
    with archive_at(tmp_path) as archive:
        put(archive, *(kept(i) for i in range(1000, 1100)))
        delete(tmp_path)
        assert archive.flush(30)
        put(archive, kept(2000))
        assert archive.flush(30)
        assert (archive.dropped, archive.trouble) == (0, "")
        left = [*(one for one in records if one.camera == "hall"), kept(2000)]
        assert list(read(tmp_path)) == left
        gone = [one for one in records if one.camera == "door"]
        assert not any(found(tmp_path, one) for one in [*gone, *(kept(i) for i in range(1000, 1100))])


def test_a_reader_that_holds_the_log_delays_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM records").fetchone()
        told = refused("cloud", "archive", "delete", "--archive", tmp_path, "--camera", "door", status=2)
        assert "not all is deleted yet" in told
        assert "another program has read for long" in told
    assert len(requested(tmp_path)) == 1
    with archive_at(tmp_path):  # the next who opens it finishes
        wait_until(lambda: not requested(tmp_path))
    assert not any(found(tmp_path, one) for one in records if one.camera == "door")


@pytest.mark.parametrize("moment", ["BEGIN", "DELETE", "COMMIT", "VACUUM", "PRAGMA wal_checkpoint", "unlink"])
def test_a_kill_leaves_nothing_half_done(tmp_path: Path, moment: str) -> None:
    """The process kills itself right before a step, and the next one finishes."""
    records = fill(tmp_path, 60)
    script = f"""
import os, signal, sqlite3, sys
from pathlib import Path
import cloud.archive.offline as offline
from cloud.archive import deletion
from support.processes import run_here

def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)

class Dying:
    def __init__(self, db): self.db = db
    def execute(self, text, *rest):
        if text.startswith({moment!r}): die()
        return self.db.execute(text, *rest)

real = deletion.erase
offline.erase = lambda db, deletions: real(Dying(db), deletions)
if {moment!r} == "unlink": Path.unlink = die
from cloud.archive.offline import delete_records
delete_records(Path({str(tmp_path)!r}), deletion.Deletion.of("door", None, None, "captured"), print)
"""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", script], timeout=60, env=env, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    left = [one for one in records if one.camera == "hall"]
    assert list(read(tmp_path)) in (records, left)
    assert len(requested(tmp_path)) == 1
    with archive_at(tmp_path):
        wait_until(lambda: not requested(tmp_path))
    assert list(read(tmp_path)) == left
    assert not any(found(tmp_path, one) for one in records if one.camera == "door")


def test_requests_that_are_none_stop_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    odd = tmp_path / "delete-000.json"
    odd.write_text("{}")
    with archive_at(tmp_path) as archive:
        put(archive, kept(100))
        assert archive.flush(30)
        delete(tmp_path)  # of the server, which is asked for both
        assert [one.camera for one in read(tmp_path)] == ["hall"] * 5
    assert not odd.exists()
    assert odd.with_suffix(".unreadable").read_text() == "{}"
    odd.write_text("{}")
    delete(tmp_path)  # by the command itself
    assert requested(tmp_path) == []


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--camera", ""], "'' is no pattern of cameras: 1 to 64 characters"),
        (["--camera", "a b"], "'a b' is no pattern of cameras"),
        (["--camera", "*****"], "at most 4 *"),
        (
            ["--camera", "x", "--from", "soon"],
            "'soon' is no time; give ISO 8601, as 2026-11-22T13:00:00Z (--from)",
        ),
        (["--camera", "x", "--from", "2026-11-22", "--to", "2026-11-22"], "must be before its end (--from)"),
    ],
)
def test_wrong_input(tmp_path: Path, more: list[str], text: str) -> None:
    fill(tmp_path, 2)
    assert text in refused("cloud", "archive", "delete", "--archive", tmp_path, *more, status=2)


def test_no_archive(tmp_path: Path) -> None:
    told = refused("cloud", "archive", "delete", "--archive", tmp_path, "--camera", "*", status=2)
    assert told.startswith(f"no archive at {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_frames_that_need_a_deleted_one_are_counted(tmp_path: Path) -> None:
    chunk = [kept(0), *(replace(kept(i), chunk="r0") for i in range(1, 10))]
    with archive_at(tmp_path) as archive:
        put(archive, *chunk)
    done = run_here(
        "cloud", "archive", "delete", "--archive", tmp_path, "--camera", "door", "--to", at(4).isoformat()
    )
    assert "6 records that stay refer to frames that go" in done.stderr
    assert list(read(tmp_path)) == chunk[4:]


def test_a_pattern_takes_what_it_says() -> None:
    deletion = Deletion.of("gate-*", at(1), at(2), "captured")
    assert deletion.matches("gate-2", at(1))
    assert not deletion.matches("gate-2", at(2))
    assert not deletion.matches("a-gate-2", at(1))
    assert cloud.archive.deletion.STARS_MAX == 4
