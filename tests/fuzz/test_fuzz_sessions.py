"""Sessions on a link that damages, forges, repeats and reorders: true answers or named refusals, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def fuzz(count: int, *options: str, timeout_s: float = 150) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "support.fuzz_sessions", "--count", str(count), *options],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    report: dict[str, Any] = json.loads(done.stdout)
    assert sum(report["ends"].values()) == count
    # Each damaged frame is checked against 8 references at most, and holds for one of 65,536 each.
    damaged = sum(number for end, number in report["ends"].items() if end.startswith("damaged"))
    assert report["by_chance"] <= 3 + 2 * 8 * damaged / 65_536
    return report


def test_3000_frames() -> None:
    ends = fuzz(3_000)["ends"]
    for end in (
        "sound: Answered",
        "sound: NeedIntra",  # the cloud has restarted
        "sound: RequestError",  # a number whose forged frame came first
        "damaged: NeedIntra",
        "damaged: ChecksumError",
        "damaged: RequestError",
        "damaged: TruncatedError",
        "damaged: MalformedHeaderError",
        "forged: Answered",
        "forged: CorruptPayloadError",
    ):
        assert ends.get(end, 0) > 0, (end, ends)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_100000_frames(seed: int) -> None:
    fuzz(25_000, "--seed", str(seed), "--seconds", "3500", timeout_s=3_600)
