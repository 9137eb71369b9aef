"""`isthmus bench cloud`: the rate under load, and a brief run against the shipped bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench.throughput.load_client import LoadResult, Reply
from bench.throughput.throughput import rate_and_batch
from shared.shipped import default_bundle
from support.processes import refused, run_here


def load(*batches: tuple[float, float, int]) -> LoadResult:
    """batches: when sent, when answered, how many."""
    replies = [
        Reply(sent_s=sent, done_s=done + 0.001 * i, queue_ms=1, decode_ms=1, tails_ms=10 + number)
        for number, (sent, done, count) in enumerate(batches)
        for i in range(count)
    ]
    return LoadResult(replies=tuple(replies), seconds=max(done for _, done, _ in batches), cpu_s=0.1)


def test_throughput_is_between_batches_of_a_full_load() -> None:
    # The first batch is small because the others came late, the last ones because nothing more was sent.
    result = load((0, 0.1, 1), (0, 0.5, 8), (0.1, 0.9, 8), (0.5, 1.3, 8), (0.9, 1.7, 8), (1.3, 1.8, 1))
    rate, steady, batch = rate_and_batch(result)
    assert steady
    assert rate == pytest.approx(24 / 1.2, rel=0.02)
    assert batch == 8


def test_throughput_of_a_load_that_is_answered_in_one_batch() -> None:
    assert rate_and_batch(load((0, 0.5, 4))) == (8, False, 4)


def test_two_batches_that_end_together_do_not_make_the_service_fast() -> None:
    """8 answers 10 ms after the 8 before them are not 800 a second: the run gave 17 in 1.1 s."""
    result = load((0, 0.5, 8), (0, 0.51, 8), (0.6, 1.1, 1))
    rate, steady, _ = rate_and_batch(result)
    assert not steady
    assert rate == pytest.approx(17 / 1.1, rel=0.02)


@pytest.mark.parametrize("text", ["", "0", "1,x", "200"])
def test_concurrency_that_cannot_be(text: str) -> None:
    line = refused("bench", "cloud", "--concurrency", text, status=2)
    assert line == f"{text!r}: give whole numbers from 1 to 128, comma-separated (--concurrency)"


def test_quick_against_the_shipped_bundle(tmp_path: Path) -> None:
    options = ("--quick", "--concurrency", "1,4", "--threads", "1", "--out", tmp_path)
    done = run_here("bench", "cloud", default_bundle(), *options)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    one, four = results["loads"]
    assert (one["concurrency"], four["concurrency"]) == (1, 4)
    assert one["rounds"][0]["batch"] == 1
    assert 1 < four["rounds"][0]["batch"] <= 4
    assert all(value > 0 for value in results["stages"][0]["ms"].values())
    assert "| all tasks |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "cloud.png").read_bytes().startswith(b"\x89PNG")
