"""The archive: what was kept comes back, the bounds hold on the disk, a kill loses nothing written."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import cloud.archive.records
import cloud.archive.replay
import cloud.archive.store
from cloud.archive.archive import Archive
from cloud.archive.records import UNNAMED, Record, count, read
from cloud.archive.schema import CLOCKS, FILE
from cloud.archive.store import BYTES_MIN
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.errors import DataError
from shared.types import Wanted
from support.archives import LONG_S, NOON, archive_at, at, locked, on_disk, put, record, wait_until
from support.processes import ROOT, refused
from support.service import GatedModel, OneBundle


def test_what_was_kept_comes_back_in_order_of_time(tmp_path: Path) -> None:
    odd = Record("hall", NOON + timedelta(microseconds=1), "x" * 128, b"\0\xff")
    with archive_at(tmp_path) as archive:
        put(archive, record(2), record(0), record(1), odd)
        assert archive.append("", at(3), "r3", b"")
        assert archive.flush(30)
        kept = [record(0), odd, record(1), record(2), Record(UNNAMED, at(3), "r3", b"")]
        assert list(archive.read()) == kept
    assert list(read(tmp_path)) == kept
    assert list(read(tmp_path, at(1), at(2))) == [record(1)]
    assert list(read(tmp_path, at(1))) == kept[2:]
    assert list(read(tmp_path, camera="hall")) == [odd]
    assert list(read(tmp_path, until=at(1), camera="door")) == [record(0)]
    assert count(tmp_path) == 5
    assert count(tmp_path, at(1), at(3)) == 2
    assert count(tmp_path, camera="door") == 3
    # Written on after a restart.
    with archive_at(tmp_path) as archive:
        put(archive, record(4))
    assert list(read(tmp_path)) == [*kept, record(4)]


def test_more_records_than_a_query_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud.archive.records, "KEYS", 3)
    same = [replace(record(5), request_id=f"same{i}") for i in range(7)]
    with archive_at(tmp_path) as archive:
        put(archive, *same, *map(record, range(5)))
    assert list(read(tmp_path)) == [*map(record, range(5)), *same]


@pytest.mark.parametrize("size", [40, 1000, 5000, 60_000])
def test_the_files_stay_below_the_bound_and_the_newest_stay(tmp_path: Path, size: int) -> None:
    total = 4 * BYTES_MIN // (size + 300)
    peak = 0
    with archive_at(tmp_path, BYTES_MIN) as archive:
        for i in range(total):
            put(archive, record(i, size=size))
            if i % (30_000 // size + 1) == 0:
                assert archive.flush(30)
                peak = max(peak, on_disk(tmp_path))
        assert archive.flush(30)
        assert (archive.written, archive.dropped) == (total, 0)
    assert BYTES_MIN // 3 < peak <= BYTES_MIN
    kept = [one.request_id for one in read(tmp_path)]
    assert 0 < len(kept) < total
    assert kept == [f"r{i}" for i in range(total - len(kept), total)]
    # The bound is used: not much less is kept than fits.
    assert len(kept) * size > (BYTES_MIN // 5 if size > 500 else BYTES_MIN // 50)


def test_a_smaller_bound_is_reached_after_a_restart(tmp_path: Path) -> None:
    with archive_at(tmp_path) as archive:
        for i in range(3000):
            put(archive, record(i, size=1000))
            if i % 500 == 0:
                archive.flush(30)
    assert on_disk(tmp_path) > 3 * BYTES_MIN
    archive = Archive(tmp_path, BYTES_MIN, LONG_S)
    wait_until(lambda: on_disk(tmp_path) <= BYTES_MIN)
    put(archive, record(3000))
    archive.close()
    assert on_disk(tmp_path) <= BYTES_MIN
    kept = [one.request_id for one in read(tmp_path)]
    assert kept == [f"r{i}" for i in range(3001 - len(kept), 3001)]
    assert len(kept) > 100


def test_a_record_that_cannot_fit_is_dropped_and_no_other(tmp_path: Path) -> None:
    with archive_at(tmp_path, BYTES_MIN) as archive:
        assert not archive.append("door", at(0), "large", bytes(BYTES_MIN))
        put(archive, record(1))
        assert archive.flush(30)
        assert (archive.written, archive.dropped) == (1, 1)
    assert list(read(tmp_path)) == [record(1)]


def test_the_largest_valid_bitstream_fits_from_64_mib_up(tmp_path: Path) -> None:
    from shared.codec.bitstream import MAX_STREAM_BYTES

    with archive_at(tmp_path, 64 << 20) as archive:
        put(archive, replace(record(0), data=bytes(MAX_STREAM_BYTES)))
    assert [len(one.data) for one in read(tmp_path)] == [MAX_STREAM_BYTES]


def test_age_is_bounded(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ages = [3 * 3600, 2 * 3600 + 60, 2 * 3600 - 600, 10]
    old = [Record("door", now - timedelta(seconds=age), f"{age}", b"x" * 100) for age in ages]
    with archive_at(tmp_path) as archive:
        put(archive, *old)
    assert count(tmp_path) == 4
    with archive_at(
        tmp_path, age_max_s=2 * 3600
    ) as archive:  # what is past its age goes without a new record
        wait_until(lambda: count(tmp_path) == 2)
    assert list(read(tmp_path)) == old[2:]


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from cloud.archive.archive import LOCK, Archive
archive = Archive(sys.argv[1], 1 << 20, 1e11)
i = int(sys.argv[2])
while True:
    for _ in range(7):
        data = i.to_bytes(4, "big") * (50 + i * 37 % 300)
        when = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=i)
        assert archive.append("door", when, f"r{i}", data)
        i += 1
    archive.flush()
    print(i, flush=True)
"""


