"""Damaged files of each format that arrives from outside: a named error or contents, in bounded memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.fuzz_formats import CORPUS, FORMATS

ROOT = Path(__file__).parents[2]


def fuzz(*arguments: str, timeout_s: float = 150) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "support.fuzz_formats", *arguments],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]  # -SIGALRM: out of time
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_every_format_has_a_small_corpus() -> None:
    folders = {path.name for path in CORPUS.iterdir() if path.is_dir()}
    assert folders == set(FORMATS)
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000


def test_150_files_of_each_format() -> None:
    report = fuzz(*FORMATS, "--count", "150")
    for name in FORMATS:
        ends = report[name]["ends"]
        assert sum(ends.values()) == 150
        assert len(ends) >= 2, (name, ends)  # neither always refused nor always read


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_files(name: str) -> None:
    for seed in range(1, 5):
        fuzz(name, "--count", "10000", "--seed", str(seed), timeout_s=1700)


def test_the_time_limit_is_real() -> None:
    with pytest.raises(AssertionError, match=r"Current thread (.|\n)* == 0"):
        fuzz("image", "--count", "400", "--seconds", "0.00002")
