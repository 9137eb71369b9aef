"""The archive and its replay: what was kept comes back, the bounds hold on the disk, a kill loses nothing written."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import cloud.archive.archive
import cloud.archive.replay
from cloud.archive.archive import BYTES_MIN, FILE, UNNAMED, Archive, Record, count, read
from cloud.archive.replay import parse_time, replay
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import CloudSettings
from edge.client import Client
from edge.settings import EdgeSettings
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE, Bitstream
from shared.errors import CorruptPayloadError, DataError, RequestError
from shared.process.cli import MapFolder, wanted_of
from shared.types import Analysis, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.processes import ROOT, refused, run_here
from support.service import GatedModel, problem

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
YEAR_S = 366 * 86_400.0
LONG_S = 1000 * YEAR_S  # for records whose times are made up
STREAM = {"Content-Type": MEDIA_TYPE}


@contextmanager
def archive_at(
    path: Path, bytes_max: int = 8 << 20, age_max_s: float = LONG_S, **more: Any
) -> Iterator[Archive]:
    archive = Archive(path, bytes_max, age_max_s, **more)
    try:
        yield archive
    finally:
        archive.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program that holds the database's write lock, so that the archive's writer stands still."""
    with closing(sqlite3.connect(path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def at(second: int) -> datetime:
    return NOON + timedelta(seconds=second)


def record(i: int, camera: str = "door", size: int = 200) -> Record:
    return Record(camera, at(i), f"r{i}", i.to_bytes(4, "big") * (size // 4))


def put(archive: Archive, *records: Record) -> None:
    for one in records:
        assert archive.append(one.camera, one.received_at, one.request_id, one.data)


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


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
    monkeypatch.setattr(cloud.archive.archive, "_KEYS", 3)
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


def wait_until(condition: Any) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.001)  # lets the writer run


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
from cloud.archive.archive import Archive
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
    monkeypatch.setattr(cloud.archive.archive, "_KEYS", 10)
    with archive_at(tmp_path, BYTES_MIN) as archive:
        put(archive, *(record(i) for i in range(300)))
        assert archive.flush(30)
        reader = read(tmp_path)
        seen = [next(reader)]
        # The reader stands between two records while the archive is written over, several times.
        for i in range(300, 6300):
            put(archive, record(i))
            if i % 100 == 0:
                assert archive.flush(30)
        assert archive.flush(30)
        assert archive.dropped == 0
        assert on_disk(tmp_path) <= BYTES_MIN
        seen += reader
    numbers = [int(one.request_id[1:]) for one in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 6299
    assert all(one == record(i) for i, one in zip(numbers, seen, strict=True))


def test_a_program_that_holds_the_log_costs_records_and_not_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cloud.archive.archive, "BUSY_S", 0.01)
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
    settings: CloudSettings,
    packed: list[bytes],
) -> None:
    with archive_at(tmp_path, queue_max=2) as archive:
        pipeline = Pipeline(bundle, model, encoder, settings, archive)
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
    monkeypatch.setattr(cloud.archive.archive, "BUSY_S", 0.01)
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


def test_only_what_was_answered_is_kept_and_once(
    tmp_path: Path,
    bundle: Bundle,
    encoder: Any,
    model: GatedModel,
    settings: CloudSettings,
    packed: list[bytes],
) -> None:
    async def use(archive: Archive) -> None:
        pipeline = Pipeline(bundle, model, encoder, settings, archive)
        for _ in range(2):
            await pipeline.analyze(packed[0], Wanted(), "twice", camera="door")
        damaged = replace(Bitstream.unpack(packed[1]), b_v=b"\xff" * 40).pack()
        with pytest.raises(CorruptPayloadError):
            await pipeline.analyze(damaged, Wanted(), "damaged", camera="door")
        model.fail = RuntimeError("broken")
        with pytest.raises(RuntimeError):
            await pipeline.analyze(packed[2], Wanted(), "broken", camera="door")
        with pytest.raises(RequestError, match="camera"):
            await pipeline.analyze(packed[3], Wanted(), "a", camera="a b")
        await pipeline.close()

    before = datetime.now(UTC)
    with archive_at(tmp_path) as archive:
        asyncio.run(use(archive))
    [kept] = read(tmp_path)
    assert (kept.camera, kept.request_id, kept.data) == ("door", "twice", packed[0])
    assert before <= kept.received_at <= datetime.now(UTC)


async def test_the_name_of_the_camera_over_grpc_and_http(
    tmp_path: Path,
    bundle: Bundle,
    encoder: Any,
    model: GatedModel,
    settings: CloudSettings,
    packed: list[bytes],
    make_grpc_server: Any,
) -> None:
    with archive_at(tmp_path) as archive:
        pipeline = Pipeline(bundle, model, encoder, settings, archive)
        async with make_grpc_server(lambda: pipeline) as (address, stub):
            async with Client(EdgeSettings(bundle.path, cloud=address, camera="own")) as client:
                await client.analyze("edge", packed[0], Wanted())
                await client.analyze("edge2", packed[0], Wanted(), "other")
            await stub.Analyze(pb.AnalyzeRequest(bitstream=packed[0], request_id="grpc"), timeout=30)
            await check_refusal(stub, packed[0])
        app = build_app(lambda: pipeline, settings)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
            for name in ("hall", ""):
                headers = STREAM | {"X-Camera": name, "X-Request-Id": f"http.{name}"}
                assert (await http.post("/analyze", content=packed[0], headers=headers)).status_code == 200
            headers = STREAM | {"X-Camera": "a/b"}
            assert (
                "camera"
                in problem(await http.post("/analyze", content=packed[0], headers=headers), 422)["detail"]
            )
        await pipeline.close()
    names = {one.request_id: one.camera for one in read(tmp_path)}
    assert names == {"edge": "own", "edge2": "other", "grpc": UNNAMED, "http.hall": "hall", "http.": UNNAMED}


async def check_refusal(stub: AnalyzerStub, data: bytes) -> None:
    call = stub.Analyze(pb.AnalyzeRequest(bitstream=data, camera="x" * 65), timeout=30)
    assert (await call.code()).name == "INVALID_ARGUMENT"
    assert "camera" in (await call.details() or "")


def test_a_camera_that_an_edge_cannot_have(bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="camera"):
        EdgeSettings(bundle.path, camera="no spaces")


async def test_a_replay_gives_the_answers_that_were_served(
    tmp_path: Path, tiny_bundle: Path, bundle: Bundle, packed: list[bytes]
) -> None:
    from cloud.engine.load import load

    settings = CloudSettings(tiny_bundle, batch_wait_ms=0, deadline_ms=20_000)
    loaded = await asyncio.to_thread(load, bundle)
    served: dict[str, Analysis] = {}
    with archive_at(tmp_path / "kept") as archive:
        pipeline = Pipeline(bundle, loaded.model, loaded.encoder, settings, archive)
        app = build_app(lambda: pipeline, settings)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
            for i, data in enumerate(packed):
                headers = STREAM | {"X-Camera": f"c{i % 2}", "X-Request-Id": f"n{i}"}
                answer = await http.post("/analyze?top_k=3", content=data, headers=headers)
                served[f"n{i}"] = Analysis.model_validate(answer.json())
        await pipeline.close()
        # Two that a replay cannot answer: damaged on its way to the disk, and of another bundle.
        other = replace(Bitstream.unpack(packed[0]), fingerprint=b"\xde\xad\xbe\xef").pack()
        now = datetime.now(UTC)
        put(archive, Record("c0", now, "bad", packed[0][:-1]), Record("c0", now, "other", other))
    command = [
        "cloud",
        "replay",
        "--archive",
        tmp_path / "kept",
        "--task",
        "classification",
        "--bundle",
        tiny_bundle,
    ]
    command += ["--from", "2026-01-01", "--to", "2999-01-01T00:00:00+02:00", "--top-k", "3", "--batch", "3"]
    out = tmp_path / "results.jsonl"
    done = await asyncio.to_thread(run_here, *command, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "8 answered, 2 not" in done.stdout
    assert "to 2998-12-31 22:00:00 UTC" in done.stdout
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["request_id"] for line in lines] == [*served, "bad", "other"]
    for line in lines[:8]:
        theirs = served[line["request_id"]].results["classification"]
        assert [best["index"] for best in line["result"]["top"]] == [best.index for best in theirs.top]
        # Other batches, so equal but for the last bits of a float.
        assert [best["score"] for best in line["result"]["top"]] == pytest.approx(
            [best.score for best in theirs.top], abs=1e-5
        )
        assert set(line) == {"camera", "time", "request_id", "task", "result"}
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert [line["camera"] for line in lines[:4]] == ["c0", "c1", "c0", "c1"]
    assert [line["error"]["title"] for line in lines[8:]] == [
        "Invalid bitstream",
        "Bitstream of another bundle",
    ]
    assert "deadbeef" in lines[9]["error"]["detail"]
    # One camera, over the file that exists.
    assert "--force" in await asyncio.to_thread(refused, *command, "--out", out, status=2)
    done = await asyncio.to_thread(run_here, *command, "--out", out, "--camera", "c1", "--force")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["request_id"] for line in out.read_text().splitlines()] == [
        "n1",
        "n3",
        "n5",
        "n7",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "results.jsonl"]


async def test_a_replay_fills_its_batches_and_takes_ids_that_repeat(
    tmp_path: Path, make_pipeline: Any, model: GatedModel, packed: list[bytes]
) -> None:
    records = [Record("door", at(i), "same", packed[i % 8]) for i in range(24)]
    wanted = wanted_of(["classification"], 1)
    async with make_pipeline(batch_max=4, batch_wait_ms=20_000, queue_max=8) as pipeline:
        with (tmp_path / "out").open("wb") as file:
            counts = await replay(pipeline, iter(records), wanted, file, MapFolder(None))
    assert (counts.answered, counts.failed) == (24, 0)
    assert model.batches == [4] * 6
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [datetime.fromisoformat(line["time"]) for line in lines] == [at(i) for i in range(24)]


def test_a_replay_that_can_answer_nothing_says_so(tmp_path: Path, tiny_bundle: Path) -> None:
    with archive_at(tmp_path / "kept") as archive:
        put(archive, record(0), record(1))
    out = tmp_path / "out.jsonl"
    told = refused(*replay_command(tmp_path / "kept", tiny_bundle, out), status=2)
    assert "none of 2 records" in told
    assert [json.loads(line)["error"]["title"] for line in out.read_text().splitlines()] == [
        "Invalid bitstream"
    ] * 2


def test_a_replay_whose_records_go_before_it_begins_writes_nothing(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with archive_at(tmp_path / "kept") as archive:
        put(archive, record(0))
    monkeypatch.setattr(cloud.archive.replay, "read", lambda *chosen: iter(()))
    question = cloud.archive.replay.Question(tmp_path / "kept", at(0), at(9), None, "classification")
    with pytest.raises(DataError, match="were deleted meanwhile"):
        cloud.archive.replay.replay_archive(question, tiny_bundle, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_long_id_makes_a_file_name_that_a_disk_takes() -> None:
    ids = ["a" * 64, "a" * 128, "a" * 127 + "b"]
    names = [cloud.archive.replay._short(one) for one in ids]
    assert names[0] == ids[0]
    assert len({*names}) == 3
    assert max(map(len, names)) == 64


def replay_command(archive: Path, bundle: Path, out: Path, **changed: str) -> list[str | Path]:
    options = {"task": "classification", "from": "2026-11-22", "to": "2026-11-23"} | changed
    command: list[str | Path] = ["cloud", "replay", "--archive", archive, "--bundle", bundle, "--out", out]
    return command + [word for name, value in options.items() for word in (f"--{name}", value)]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"task": "nope"}, "unknown task 'nope'; this bundle answers: classification"),
        ({"from": "2026-11-24"}, "--from must be before --to"),
        ({"to": "2026-11-22T00:00:00Z"}, "--from must be before --to"),
        ({"from": "yesterday"}, "--from 'yesterday' is no time"),
        ({"to": "0001-01-01T00:00:00+10:00"}, "is no time"),
        ({"camera": "a b"}, "camera's name"),
        ({"camera": "nobody"}, "no record of camera nobody between 2026-11-22T00:00:00"),
        ({"to": "2026-11-22T06:00:00"}, "no record between"),
    ],
    ids=str,
)
def test_a_replay_that_is_asked_wrong(
    tmp_path: Path, tiny_bundle: Path, changed: dict[str, str], text: str
) -> None:
    with archive_at(tmp_path / "kept") as archive:
        put(archive, record(0))
    out = tmp_path / "out.jsonl"
    assert text in refused(*replay_command(tmp_path / "kept", tiny_bundle, out, **changed), status=2)
    assert not out.exists()


