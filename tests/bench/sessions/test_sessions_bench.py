"""`isthmus bench sessions`: its report, and a small run against a real cloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.report.report import About
from bench.sessions.sessions import Sessions, Step, sections
from support.processes import run_here


def test_the_report_says_what_a_session_takes() -> None:
    step = Step(name="open", open=1024, frames=512, seconds=2, p50_ms=1, p99_ms=9, cpu_ms=3, rss_mb=700)
    about = About(command="isthmus bench sessions", date="2026-11-29T00:00:00", images=1024, machine={})
    measured = Sessions(about=about, bundle="rooms", task="classification", idle_mb=600, steps=(step,))
    assert measured.kb_a_session == 100
    [section] = sections(measured)
    assert section.rows == (("open", "1,024", "256", "1", "9", "3.00", "700"),)


@pytest.mark.slow  # half a minute: a cloud with the shipped bundle; `make test-slow`
def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_here("bench", "sessions", "--cameras", "30", "--rounds", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    steps = json.loads((out / "results.json").read_text())["steps"]
    assert [step["open"] for step in steps] == [8, 16, 23, 30, 30]
    assert sum(step["frames"] for step in steps) == 60
