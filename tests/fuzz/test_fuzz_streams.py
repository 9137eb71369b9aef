"""Damaged, forged and swapped streams: an Isthmus error or a decoded z, in bounded memory and time; nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.random_codec import random_tensors

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "bundles" / "rooms"

ERRORS = {
    "NotABitstreamError",
    "UnsupportedVersionError",
    "MalformedHeaderError",
    "TruncatedError",
    "TrailingBytesError",
    "ChecksumError",
    "StreamTooLargeError",
    "CorruptPayloadError",
    "BundleMismatchError",
}


def fuzz(count: int, *options: str, timeout_s: float = 300) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "support.fuzz_streams", "--count", str(count), *options],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]  # -SIGALRM: out of time
    assert not done.stderr, done.stderr[-6000:]
    report: dict[str, Any] = json.loads(done.stdout)
    assert sum(report["ends"].values()) == count
    assert set(report["ends"]) <= ERRORS | {"decoded"}
    return report


def test_5000_streams() -> None:
    report = fuzz(5_000)
    # The fuzzer reaches every end that there is; a kind that stopped working would show here.
    assert set(report["ends"]) == ERRORS | {"decoded"}
    assert report["ends"]["decoded"] > 500
    assert report["peak_mb"] < 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_100000_streams(seed: int) -> None:
    report = fuzz(25_000, "--seed", str(seed), timeout_s=900)
    assert set(report["ends"]) == ERRORS | {"decoded"}


def shipped_options() -> list[str]:
    if not SHIPPED.exists():
        pytest.skip("no shipped bundle in deploy/bundles/rooms")
    h, w = json.loads((SHIPPED / "manifest.json").read_text())["codec"]["grid"]
    return ["--entropy", str(SHIPPED / "entropy.safetensors"), "--grid", f"{h}x{w}", "--memory-mb", "1024"]


def test_500_streams_of_the_shipped_bundle() -> None:
    fuzz(500, *shipped_options())


@pytest.mark.slow
def test_100000_streams_of_the_shipped_bundle() -> None:
    fuzz(100_000, *shipped_options(), timeout_s=3600)


def test_the_memory_limit_is_real(tmp_path: Path) -> None:
    """A codec that needs more than it may have fails the run: without this, the limit might limit nothing."""
    from safetensors.numpy import save_file

    path = tmp_path / "entropy.safetensors"
    save_file(random_tensors(0, n=64, tau=256, grid=(1, 1), hidden=(512,)), path)
    with pytest.raises(AssertionError, match="MemoryError"):
        fuzz(300, "--entropy", str(path), "--grid", "1x1", "--memory-mb", "32")


def test_the_time_limit_is_real() -> None:
    with pytest.raises(AssertionError, match=r"Current thread (.|\n)* == 0"):
        fuzz(2_000, "--seconds", "0.00002")
