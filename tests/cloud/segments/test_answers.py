"""Answers as Parquet: each record once however often a replay is repeated, cut short, or moved."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

import cloud.segments.answers
from cloud.archive.replay import ReplayRequest
from cloud.archive.replay_answers import AnswerCounts, SegmentReplay
from cloud.archive.sources import parts_of
from cloud.engine.batch_work import Served
from cloud.segments.answers import AnswerStore, Maker
from cloud.segments.change import expire_records
from cloud.segments.files import Files
from cloud.segments.seal import Limits, seal_archive
from cloud.segments.store import SegmentStore
from shared.errors import DataError
from shared.process.cli import MapFolder
from shared.types import TaskQuery
from support.archives import archive_at, at, put, record
from support.coded_sessions import CodedSession, NamingModel, label_of, made_up_bundle
from support.processes import ROOT, refused, run_here

ASKED = TaskQuery(name="classification")
FRAMES = 90
MAKER = Maker("classification", "aabbccdd", "d1")


@pytest.fixture
def says(tmp_path: Path) -> dict[tuple[str, str], str]:
    """A store in tmp_path/segments, and what each record's answer is."""
    some = [CodedSession(f"c{i}", i, f"{i:02x}") for i in range(3)]
    with archive_at(tmp_path) as archive:
        put(archive, *(some[i % 3].some(i) for i in range(FRAMES)))
    seal_archive(tmp_path, at(FRAMES), limits=Limits(600, 1000))
    return {(one.camera, name): label_of(latent) for one in some for name, latent in one.latents.items()}


def replayed(tmp_path: Path, model: NamingModel, maker: Maker = MAKER, **more: Any) -> AnswerCounts:
    request = ReplayRequest(tmp_path / "segments", at(-1), at(FRAMES), None, "classification")
    request = replace(request, **more)
    store = AnswerStore(str(tmp_path / "answers"), maker)
    store.check()
    replay = SegmentReplay(request, Served(made_up_bundle(), model), ASKED, store, MapFolder(None), batch=4)
    done = AnswerCounts()
    for part in parts_of(request.archive, request.since, request.until):
        done.add(asyncio.run(replay.run(part)))
    return done


def answered(tmp_path: Path) -> Counter[tuple[str, str, str]]:
    query = "SELECT camera, request_id, result->>'$.top[0].label' FROM read_parquet(?)"
    rows = duckdb.execute(query, [f"{tmp_path}/answers/classification/*.parquet"]).fetchall()
    return Counter(rows)


def test_each_record_is_answered_once(tmp_path: Path, says: dict[tuple[str, str], str]) -> None:
    first = replayed(tmp_path, NamingModel(), camera="c1", since=at(30))
    assert 0 < first.counts.answered < FRAMES / 3
    model = NamingModel()
    second = replayed(tmp_path, model)
    assert second.known == first.counts.answered
    assert second.counts.answered == FRAMES - first.counts.answered
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "answers").rglob("*.parquet")}
    third = replayed(tmp_path, model := NamingModel())
    assert (third.counts.answered, third.known, model.images) == (0, FRAMES, 0)
    assert answered(tmp_path) == Counter({(*key, label): 1 for key, label in says.items()})
    expire_records(SegmentStore(tmp_path / "segments"), at(30))
    assert replayed(tmp_path, NamingModel()).counts.answered == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "answers").rglob("*.parquet")} == files


def test_a_replay_that_ends_early_goes_on(
    tmp_path: Path, says: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.segments.answers, "ROWS_MAX", 5)
    ends = [0]
    write = cloud.segments.files.write_atomically

    def write_or_die(path: Path, data: bytes) -> None:
        ends[0] += 1
        if ends[0] % 3 == 0:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(cloud.segments.files, "write_atomically", write_or_die)
    kills = 0
    while True:
        try:
            replayed(tmp_path, NamingModel())
            break
        except KeyboardInterrupt:
            kills += 1
            found = answered(tmp_path)
            assert set(found.values()) == {1}
    assert kills > 3
    assert answered(tmp_path) == Counter({(*key, label): 1 for key, label in says.items()})


def test_the_folder_of_answers_is_listed_once(
    tmp_path: Path, says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, names = [], Files.names

    def counted(files: Files, end: str = "") -> list[str]:
        listed.append(files.shown)
        return names(files, end)

    monkeypatch.setattr(Files, "names", counted)
    assert replayed(tmp_path, NamingModel()).counts.answered == FRAMES
    assert len(parts_of(tmp_path / "segments")) > 3
    assert sum(shown.endswith("answers/classification") for shown in listed) == 2  # once more by the check


def test_answers_of_another_question_are_not_mixed(tmp_path: Path, says: Any) -> None:
    replayed(tmp_path, NamingModel())
    with pytest.raises(DataError, match="choose another folder"):
        replayed(tmp_path, NamingModel(), replace(MAKER, digest="d2"))
    [first, *_] = (tmp_path / "answers" / "classification").iterdir()
    first.write_bytes(first.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged; remove it"):
        replayed(tmp_path, NamingModel())


def test_what_has_no_answer_is_asked_again(tmp_path: Path, says: Any) -> None:
    with archive_at(tmp_path) as archive:
        put(archive, replace(record(200, "c9"), received_at=at(50)))
    seal_archive(tmp_path, at(FRAMES))
    for known in (0, FRAMES):
        done = replayed(tmp_path, NamingModel())
        assert (done.known, done.counts.errors) == (known, Counter({"Invalid bitstream": 1}))
    assert answered(tmp_path).total() == FRAMES


def test_the_command_and_the_examples_of_the_page(
    tmp_path: Path, tiny_bundle: Path, packed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    with archive_at(tmp_path / "kept") as archive:
        for i in range(8):
            put(archive, replace(record(i, f"door-{i % 2}"), received_at=now, data=packed[i]))
        assert archive.flush(30)
        command = ["cloud", "replay", "--archive", tmp_path / "kept", "--task", "classification"]
        command += ["--from", "2026-01-01", "--to", "2999-01-01", "--bundle", tiny_bundle]
        answers = tmp_path / "answers"
        assert "either --out" in refused(*command, status=2)
        assert "nothing of that time is sealed" in refused(*command, "--answers", answers, status=2)
        seal_archive(tmp_path / "kept", datetime.now(UTC))
        put(archive, replace(record(9, "door-1"), received_at=now, data=packed[0]))
        assert archive.flush(30)
        done = run_here(*command, "--answers", answers)
        assert done.returncode == 0, done.stderr
        assert "8 answered, 0 not, 0 before, 1 not sealed yet" in done.stdout
        assert "0 answered, 0 not, 8 before" in run_here(*command, "--answers", answers).stdout
        assert "choose another folder (--answers)" in refused(
            *command, "--answers", answers, "--top-k", "2", status=2
        )
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "archive.md").read_text("utf-8")
    queries = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert len(queries) >= 3
    for query in queries:
        assert duckdb.sql(query).fetchall(), query
