"""A replay in parts: shards by hand, and the processes of a Ray, answer each record once together."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cloud.archive.replay_answers import Shard
from cloud.archive.sources import Part
from cloud.segments.seal import seal_archive
from shared.errors import RequestError
from support.archives import archive_at, put, record
from support.processes import refused, run, run_here

SEGMENTS, EACH = 5, 4


@pytest.fixture
def command(tmp_path: Path, tiny_bundle: Path, packed: list[bytes]) -> list[Any]:
    """A replay of an archive of several segments."""
    with archive_at(tmp_path / "kept") as archive:
        for segment in range(SEGMENTS):
            for i in range(EACH):
                one = record(segment * EACH + i, f"door-{i}")
                put(archive, replace(one, received_at=datetime.now(UTC), data=packed[(segment + i) % 8]))
            assert archive.flush(30)
            seal_archive(tmp_path / "kept", datetime.now(UTC))
    asked = ["cloud", "replay", "--archive", tmp_path / "kept", "--task", "classification"]
    return [*asked, "--from", "2026-01-01", "--to", "2999-01-01", "--bundle", tiny_bundle]


def rows(answers: Path) -> list[tuple[str, str, str]]:
    """Camera, request and class; scores differ in their last digits with the images of a batch."""
    table = [row for file in sorted(answers.rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return sorted(
        (row["camera"], row["request_id"], json.loads(row["result"])["top"][0]["label"]) for row in table
    )


def answered(text: str) -> int:
    found = re.search(r"(\d+) answered", text)
    assert found is not None, text
    return int(found[1])


def test_shards_answer_each_record_once(tmp_path: Path, command: list[Any]) -> None:
    assert run_here(*command, "--answers", tmp_path / "whole").returncode == 0
    numbers = []
    for number in range(1, 4):
        done = run_here(*command, "--answers", tmp_path / "shards", "--shard", f"{number}/3")
        assert done.returncode == 0, done.stderr
        numbers.append(answered(done.stdout))
    assert sum(numbers) == SEGMENTS * EACH
    assert rows(tmp_path / "shards") == rows(tmp_path / "whole")
    # A shard that is done again, as after a kill, finds its answers.
    again = run_here(*command, "--answers", tmp_path / "shards", "--shard", "2/3")
    assert f"0 answered, 0 not, {numbers[1]} before" in again.stdout


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(RequestError, match=r"1/8 \.\. 8/8"):
        Shard.parse(text)


def test_every_segment_is_in_one_shard() -> None:
    class Named(Part):
        name = ""

    for i in range(200):
        part = Named("store")
        Named.name = f"20261129T{i:06}Z-{i}"
        assert sum(Shard(number, 7).has(part) for number in range(1, 8)) == 1


def test_shards_need_answers(command: list[Any], tmp_path: Path) -> None:
    assert "go with --answers" in refused(*command, "--out", tmp_path / "a", "--shard", "1/2", status=2)


@pytest.mark.slow
def test_ray_answers_as_one_process_does(tmp_path: Path, command: list[Any]) -> None:
    pytest.importorskip("ray", reason="comes with the extra ray")
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # everything on the loopback address
    assert run_here(*command, "--answers", tmp_path / "whole").returncode == 0
    done = run(*command, "--answers", tmp_path / "ray", "--engine", "ray", "--replicas-max", "2")
    assert done.returncode == 0, done.stderr
    assert answered(done.stdout) == SEGMENTS * EACH
    assert rows(tmp_path / "ray") == rows(tmp_path / "whole")
