"""`isthmus bench replicas`: its report, and a small run with a Ray."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from bench.replicas.replicas import Compared, Replicas, Turn, sections
from bench.report.report import About, markdown, show
from support.processes import refused, run_here


def test_the_report_compares_turn_by_turn() -> None:
    """Where the machine is busy for a while, both servers are slow."""
    local = (Turn(ms=10, rate=100), Turn(ms=50, rate=20), Turn(ms=10, rate=100))
    ray = (Turn(ms=14, rate=90), Turn(ms=53, rate=18), Turn(ms=15, rate=80))
    one = Compared(replicas=2, answers=8, equal=8, local=local, ray=ray)
    assert (one.more_ms, one.share) == (4, 0.9)
    about = About(command="isthmus bench replicas", date="2026-11-29T00:00:00", images=8, machine={})
    [section] = sections(Replicas(about=about, bundle="rooms", task="classification", compared=(one,)))
    assert section.rows == (("2", "8 of 8", "10.0", "15.0", "+4.0", "100.0", "80.0", "0.90"),)
    shown = io.StringIO()
    show([section], Console(file=shown))
    assert "Targets" not in shown.getvalue() + markdown([section], about)  # it has none


def test_what_is_no_list_of_replicas(tmp_path: Path) -> None:
    for wrong in ("", "0", "1,,2", "1,x", "65"):
        command = ("bench", "replicas", "--out", tmp_path / "out", "--counts", wrong)
        assert "no list of 1 to 64 replicas" in refused(*command, status=2)


@pytest.mark.slow  # a server and a Ray; `make test-slow`
@pytest.mark.timeout(1200)
def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="comes with the extra ray")
    out = tmp_path / "out"
    done = run_here("bench", "replicas", "--counts", "1", "--rounds", "1", "--seconds", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    [compared] = json.loads((out / "results.json").read_text())["compared"]
    assert compared["equal"] == compared["answers"] == 8
