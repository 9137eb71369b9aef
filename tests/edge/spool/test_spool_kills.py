"""A process that spools and acknowledges is killed at random moments: what it said was accepted is there, and no more.

The same where the power is cut: then what was written and not synced is lost as well, or a part of it.

`python -m pytest -m slow tests/edge/spool/test_spool_kills.py` does each 200 times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge.spool.spool import Spool
from support.power_cut import Disk
from support.processes import ROOT
from support.spool_work import work


def killed(path: Path, seed: int, lines: int, more_s: float) -> list[str]:
    """The lines of a process that is killed a moment after it has written so many."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            work(path, writing, seed)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = [file.readline() for _ in range(lines)]
        threading.Event().wait(more_s)
        os.kill(child, signal.SIGKILL)
        said += file.readlines()
    os.waitpid(child, 0)
    return [line.rstrip("\n") for line in said if line.endswith("\n")]


def powerless(path: Path, disk: Disk, seed: int, lines: int, more_s: float, *more: str) -> list[str]:
    """The lines of a process whose power is cut a moment after it has written so many."""
    disk.settle()
    env = os.environ | disk.env | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "support.spool_work", str(path), str(seed), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        assert all(said)
        threading.Event().wait(more_s)
        process.kill()
        said += process.stdout.readlines()
    return [line.rstrip("\n") for line in said if line.endswith("\n")]


def kill_often(path: Path, times: int, disk: Disk | None = None) -> int:
    """Returns how many blocks were lost."""
    rng = random.Random(times)
    expected: set[str] = set()
    lost = 0
    for seed in range(times):
        lines, more_s = rng.randint(0, 12), rng.random() / 50
        said = (
            killed(path, seed, lines, more_s) if disk is None else powerless(path, disk, seed, lines, more_s)
        )
        lost += 0 if disk is None else disk.lose(rng)
        for line in said:
            (expected.add if line[0] == "+" else expected.discard)(line[1:])
        with Spool(path, bytes_max=1 << 30) as spool:
            state, there = spool.state(), {one.id for one in spool.lease(1 << 20)}
        assert state.damaged_files == ()
        assert state.drops == {}
        assert len(there) == state.depth
        # What it did last, it could not say any more: at most one batch was put, or one was acknowledged.
        assert len(there - expected) <= 5, f"kill {seed}"
        assert len(expected - there) <= 5, f"kill {seed}"
        assert not (there - expected and expected - there), f"kill {seed}"
        expected = there
    assert expected
    return lost


def test_kills(tmp_path: Path) -> None:
    kill_often(tmp_path, 20)


def spool_and_disk(path: Path) -> tuple[Path, Disk]:
    (path / "spool").mkdir()
    return path / "spool", Disk(path / "spool", path)


def test_power_cuts(tmp_path: Path) -> None:
    path, disk = spool_and_disk(tmp_path)
    assert kill_often(path, 6, disk) > 0


def test_the_power_cut_loses_what_is_not_synced(tmp_path: Path) -> None:
    """The same without syncs: what was said to be accepted is not there, so the test above can fail."""
    path, disk = spool_and_disk(tmp_path)
    said = powerless(path, disk, 0, 40, 0.0, "unsynced")
    assert disk.lose(random.Random(1)) > 0
    accepted = {line[1:] for line in said if line[0] == "+"} - {line[1:] for line in said if line[0] == "-"}
    with Spool(path, bytes_max=1 << 30) as spool:
        there = {one.id for one in spool.lease(1 << 20)}
    assert accepted - there


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    kill_often(tmp_path, 200)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_power_cuts(tmp_path: Path) -> None:
    path, disk = spool_and_disk(tmp_path)
    assert kill_often(path, 200, disk) > 0