def test_a_kill_at_any_moment_leaves_every_record_that_was_flushed(tmp_path: Path) -> None:
    told = 0
    for acknowledged in (1, 2, 3, 60, 5, 200):  # the long ones delete, and empty the log
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(told)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            assert writer.stdout is not None
            for _ in range(acknowledged):
                told = int(writer.stdout.readline())
            writer.kill()  # while it writes what follows
            # What it told before it died counts too.
            told = max([told, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        kept = list(read(tmp_path))
        numbers = [int(one.request_id[1:]) for one in kept]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # no gap
        assert numbers[-1] >= told - 1
        assert len(kept) >= min(told, 100)
        for i, one in zip(numbers, kept, strict=True):
            assert one.data == i.to_bytes(4, "big") * (50 + i * 37 % 300)
        assert on_disk(tmp_path) <= 1 << 20
        with closing(sqlite3.connect(tmp_path / FILE)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        told = numbers[-1] + 1
    assert numbers[0] > 0  # the bound was reached


def test_a_reader_does_not_stop_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud.archive.records, "KEYS", 10)
    with archive_at(tmp_path, BYTES_MIN) as archive:
        put(archive, *(record(i) for i in range(300)))
        assert archive.flush(30)
        reader = read(tmp_path)
        seen = [next(reader)]
        # The reader stands between two records while the archive is written over, several times.
        for i in range(300, 3300):
            put(archive, record(i))
            if i % 100 == 0:
                assert archive.flush(30)
        assert archive.flush(30)
        assert archive.dropped == 0
        assert on_disk(tmp_path) <= BYTES_MIN
        seen += reader
    numbers = [int(one.request_id[1:]) for one in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 3299
    assert all(one == record(i) for i, one in zip(numbers, seen, strict=True))


def test_a_program_that_holds_the_log_costs_records_and_not_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cloud.archive.store, "BUSY_S", 0.01)
    with archive_at(tmp_path, BYTES_MIN) as archive:
        put(archive, record(0))
        assert archive.flush(30)
        with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM records").fetchall()
            for i in range(1, 1000):
                archive.append("door", at(i), f"r{i}", bytes(1000))
                if i % 50 == 0:
                    assert archive.flush(30)
            assert archive.flush(30)
            assert archive.dropped > 0
            assert on_disk(tmp_path) <= BYTES_MIN
            other.execute("COMMIT")
        put(archive, record(1001))
        assert archive.flush(30)
        assert archive.written + archive.dropped == 1001
    assert list(read(tmp_path))[-1] == record(1001)
    assert sum("holds the log" in line for line in caplog.messages) == 1  # said once, not for each


async def test_a_disk_that_stands_still_costs_records_and_no_request(
    tmp_path: Path,
    bundle: Bundle,
    encoder: Any,
    model: GatedModel,
    settings: PipelineSettings,
    packed: list[bytes],
) -> None:
    with archive_at(tmp_path, queue_max=2) as archive:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), settings, archive)
        try:
            with locked(tmp_path):
                for i in range(20):
                    await pipeline.analyze(packed[i % 8], Wanted(), f"n{i}")
                # All 20 are answered while nothing is written: 2 wait in the queue, and 2 at most with the writer.
                assert archive.written == 0
                assert archive.dropped >= 16
            assert archive.flush(30)
            assert 1 <= archive.written <= 4
            assert archive.written + archive.dropped == 20
            await pipeline.analyze(packed[0], Wanted(), "after")
        finally:
            await pipeline.close()
    assert [one.request_id for one in read(tmp_path)][-1] == "after"


