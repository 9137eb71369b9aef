"""`isthmus bench cloud`: what it concludes from made-up measurements, and a brief run against the shipped bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench.report.report import About
from bench.throughput.load import Loaded, Reply
from bench.throughput.throughput import throughput
from bench.throughput.throughput_report import Asked, Cloud, Round, Stages, plot, sections
from shared.bundle import default_bundle
from support.processes import refused, run_here


def replies(*batches: tuple[float, float, int]) -> Loaded:
    """batches: when sent, when answered, how many."""
    told = [
        Reply(sent_s=sent, done_s=done + 0.001 * i, queue_ms=1, decode_ms=1, tails_ms=10 + number)
        for number, (sent, done, count) in enumerate(batches)
        for i in range(count)
    ]
    return Loaded(replies=tuple(told), seconds=max(done for _, done, _ in batches), cpu_s=0.1)


def test_throughput_is_between_batches_of_a_full_load() -> None:
    # The first batch is small because the others came late, the last ones because nothing more was sent.
    loaded = replies((0, 0.1, 1), (0, 0.5, 8), (0.1, 0.9, 8), (0.5, 1.3, 8), (0.9, 1.7, 8), (1.3, 1.8, 1))
    rate, batch = throughput(loaded)
    assert rate == pytest.approx(24 / 1.2, rel=0.02)
    assert batch == 8


def test_throughput_of_a_load_that_is_answered_in_one_batch() -> None:
    assert throughput(replies((0, 0.5, 4))) == (8, 4)


def made(rate: float, bare_rate: float, cpu_ms: float = 20) -> Round:
    return Round(
        rate=rate,
        batch=16,
        ms=(100, 200, 300),
        queue_ms=50,
        decode_ms=10,
        tails_ms=90,
        cpu_ms=cpu_ms,
        load_share=0.05,
        bare_rate=bare_rate,
        bare_cpu_ms=16,
    )


def measured(*rounds: Round) -> Cloud:
    about = About(command="isthmus bench cloud", date="2026-01-01", pictures=8, machine={})
    asked = tuple(Asked(question="all tasks", concurrency=n, rounds=rounds) for n in (1, 32))
    stages = Stages(question="all tasks", batch=16, ms={"decode": 1.0, "forward": 16.0})
    return Cloud(about=about, threads=1, asked=asked, stages=(stages,))


def test_the_ratio_is_of_each_rounds_two() -> None:
    """The second round met a busy machine; the medians of rates alone would give 45 / 100."""
    cloud = measured(made(90, 100), made(45, 50), made(40, 200))
    assert cloud.asked[0].ratio == 0.9
    [target] = sections(cloud)[0].targets
    assert (target.reached, target.met) == ("90%", True)
    assert not sections(measured(made(84, 100)))[0].targets[0].met


def test_what_no_stage_explains_is_told() -> None:
    [row] = sections(measured(made(90, 100, cpu_ms=20)))[-1].rows
    assert row == ("all tasks", "16", "1.00", "16.00", "3.00", "20.00")
    assert plot(measured(made(90, 100))).startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "0", "1,x", "200"])
def test_concurrency_that_cannot_be(text: str) -> None:
    assert "whole numbers from 1 to 128" in refused("bench", "cloud", "--concurrency", text, status=2)


def test_quick_against_the_shipped_bundle(tmp_path: Path) -> None:
    options = ("--quick", "--concurrency", "1,4", "--threads", "1", "--out", tmp_path)
    done = run_here("bench", "cloud", default_bundle(), *options)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    one, four = results["asked"]
    assert (one["concurrency"], four["concurrency"]) == (1, 4)
    assert one["rounds"][0]["batch"] == 1
    assert 1 < four["rounds"][0]["batch"] <= 4
    assert all(value > 0 for value in results["stages"][0]["ms"].values())
    assert "| all tasks |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "cloud.png").read_bytes().startswith(b"\x89PNG")
