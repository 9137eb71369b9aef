"""Replays: the answers that were served, in order of time, and what is refused."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import cloud.archive.records
import cloud.archive.replay
import cloud.archive.store
from cloud.archive.archive import Archive
from cloud.archive.chunks import Chunks
from cloud.archive.frames import FrameReader
from cloud.archive.records import Head, Record
from cloud.archive.replay import replay
from cloud.archive.schema import FILE
from cloud.archive.store import BYTES_MIN
from cloud.engine.batch_work import Served
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE, Bitstream
from shared.errors import DataError
from shared.process.cli import MapFolder
from shared.process.config import HttpSettings
from shared.types import Analysis, TaskQuery, TaskResult
from support.archives import archive_at, at, put, record
from support.processes import refused, run_here
from support.service import GatedModel, OneBundle

STREAM = {"Content-Type": MEDIA_TYPE}


async def test_a_replay_gives_the_answers_that_were_served(
    tmp_path: Path, tiny_bundle: Path, bundle: Bundle, packed: list[bytes], packed_1: list[bytes]
) -> None:
    from cloud.engine.load import load

    settings = PipelineSettings(batch_wait_ms=0, deadline_ms=20_000)
    loaded = await asyncio.to_thread(load, bundle)
    served: dict[str, Analysis] = {}
    with archive_at(tmp_path / "kept") as archive:
        pipeline = Pipeline(OneBundle(bundle, loaded.model, loaded.encoder), settings, archive)
        app = build_app(lambda: pipeline, HttpSettings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
            for i, data in enumerate(packed):
                headers = STREAM | {"X-Camera": f"c{i % 2}", "X-Request-Id": f"n{i}"}
                answer = await http.post("/analyze?top_k=3", content=data, headers=headers)
                served[f"n{i}"] = Analysis.model_validate(answer.json())
        await pipeline.close()
        # Two that a replay cannot answer: damaged on its way to the disk, and of another bundle.
        other = replace(Bitstream.unpack(packed_1[0]), fingerprint=b"\xde\xad\xbe\xef").pack()
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
        assert set(line) == {"camera", "captured_at", "received_at", "request_id", "frame", "task", "result"}
        assert line["frame"] == "I"
        assert datetime.fromisoformat(line["received_at"]).tzinfo is not None
        assert line["captured_at"] is None
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


def opened(bundle: Bundle, model: GatedModel, records: list[Record]) -> Any:
    """What a replay gets of records that stand in no archive."""
    reader = FrameReader(bundle, model.codec, 1024)
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as db:
        yield from Chunks(Head(Path(), db), reader).open(records)


async def test_a_replay_fills_its_batches_and_takes_ids_that_repeat(
    tmp_path: Path, bundle: Bundle, model: GatedModel, packed: list[bytes]
) -> None:
    records = [Record("door", at(i), "same", packed[i % 8]) for i in range(24)]
    query = TaskQuery(name="classification", top_k=1)
    with (tmp_path / "out").open("wb") as file:
        served = Served(bundle, model)
        counts = await replay(served, opened(bundle, model, records), query, file, MapFolder(None), batch=4)
    assert (counts.answered, counts.failed) == (24, 0)
    assert sum(model.batches) == 24
    assert max(model.batches) == 4
    assert len(model.batches) <= 12
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [datetime.fromisoformat(line["received_at"]) for line in lines] == [at(i) for i in range(24)]


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
    monkeypatch.setattr(cloud.archive.records, "read", lambda *chosen: iter(()))
    question = cloud.archive.replay.ReplayRequest(tmp_path / "kept", at(0), at(9), None, "classification")
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
        ({"from": "2026-11-24"}, "must be before its end (--from)"),
        ({"to": "2026-11-22T00:00:00Z"}, "must be before its end (--from)"),
        ({"from": "yesterday"}, "'yesterday' is no time; give ISO 8601, as 2026-11-22T13:00:00Z (--from)"),
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


async def test_a_replay_goes_by_capture_times_or_by_receptions(tmp_path: Path, tiny_bundle: Path) -> None:
    # Captured in the order late, early; received the other way round, hours later; one camera sends no time.
    with archive_at(tmp_path / "kept") as archive:
        put(
            archive,
            Record("spool", at(7200), "early", b"x", at(10)),
            Record("spool", at(7201), "late", b"x", at(5)),
            Record("bare", at(7), "unknown", b"x"),
        )

    async def ids(**changed: str) -> list[str]:
        out = tmp_path / "out.jsonl"
        command = [*replay_command(tmp_path / "kept", tiny_bundle, out, **changed), "--force"]
        told = await asyncio.to_thread(refused, *command, status=2)  # no record holds a valid bitstream
        if not told.startswith("none of"):
            return []
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        for line in lines:
            spool = {"early": at(10), "late": at(5)}
            when = line["captured_at"] and datetime.fromisoformat(line["captured_at"])
            assert when == spool.get(line["request_id"])
        return [line["request_id"] for line in lines]

    minute = {"from": "2026-11-22T12:00:00Z", "to": "2026-11-22T12:01:00Z"}
    assert await ids(**minute) == ["late", "unknown", "early"]
    assert await ids(**minute, by="captured") == ["late", "unknown", "early"]
    assert await ids(**minute, by="received") == ["unknown"]
    two_hours_later = {"from": "2026-11-22T14:00:00Z", "to": "2026-11-22T14:01:00Z"}
    assert await ids(**two_hours_later) == []
    assert await ids(**two_hours_later, by="received") == ["early", "late"]


async def test_a_map_is_named_by_the_time_that_counts(
    tmp_path: Path, bundle: Bundle, model: GatedModel, packed: list[bytes]
) -> None:
    names: list[str] = []

    class Names(MapFolder):
        def save_results(self, image: str, results: Mapping[str, TaskResult]) -> dict[str, TaskResult]:
            names.append(image)
            return dict(results)

    one = Record("door", at(60), "r", packed[0], at(0))
    query = TaskQuery(name="classification")
    with (tmp_path / "out").open("wb") as file:
        for by in ("captured", "received"):
            served = Served(bundle, model)
            await replay(served, opened(bundle, model, [one]), query, file, Names(None), by=by)
    assert names == ["20261122T120000.000000Z_door_r", "20261122T120100.000000Z_door_r"]