def test_what_is_no_archive(tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out.jsonl"
    told = refused(*replay_command(tmp_path / "nowhere", tiny_bundle, out), status=2)
    assert f"no archive at {tmp_path / 'nowhere'}" in told
    assert "no folder" in refused(*replay_command(tmp_path, tiny_bundle, tmp_path / "no" / "out"), status=2)
    for content in (b"hello, this is no database" * 100, None):
        if content is not None:
            (tmp_path / FILE).write_bytes(content)
        else:
            (tmp_path / FILE).unlink()
            with closing(sqlite3.connect(tmp_path / FILE)) as db:
                db.execute("CREATE TABLE other (x)")
        assert FILE in refused(*replay_command(tmp_path, tiny_bundle, out), status=2)
        with pytest.raises(DataError, match=FILE):
            Archive(tmp_path, BYTES_MIN, 1)


def test_bounds_that_no_archive_can_have(tmp_path: Path, tiny_bundle: Path) -> None:
    serve = ("cloud", "serve", "--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0")
    for option, value in (("bytes-max", "1000"), ("age-max-days", "0"), ("age-max-days", "nan")):
        told = refused(*serve, "--archive", tmp_path / "kept", f"--archive-{option}", value, status=2)
        assert "must be at least" in told


def test_times_without_a_zone_are_utc() -> None:
    assert parse_time("--from", "2026-11-22T12:00:00") == NOON
    assert parse_time("--from", "2026-11-22T13:00:00+01:00") == NOON
    assert parse_time("--from", "2026-11-22T12:00:00Z").utcoffset() == timedelta(0)
