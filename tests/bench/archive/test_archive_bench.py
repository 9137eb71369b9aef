"""`isthmus bench archive`: its records are whole chunks, its report says what was missed, and it runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.archive.archive_report import Archived, Step, sections
from bench.archive.streams import Stream, ends_at, records
from bench.report.report import About
from bench.report.sections import targets
from support.processes import run_here

STREAMS = [Stream((b"i0", b"p0", b"s0"), ("I", "P", "S")), Stream((b"i1", b"p1", b"s1"), ("I", "P", "S"))]


def test_records_are_chunks_of_every_camera_in_order_of_time() -> None:
    made = list(records(STREAMS, 4, 50))
    assert len(made) == 50
    assert len({(one.camera, one.request_id) for one in made}) == 50
    assert [one.received_at for one in made] == sorted(one.received_at for one in made)
    assert made[-1].received_at < ends_at(4, 50)
    own = [one for one in made if one.camera == "camera-1"]
    assert [one.data for one in own[:4]] == [b"i1", b"p1", b"s1", b"i1"]
    assert [one.chunk for one in own[:4]] == ["", own[0].request_id, own[0].request_id, ""]
    assert Counter(one.camera for one in made)["camera-3"] == 12


def archived(killed: int, found: str) -> Archived:
    step = Step(name="seal", seconds=2, cpu_s=1, records=1000, bytes=9, most_mb=99)
    about = About(command="isthmus bench archive", date="2026-11-29T00:00:00", images=1000, machine={})
    return Archived(
        about=about,
        bundle="rooms",
        records=1000,
        cameras=10,
        shares={"I": 0.5, "S": 0.5},
        sizes={"I": 300.0, "S": 24.0},
        segments=1,
        head_bytes=1,
        data_bytes=1,
        index_bytes=1,
        killed_records=killed,
        flipped="x.data",
        found=found,
        steps=(step,),
    )


@pytest.mark.parametrize(
    ("killed", "found", "met"),
    [
        (1000, "x.data, from byte 3: record s.1 of camera c is damaged", [True, True]),
        (999, "", [False, False]),
        (1001, "y.data: record s.1", [False, False]),
    ],
)
def test_a_record_too_few_or_too_many_or_damage_not_found_is_a_miss(
    killed: int, found: str, met: list[bool]
) -> None:
    made = sections(archived(killed, found))
    assert [target.met for target in targets(made)] == met
    assert made[0].rows[0] == ("seal", "1,000", "2.0", "1.0", "500", "99")


@pytest.mark.slow  # a minute: eight processes, two of which load a bundle; `make test-slow`
def test_the_command(tmp_path: Path) -> None:
    done = run_here("bench", "archive", "--total", "2000", "--cameras", "10", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert all(target["met"] for target in results["targets"])
    assert [step["records"] for step in results["steps"]] == [2000] * 4 + [200] * 2 + [2000]
