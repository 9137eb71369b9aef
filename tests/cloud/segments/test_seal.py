"""Sealing: what the database held is in segments, once, wherever a kill comes; the server goes on meanwhile."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import cloud.segments.files
import cloud.segments.head
from cloud.archive.deletion import Deletion
from cloud.archive.records import Record, count, read
from cloud.archive.schema import FILE
from cloud.archive.sources import count_records, open_part, open_parts, parts_of
from cloud.segments import head
from cloud.segments.deleting import delete_everywhere
from cloud.segments.seal import Limits, seal_archive
from cloud.segments.store import SegmentStore
from shared.database import Database
from shared.errors import DataError
from support.archives import archive_at, at, held, locked, put, record
from support.coded_sessions import CodedSession, latent_of
from support.processes import ROOT, refused, run_here
from support.segments import opened

LATER = at(10**6)
TINY = Limits(bytes=10_000, records=5)
SMALL = Limits(bytes=2500, records=12)


def fill(path: Path, number: int = 40) -> list[Record]:
    records = [record(i, f"c{i % 3}") for i in range(number)]
    with archive_at(path) as archive:
        put(archive, *records)
    return records


def test_what_was_sealed_is_in_segments_alone_and_recorded_no_more(tmp_path: Path) -> None:
    records = fill(tmp_path)
    sealed = seal_archive(tmp_path, at(30), limits=SMALL)
    assert (sealed.segments, sealed.records, sealed.bytes) == (3, 30, 30 * 200)
    assert count(tmp_path) == 10
    assert held(tmp_path) == Counter(records)
    assert count_records(tmp_path) == 40
    store = SegmentStore(tmp_path / "segments")
    assert [store.facts(name).records for name in store.names()] == [12, 12, 6]
    with archive_at(tmp_path) as archive:
        put(archive, *records)  # a client that lost every answer
        assert archive.flush(30)
        assert (archive.written, archive.repeated) == (0, 40)
    assert held(tmp_path) == Counter(records)
    assert seal_archive(tmp_path, at(30)).records == 0


def test_chunks_are_sealed_whole_and_replayed_by_themselves(tmp_path: Path) -> None:
    some = [CodedSession(f"c{i}", i, f"{i:02x}") for i in range(3)]
    records = [some[i % 3].some(i) for i in range(90)]
    with archive_at(tmp_path) as archive:
        put(archive, *records)
    seal_archive(tmp_path, at(60), limits=Limits(600, 1000))
    assert len(parts_of(tmp_path)) > 3
    says = {name: latent for one in some for name, latent in one.latents.items()}
    for part in parts_of(tmp_path):
        with open_part(part) as source:
            members = list(source.read(None, None, None, "captured"))
        there = {(one.camera, one.request_id) for one in members}
        assert all(not one.chunk or (one.camera, one.chunk) in there for one in members)
    for one in opened(tmp_path):
        assert latent_of(one.content).digest == says[one.record.request_id].digest
    # What stays are the frames of chunks that go on after that time.
    going_on = {(one.camera, one.chunk or one.request_id) for one in records if one.received_at >= at(60)}
    stayed = [one for one in read(tmp_path) if one.received_at < at(60)]
    assert stayed
    assert all((one.camera, one.chunk or one.request_id) in going_on for one in stayed)


def test_a_store_elsewhere(tmp_path: Path) -> None:
    records, url = fill(tmp_path), f"memory://{uuid.uuid4().hex}"
    seal_archive(tmp_path, at(30), url, SMALL)
    assert held(tmp_path) == Counter(records[30:])
    assert sum((held(place) for place in (url, str(tmp_path))), Counter()) == Counter(records)


class Killed(BaseException):
    """Stands for a kill: nothing that a program catches."""


class Fuse:
    """Kills at the n-th step that a crash could come before."""

    def __init__(self, left: int) -> None:
        self.left = left

    def burn(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fuse]:
    """Set by the test; it burns at each change on the disk: a file written, a file removed, a transaction begun or
    ended."""
    fuse = Fuse(1 << 30)

    class Connection(Database):
        def execute(self, text: str, *rest: Any) -> Any:  # type: ignore[override]
            if text.startswith(("BEGIN", "COMMIT", "UPDATE")):
                fuse.burn()
            return super().execute(text, *rest)

    connect = sqlite3.connect
    monkeypatch.setattr(
        cloud.segments.head.sqlite3, "connect", lambda *a, **k: connect(*a, **k | {"factory": Connection})
    )
    write = cloud.segments.files.write_atomically

    def write_or_die(path: Path, data: bytes) -> None:
        fuse.burn()
        write(path, data)
        fuse.burn()

    monkeypatch.setattr(cloud.segments.files, "write_atomically", write_or_die)
    yield fuse
    fuse.left = 1 << 30


def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(
    tmp_path: Path, fuse: Fuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.segments.head, "ROWS", 3)
    steps = 0
    while True:
        path = tmp_path / str(steps)
        records = fill(path, 9)
        fuse.left = steps
        try:
            seal_archive(path, LATER, limits=TINY)
            done = True
        except Killed:
            done = False
        fuse.left = 1 << 30
        assert held(path) == Counter(records), f"after step {steps}"
        assert count_records(path) == 9
        seal_archive(path, LATER, limits=TINY)
        assert held(path) == Counter(records), f"after the command that followed step {steps}"
        assert count(path) == 0
        assert not SegmentStore(path / "segments").leftovers()
        if done:
            break
        steps += 1
    assert steps > 15


def test_an_index_that_was_cut_is_written_again(tmp_path: Path, fuse: Fuse) -> None:
    """A store that shows half a file, which object stores and local disks do not."""
    records = fill(tmp_path, 20)
    fuse.left = 1 << 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloud.segments.head, "set_written", lambda db: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            seal_archive(tmp_path, LATER)
    [index] = (tmp_path / "segments").glob("*.parquet")
    index.write_bytes(index.read_bytes()[:-100])
    assert held(tmp_path) == Counter(records)
    seal_archive(tmp_path, LATER)
    assert held(tmp_path) == Counter(records)
    assert count(tmp_path) == 0


def test_ids_that_were_given_again_are_left_alone(tmp_path: Path, fuse: Fuse) -> None:
    """A sealed record goes by age before a kill is made good, and a new one takes its place in the database."""
    records = fill(tmp_path, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloud.segments.head, "finish", lambda db: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            seal_archive(tmp_path, LATER)
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute("DELETE FROM records")
    new = record(50)
    with archive_at(tmp_path) as archive:
        put(archive, new)
    seal_archive(tmp_path, at(20))
    assert held(tmp_path) == Counter([*records, new])


def test_one_seals_while_nobody_else_does_and_readers_are_done(tmp_path: Path) -> None:
    fill(tmp_path)
    seal_archive(tmp_path, at(10))
    reading = open_parts(tmp_path)
    next(reading)
    with pytest.raises(DataError, match="is being replayed"):
        seal_archive(tmp_path, at(20))
    # What a long replay has not read yet may be deleted meanwhile.
    delete_everywhere(str(tmp_path), Deletion.of("c0", at(30), None, "received"), print)
    next(reading)  # the segments, which sealing does not change
    assert seal_archive(tmp_path, at(20)).records == 10
    reading.close()
    with locked(tmp_path), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloud.segments.head, "BUSY_S", 0.01)
        with pytest.raises(DataError, match="locked"):
            seal_archive(tmp_path, at(30))
    assert count_records(tmp_path) == 40 - 4
    with head.change_lock(tmp_path), pytest.raises(DataError, match="is being sealed or deleted from"):
        delete_everywhere(str(tmp_path), Deletion.of("c1", None, None, "received"), print)


def test_a_server_writes_meanwhile(tmp_path: Path) -> None:
    records = [record(i) for i in range(300)]
    with archive_at(tmp_path) as archive:
        for i in range(0, 300, 20):
            put(archive, *records[i : i + 20])
            assert archive.flush(30)
            seal_archive(tmp_path, at(i), limits=SMALL)
        assert archive.trouble == ""
    assert held(tmp_path) == Counter(records)


KILLED_AT_RANDOM = """
import os, signal, sys, threading
from pathlib import Path
from cloud.segments import head
from cloud.segments.deleting import delete_everywhere
from cloud.segments.seal import Limits, seal_archive
from support.archives import at
import cloud.segments.store
print("ready", flush=True)
seal_archive(Path(sys.argv[1]), at(10**6), limits=Limits(2500, 12))
"""


@pytest.mark.slow  # starts a process for each kill; `make test-slow`
def test_a_real_kill_at_random_moments(tmp_path: Path) -> None:
    records = fill(tmp_path, 600)
    kills = 0
    for delay_ms in range(0, 400, 10):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED_AT_RANDOM, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(delay_ms / 1e3)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        process.stdout.close()
        assert held(tmp_path) == Counter(records)
    assert kills > 3
    seal_archive(tmp_path, LATER)
    assert held(tmp_path) == Counter(records)
    assert count(tmp_path) == 0


def test_the_command(tmp_path: Path) -> None:
    fill(tmp_path / "kept")
    done = run_here("cloud", "archive", "seal", "--archive", tmp_path / "kept", "--older-than", "1h")
    assert done.stdout == f"{tmp_path / 'kept'}: 40 records (8,000 bytes) sealed in 1 segments\n"
    assert "no span of time" in refused(
        "cloud", "archive", "seal", "--archive", tmp_path / "kept", "--older-than", "1 day", status=2
    )
    before_year_1 = ("--archive", tmp_path / "kept", "--older-than", "999999d")
    assert "999999d ago" in refused("cloud", "archive", "expire", *before_year_1, status=2)
    assert "no archive at" in refused("cloud", "archive", "seal", "--archive", tmp_path, status=2)
