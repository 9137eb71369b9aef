"""A process that spools and acknowledges is killed at random moments: what it said was accepted is there, and no more.

`python -m pytest -m slow tests/edge/spool/test_spool_kills.py` kills it 200 times.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from edge.spool.records import NewFrame
from edge.spool.spool import Spool


def work(path: Path, out: int, seed: int) -> None:
    """Puts and acknowledges for ever, and says each after it is done: "+id" or "-id"."""
    rng = random.Random(seed)
    spool = Spool(path, bytes_max=1 << 30)
    while True:
        frames = [
            NewFrame("door", "01234567", rng.randbytes(rng.choice((30, 400, 9000))))
            for _ in range(rng.randint(1, 5))
        ]
        done = [f"+{id_}" for id_ in spool.put(frames)]
        os.write(out, "\n".join([*done, ""]).encode())
        ids = [one.id for one in spool.lease(rng.randint(0, 5))]
        spool.acknowledge(ids[1:])
        spool.give_back(ids[:1])
        os.write(out, "".join(f"-{id_}\n" for id_ in ids[1:]).encode())


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


def kill_often(path: Path, times: int) -> None:
    rng = random.Random(times)
    expected: set[str] = set()
    for seed in range(times):
        for line in killed(path, seed, rng.randint(0, 12), rng.random() / 50):
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


def test_kills(tmp_path: Path) -> None:
    kill_often(tmp_path, 20)


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    kill_often(tmp_path, 200)