def test_an_error_of_the_disk_costs_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cloud.archive.store, "BUSY_S", 0.01)
    with archive_at(tmp_path) as archive:
        with locked(tmp_path):
            put(archive, record(0))
            assert archive.flush(30)
        assert (archive.written, archive.dropped) == (0, 1)
        assert "database is locked" in caplog.text
        put(archive, record(1))
    assert (archive.written, archive.dropped) == (1, 1)
    assert not archive.append("door", at(2), "late", b"")
    assert list(read(tmp_path)) == [record(1)]


@pytest.mark.parametrize("what", ["folder", "log", "database", "folder, before anything was written"])
def test_files_that_are_deleted_under_it_begin_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    kept = tmp_path / "kept"
    with archive_at(kept) as archive:
        if "before" not in what:
            put(archive, record(0))
        assert archive.flush(30)
        if what.startswith("folder"):
            shutil.rmtree(kept)
        elif what == "log":
            (kept / f"{FILE}-wal").unlink()
        else:
            (kept / FILE).unlink()
            (kept / f"{FILE}-wal").unlink()
        put(archive, record(1))
        assert archive.flush(30)
        assert "were deleted or replaced; a new one begins" in caplog.text
        assert record(1) in list(read(kept))
        with pytest.raises(DataError, match="another process"):
            Archive(kept, 8 << 20, LONG_S)
        put(archive, record(2))
    assert list(read(kept))[-2:] == [record(1), record(2)]
    assert archive.dropped == 0


def test_a_disk_that_is_away_for_a_while_costs_what_comes_meanwhile(tmp_path: Path) -> None:
    kept, away = tmp_path / "kept", tmp_path / "away"
    with archive_at(kept) as archive:
        put(archive, record(0))
        assert archive.flush(30)
        kept.rename(away)
        kept.touch()
        put(archive, record(1))
        assert archive.flush(30)
        kept.unlink()
        away.rename(kept)
        put(archive, record(2))
        assert archive.flush(30)
        assert (archive.written, archive.dropped) == (2, 1)
    assert list(read(kept)) == [record(0), record(2)]


def test_bounds_that_no_archive_can_have(tmp_path: Path, tiny_bundle: Path) -> None:
    serve = ("cloud", "serve", "--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0")
    for option, value in (("bytes-max", "1000"), ("age-max-days", "0"), ("age-max-days", "nan")):
        told = refused(*serve, "--archive", tmp_path / "kept", f"--archive-{option}", value, status=2)
        assert ("must be at least" if value != "nan" else "'--archive-age-max-days'") in told
    assert not (tmp_path / "kept").exists()


def test_a_request_is_recorded_once_also_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for restart in range(3):
        with archive_at(tmp_path) as archive:
            # In one batch and in several; received later each time.
            put(archive, *[replace(record(1), received_at=at(10 * restart + i)) for i in range(3)])
            assert archive.flush(30)
            put(archive, replace(record(1), received_at=at(99)))
            put(archive, replace(record(1, "hall"), received_at=at(100)))  # another camera's own r1
        assert (archive.written, archive.repeated) == ((2, 3) if restart == 0 else (0, 5))
        assert archive.dropped == 0
    assert list(read(tmp_path)) == [
        replace(record(1), received_at=at(0)),
        replace(record(1, "hall"), received_at=at(100)),
    ]
    assert caplog.text == ""
    with archive_at(tmp_path) as archive:
        put(archive, replace(record(1), data=b"another image"))
    assert (archive.written, archive.repeated, archive.dropped) == (0, 0, 1)
    assert "request id r1 of camera door is recorded with another bitstream" in caplog.text


