"""An archive in a store that speaks S3, by its protocol: seal, verify, replay, delete, expire. The server is moto's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud.archive.replay import ReplayRequest
from cloud.archive.replay_answers import AnswerCounts, SegmentReplay
from cloud.archive.sources import parts_of
from cloud.engine.batch_work import Served
from cloud.segments.answers import AnswerStore, Maker
from cloud.segments.seal import Limits, seal_archive
from cloud.segments.store import SegmentStore
from shared.process.cli import MapFolder
from shared.types import TaskQuery
from support.archives import archive_at, at, held, put
from support.coded_sessions import CodedSession, NamingModel, label_of, made_up_bundle
from support.processes import refused, run_here

STORE, ANSWERS = "s3://bucket/cameras", "s3://bucket/answers"
FRAMES = 60


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty one, as a file system."""
    moto = pytest.importorskip("moto.server", reason="comes with '.[dev]'")
    s3fs = pytest.importorskip("s3fs", reason="comes with '.[dev]'")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # What a user of MinIO sets, too.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    httpx.post(f"http://{host}:{port}/moto-api/reset", timeout=60).raise_for_status()
    files.mkdir("bucket")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def replayed() -> AnswerCounts:
    request, model = ReplayRequest(STORE, at(-1), at(FRAMES), None, "classification"), NamingModel()
    answers = AnswerStore(ANSWERS, Maker("classification", "aabbccdd", "d1"))
    answers.check()
    query = TaskQuery(name="classification")
    replay = SegmentReplay(request, Served(made_up_bundle(), model), query, answers, MapFolder(None), batch=8)
    done = AnswerCounts()
    for part in parts_of(STORE):
        done.add(asyncio.run(replay.run(part)))
    return done


def test_an_archive_in_s3(tmp_path: Path, bucket: Any) -> None:
    import duckdb

    some = [CodedSession(f"c{i}", i, f"{i:02x}") for i in range(3)]
    records = [some[i % 3].some(i) for i in range(FRAMES)]
    with archive_at(tmp_path) as archive:
        put(archive, *records)
    for until in (20, FRAMES):
        seal_archive(tmp_path, at(until), STORE, Limits(600, 1000))
    assert held(STORE) == Counter(records)
    assert len(SegmentStore(STORE).names()) > 2
    assert "no flaw" in run_here("cloud", "archive", "verify", "--archive", STORE).stdout

    assert (replayed().counts.answered, replayed().known) == (FRAMES, FRAMES)
    found = Counter()
    for file in bucket.find("bucket/answers"):
        (tmp_path / "one.parquet").write_bytes(bucket.cat_file(file))
        query = "SELECT camera, request_id, result->>'$.top[0].label' FROM read_parquet(?)"
        found.update(duckdb.execute(query, [str(tmp_path / "one.parquet")]).fetchall())
    says = {(one.camera, name): label_of(z) for one in some for name, z in one.latents.items()}
    assert found == Counter({(*key, label): 1 for key, label in says.items()})

    # The archive knows where it was sealed into.
    deleted = run_here("cloud", "archive", "delete", "--archive", tmp_path, "--camera", "c1")
    assert f"{FRAMES // 3} records deleted" in deleted.stdout, deleted
    left = [one for one in records if one.camera != "c1"]
    assert held(STORE) == Counter(left)
    stored = b"".join(bucket.cat_file(file) for file in bucket.find("bucket/cameras"))
    kept = {one.data for one in left}
    assert not any(one.data in stored for one in records if one.camera == "c1" and one.data not in kept)

    name = SegmentStore(STORE).names()[0]
    data = bytearray(bucket.cat_file(f"bucket/cameras/{name.data}"))
    data[3] ^= 1
    bucket.pipe_file(f"bucket/cameras/{name.data}", bytes(data))
    flawed = run_here("cloud", "archive", "verify", "--archive", STORE)
    assert (flawed.returncode, name.data in flawed.stdout) == (2, True)
    gone = run_here("cloud", "archive", "expire", "--archive", STORE, "--older-than", "0m")
    assert f"{len(left)} records deleted" in gone.stdout, gone
    assert bucket.find("bucket/cameras") == []


def test_a_bucket_that_is_not_there(tmp_path: Path, bucket: Any) -> None:
    with archive_at(tmp_path) as archive:
        put(archive, CodedSession("c0", 0, "00").some(0))
    seal = ("cloud", "archive", "seal", "--archive", tmp_path, "--older-than", "0m")
    assert "s3://nobody/cameras is not there" in refused(*seal, "--store", "s3://nobody/cameras", status=2)
    assert len(held(tmp_path)) == 1
    assert "1 records" in run_here(*seal, "--store", STORE).stdout
    assert len(held(tmp_path, STORE)) == 1
