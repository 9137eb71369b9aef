"""Ctrl-C and SIGTERM of trainings, with real processes and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from support.processes import ISTHMUS, ROOT, kill_tree, killed_after
from train.rooms import write_rooms

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
GATED = (sys.executable, "tests/support/gated_training.py")
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@contextmanager
def started(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=ENV, text=True, **pipes)
    try:
        yield process
    finally:
        kill_tree(process)
        process.communicate(timeout=20)


def reach(process: subprocess.Popen[str], gate: str) -> None:
    """Waits until a process of the training is at the gate."""
    assert process.stdout is not None
    said = []
    with killed_after(process):
        for line in process.stdout:
            if line.strip() == gate:
                return
            said.append(line)
        raise AssertionError(f"not at {gate}: {said}, {process.stderr and process.stderr.read()}")


def ended(process: subprocess.Popen[str], text: str = "") -> tuple[int, str]:
    """Status and stderr, within seconds."""
    _, said = process.communicate(text, timeout=60)
    return process.returncode, said


def finished(out: Path, *more: str) -> str:
    done = subprocess.run(
        [*GATED, str(out), "none", *more], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nobody interrupted, and its result."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, finished(out)


@pytest.mark.parametrize(
    ("gate", "number", "saved"),
    [("batches:17", signal.SIGTERM, 17), ("loss:17", signal.SIGINT, 18), ("validate:2", signal.SIGTERM, 20)],
)
def test_a_signal_saves_a_checkpoint_and_the_run_goes_on_as_if_there_had_been_none(
    tmp_path: Path, whole: tuple[Path, str], gate: str, number: signal.Signals, saved: int
) -> None:
    """Between steps and in a validation at once; within a step at its end."""
    out = tmp_path / "run"
    with started(*GATED, out, gate) as process:
        reach(process, gate)
        process.send_signal(number)
        status, said = ended(process, "\n" if gate.startswith("loss") else "")
    assert status == STATUS[number], said
    assert said == f"interrupted: {out / 'checkpoint.pt'} holds step {saved} of 40; resume to go on\n"
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == saved
    assert finished(out, "resume") == whole[1]
    assert curve(out) == curve(whole[0])
    assert (out / "validations.txt").read_text() == (whole[0] / "validations.txt").read_text()


def test_the_same_signal_twice_ends_a_step_that_hangs(tmp_path: Path) -> None:
    with started(*GATED, tmp_path / "run", "loss:5") as process:
        reach(process, "loss:5")
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)  # signals that arrive together count once
        assert ended(process)[0] in (130, -signal.SIGINT)  # the latter where one arrives as it leaves
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("gate", "kept"),
    [("start", "no step was done, and nothing is lost"), ("result", "holds step 40 of 40; resume to go on")],
)
def test_before_the_first_step_and_after_the_last(tmp_path: Path, gate: str, kept: str) -> None:
    with started(*GATED, tmp_path / "run", gate) as process:
        reach(process, gate)
        process.send_signal(signal.SIGTERM)
        status, said = ended(process)
    assert status == 143
    assert said.startswith("interrupted: ")
    assert said.endswith(f"{kept}\n")
    assert said.count("\n") == 1


def test_two_processes_stop_at_one_step(tmp_path: Path, whole: tuple[Path, str]) -> None:
    """As a terminal's Ctrl-C reaches them: through torchrun. The run goes on in one process."""
    many = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    out = tmp_path / "run"
    with started(*many, GATED[1], out, "loss:17") as process:
        reach(process, "loss:17")
        reach(process, "loss:17")
        process.send_signal(signal.SIGINT)
        status, said = ended(process)
    assert status != 0
    assert said.count("interrupted: ") == 1
    assert "holds step 18 of 40" in said
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 18
    finished(out, "resume")
    assert [line["step"] for line in curve(out)] == list(range(1, 41))
    for one, other in zip(curve(out), curve(whole[0]), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def wait(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_command_says_how_to_go_on(tmp_path: Path) -> None:
    rooms, out = tmp_path / "rooms", tmp_path / "run"
    write_rooms(rooms, range(12), height=32, width=32, layers=("image", "category"), shard_size=6)
    command = (*ISTHMUS, "network", "train", "--data", rooms, "--out", out, "--set", "holdout=4")
    sizes = ("--batch", "4", "--steps", "1000000", "--device", "cpu")
    with started(*command, *sizes) as process:
        wait(process, (out / "recipe.json").is_file)
        wait(process, lambda: (out / "curve.jsonl").is_file() and bool((out / "curve.jsonl").read_text()))
        process.send_signal(signal.SIGINT)
        status, said = ended(process)
    assert status == 130
    step = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    line = f"isthmus: interrupted: {out / 'checkpoint.pt'} holds step {step} of 1000000; resume to go on (--resume)"
    assert said.strip() == line
    (out / "checkpoint.pt").unlink()
    (out / "curve.jsonl").unlink()
    with started(*command, *sizes, "--resume") as process:
        reach(process, f"{out}: starts at step 0, because its run has no checkpoint yet")
