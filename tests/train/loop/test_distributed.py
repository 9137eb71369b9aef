"""Several processes train as one would: torchrun, gloo, two CPU processes."""

from __future__ import annotations

import json
import socket
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from shared.errors import DataError
from support.torchrun import start
from support.untrained import SIZE, random_network, random_run
from train.bundle.build import build
from train.data.room_set import RoomSet
from train.loop import distributed
from train.loop.distributed import Workers
from train.rooms import write_rooms

ROOT = Path(__file__).parents[3]
STEPS = 20
# With noise that the model draws, and a mean over unequally many things in each process: what a codec's loss needs.
NOISY = """
import atexit
import os
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from train.loop import training
from train.loop.distributed import Workers
from train.loop.interrupts import Interrupts
from train.loop.run import Run
from train.loop.schedule import Schedule
from train.loop.scores import Scores

training.LOG_EVERY = 1
# Registered first, so called last: a process group that outlives the interpreter can abort the process.
# One write: two processes share the output.
atexit.register(lambda: os.write(1, f"group {torch.distributed.is_initialized()}\\n".encode()))
workers = Workers(torch.device("cpu"), all_used=False)

class Noisy(training.Training):
    def __init__(self, out):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Linear(1, 1))
        self.run = Run(Path(out), {}, workers=workers)
        self.plan = training.Plan(Schedule(20, 0.05, 1), seed=1)

    def batches(self, start):
        for step in range(start, 20):
            whole = np.random.default_rng(step).normal(size=(6, 4)).astype(np.float32)
            yield torch.from_numpy(workers.share(whole))

    def loss(self, x, step):
        counted = x[:, 0] > 0.3
        out = self.model[:3](x + workers.rand_like(x))[:, 0].square()  # the last layer is not used
        loss = (out * counted).sum() / workers.mean_count(counted.sum())
        return loss, {"share": float(counted.float().mean())}

    def validate(self):
        return Scores()

    def result(self, scores):
        return None

training.fit(Noisy(sys.argv[1]), Interrupts())
"""


def curve(run: Path) -> dict[str, np.ndarray]:
    lines = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return {name: np.array([line[name] for line in lines]) for name in lines[0]}


def same(one: Path, other: Path) -> None:
    a, b = curve(one), curve(other)
    assert a.keys() == b.keys()
    assert a["loss"][-1] != pytest.approx(a["loss"][0], rel=0.05), "nothing was trained"
    for name in a:
        assert b[name] == pytest.approx(a[name], rel=1e-4), name


def test_two_processes_train_a_network_as_one_does(tmp_path):
    """With batch normalisation, mirror images, unlabelled pixels, noise and more to tell than the task, a validation in
    two parts."""
    rooms, file = tmp_path / "rooms", tmp_path / "recipe.toml"
    layers = ("image", "category", "normals", "semantic")
    write_rooms(rooms, range(22), height=32, width=32, layers=layers, shard_size=11)
    file.write_text(
        f'data = "{rooms}"\ntask = "segmentation"\nsteps = {STEPS}\nbatch = 8\nholdout = 6\nlearning_rate = 0.05\n'
        "appearance = 0.3\ncategory = 0.3\nnoise = 0.4\n"
        "[network]\nstride = 8\nwidths = [4, 8, 8]\ntail_widths = [8, 8]\ndilations = [1]\n"
    )
    for processes in (0, 2):
        out = str(tmp_path / f"run{processes}")
        done = start(
            processes,
            "tests/support/log_every_step.py",
            *("network", "train", "--recipe", str(file), "--out", out, "--device", "cpu"),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("on 6 held-out images") == 1
        assert "Warning" not in done.stderr
    one, two = tmp_path / "run0", tmp_path / "run2"
    same(one, two)
    a, b = load_file(one / "network.safetensors"), load_file(two / "network.safetensors")
    assert a.keys() == b.keys()
    assert any("running_var" in name for name in a)
    for name in a:
        assert b[name] == pytest.approx(a[name], rel=1e-2, abs=1e-4), name
    assert json.loads((two / "recipe.json").read_text())["started_on"] == {
        "device": "cpu",
        "processes": 2,
        "precision": "32",
    }


def test_two_processes_train_a_later_task_as_one_does(tmp_path):
    rooms, bundle = tmp_path / "rooms", tmp_path / "bundle"
    layers = ("image", "category", "normals", "semantic")
    write_rooms(rooms, range(22), height=SIZE, width=SIZE, layers=layers, shard_size=11)
    cls = random_network(tmp_path / "cls", "classification")
    network = random_network(tmp_path / "segmentation", "segmentation")
    build(random_run(tmp_path / "codec", [cls]), bundle, "small", RoomSet(rooms))
    for processes in (0, 2):
        flags = (
            "--network",
            str(network),
            "--data",
            str(rooms),
            "--set",
            "holdout=6",
            "--distortion",
            "feature",
        )
        sizes = ("--steps", str(STEPS), "--batch", "8", "--set", "learning_rate=0.01", "--device", "cpu")
        done = start(
            processes,
            "tests/support/log_every_step.py",
            *("task", "train", str(bundle), *flags, *sizes, "--out", str(tmp_path / f"run{processes}")),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("add it with") == 1, done.stdout
    one, two = tmp_path / "run0", tmp_path / "run2"
    same(one, two)
    a, b = (load_file(run / "task" / "task.safetensors") for run in (one, two))
    assert a.keys() == b.keys()
    for name in a:
        assert b[name] == pytest.approx(a[name], rel=1e-2, abs=1e-4), name
    figures = [json.loads((run / "task" / "task.json").read_text())["figures"] for run in (one, two)]
    assert figures[1] == pytest.approx(figures[0], abs=1e-3)


def test_noise_and_means_over_unequal_parts_are_those_of_one_process(tmp_path):
    program = tmp_path / "noisy.py"
    program.write_text(NOISY)
    for processes in (0, 2):
        done = start(processes, str(program), str(tmp_path / f"run{processes}"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("group False") == max(processes, 1), done.stdout
    same(tmp_path / "run0", tmp_path / "run2")


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    rooms = tmp_path / "rooms"
    write_rooms(rooms, range(12), height=32, width=32, layers=("image", "category"), shard_size=6)
    flags = ("--data", str(rooms), "--out", str(tmp_path / "run"), "--set", "holdout=4", "--batch", "7")
    done = start(2, "-m", "isthmus", "network", "train", *flags)
    assert done.returncode != 0
    assert "a batch of 7 does not divide among 2 processes; change either (--batch)" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_processes_that_cannot_meet_end_with_an_error(monkeypatch, host):
    """Nobody listens there, or the name does not resolve: they do not wait for a day."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but it does not listen
        here = {
            "MASTER_ADDR": host,
            "MASTER_PORT": str(closed.getsockname()[1]),
            "RANK": "1",
            "LOCAL_RANK": "1",
        }
        many = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        torchrun = {"TORCHELASTIC_RUN_ID": "one", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        for name, value in (here | many | torchrun).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(distributed, "MEETING", timedelta(seconds=1))
        with pytest.raises(DataError, match=f"cannot meet at {host}:"):
            Workers(torch.device("cpu"))


def test_what_cannot_train_is_refused():
    with pytest.raises(DataError, match="training runs on cpu, cuda or mps, not on meta"):
        Workers(torch.device("meta"))