def test_one_frame_in_two_forms_is_recorded_once(tmp_path: Path) -> None:
    """A camera box sends a frame that was given others by itself after a break, with the same request id."""
    with archive_at(tmp_path) as archive:
        for id_, first, second in (("p", "root", ""), ("i", "", "root")):
            archive.append("door", NOON, id_, b"one", None, first)
            archive.append("door", NOON, id_, b"two", None, second)
        archive.flush()
        assert (archive.written, archive.repeated, archive.dropped) == (2, 2, 0)
    assert [one.data for one in read(tmp_path)] == [b"one", b"one"]
    assert count(tmp_path) == 2


def test_repeats_take_no_room(tmp_path: Path) -> None:
    with archive_at(tmp_path, BYTES_MIN) as archive:
        put(archive, *map(record, range(100)))
        assert archive.flush(30)
        for _ in range(50):
            put(archive, *map(record, range(100)))
            assert archive.flush(30)
    assert (archive.written, archive.repeated, archive.dropped) == (100, 5000, 0)
    assert list(read(tmp_path)) == [*map(record, range(100))]


def test_records_are_read_by_either_time(tmp_path: Path) -> None:
    spooled = replace(record(100), captured_at=at(3))
    live = record(5)
    early = replace(record(101, "hall"), captured_at=at(1) + timedelta(microseconds=1))
    with archive_at(tmp_path) as archive:
        put(archive, spooled, live, early)
    assert list(read(tmp_path)) == [early, spooled, live]
    assert list(read(tmp_path, by="received")) == [live, spooled, early]
    assert list(read(tmp_path, at(2), at(6))) == [spooled, live]
    assert list(read(tmp_path, at(2), at(6), by="received")) == [live]
    assert count(tmp_path, at(2), at(6)) == 2
    assert count(tmp_path, at(2), at(6), by="received") == 1
    assert count(tmp_path, at(2), at(200), "hall", "received") == 1


def test_many_records_of_one_capture_time_are_found_by_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.archive.records, "KEYS", 10)
    stuck = [replace(record(i), captured_at=at(0)) for i in range(95)]
    with archive_at(tmp_path) as archive:
        put(archive, *stuck, record(200))
    assert list(read(tmp_path)) == [*stuck, record(200)]
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        plans: list[str] = []
        db.set_trace_callback(plans.append)
        assert [id_ for _, id_, _ in cloud.archive.records._keys(db, CLOCKS["captured"], 0, 1 << 62)] == [
            *range(1, 97)
        ]
        db.set_trace_callback(None)
        for query in set(plans):
            plan = " ".join(str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))
            assert "USING INDEX records_by_capture" in plan
            assert "TEMP B-TREE" not in plan


def test_age_counts_from_the_reception(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    late = Record("spool", now, "late", b"x", now - timedelta(days=300))  # a camera was offline for long
    with archive_at(tmp_path) as archive:
        put(archive, late, Record("spool", now - timedelta(hours=3), "old", b"x", now))
    with archive_at(tmp_path, age_max_s=2 * 3600):
        wait_until(lambda: count(tmp_path) == 1)
    assert list(read(tmp_path)) == [late]


@pytest.mark.parametrize("size", [20, 700])
def test_ids_and_capture_times_in_any_order_stay_below_the_bound(tmp_path: Path, size: int) -> None:
    rng = random.Random(size)
    peak = 0
    with archive_at(tmp_path, BYTES_MIN) as archive:
        for i in range(2500):
            scattered = Record(
                f"c{rng.randrange(50)}",
                at(i),
                f"{rng.getrandbits(128):032x}" * 4,
                bytes(size),
                at(rng.randrange(10**6)),
            )
            put(archive, scattered)
            if i % 60 == 0:
                assert archive.flush(30)
                peak = max(peak, on_disk(tmp_path))
        assert archive.flush(30)
    assert archive.dropped == 0
    assert BYTES_MIN // 3 < peak <= BYTES_MIN
