"""Several processes train as one would: torchrun, gloo, two CPU processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from cloud.networks.networks import ClassifierConfig
from shared.errors import DataError
from support.torchrun import start
from support.untrained import SIZE, random_network, random_run
from train.bundle.build import build
from train.codec.codec_recipe import CodecRecipe, Part
from train.data.room_set import RoomSet
from train.loop import training
from train.loop.distributed import Workers
from train.loop.interrupts import Interrupts
from train.loop.run import Run
from train.loop.schedule import Schedule
from train.loop.scores import Score, Scores, to_json
from train.loop.training import Better, Plan, Training, fit
from train.networks.network_recipe import NetworkRecipe
from train.rooms import write_rooms

ROOT = Path(__file__).parents[3]
STEPS = 20
# With noise that the model draws, and a mean over unequally many things in each process: what a codec's loss needs.
NOISY = """
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
            *("train", "network", "--recipe", str(file), "--out", out, "--device", "cpu"),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("on 6 pictures held out") == 1
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
        flags = ("--network", str(network), "--data", str(rooms), "--holdout", "6", "--distortion", "feature")
        sizes = ("--steps", str(STEPS), "--batch", "8", "--learning-rate", "0.01", "--device", "cpu")
        done = start(
            processes,
            "tests/support/log_every_step.py",
            *("train", "task", str(bundle), *flags, *sizes, "--out", str(tmp_path / f"run{processes}")),
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
    same(tmp_path / "run0", tmp_path / "run2")


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    rooms = tmp_path / "rooms"
    write_rooms(rooms, range(12), height=32, width=32, layers=("image", "category"), shard_size=6)
    flags = ("--data", str(rooms), "--out", str(tmp_path / "run"), "--holdout", "4", "--batch", "7")
    done = start(2, "-m", "isthmus", "train", "network", *flags)
    assert done.returncode != 0
    assert "a batch of 7 does not divide among 2 processes; change either (--batch)" in done.stderr
    assert not (tmp_path / "run").exists()


class Slope(nn.Module):
    """One weight, at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class Climb(Training[int, tuple[Slope, dict[str, float]]]):
    """Trains a weight that grows at each step; validations give `figures`, one a step."""

    def __init__(self, run: Run, figures: list[float], steps: int, better: Better) -> None:
        self.run, self.model, self._given = run, Slope(), iter(figures)
        self.plan = Plan(Schedule(steps, 0.1, 1), seed=0, better=better)

    def batches(self, start: int) -> Iterator[int]:
        return iter(range(start, self.plan.steps))

    def loss(self, batch: int, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return -self.model.weight.sum(), {}

    def validate(self) -> Scores:
        return Scores([Score("score", next(self._given))])

    def result(self, scores: Scores) -> tuple[Slope, dict[str, float]]:
        return self.model, to_json(scores)


def climb(run: Run, figures: list[float], steps: int, way: str) -> tuple[Slope, dict[str, float]]:
    return fit(Climb(run, figures, steps, Better("score", way)), Interrupts())


@pytest.mark.parametrize(("way", "best"), [("max", 2), ("min", 4)])
def test_the_best_checkpoint_is_kept_and_is_the_result(tmp_path, monkeypatch, way, best):
    monkeypatch.setattr(training, "VALIDATE_EVERY", 1)
    scores = [0.5, 0.9, 0.9, 0.2, 0.4]
    out = tmp_path / "run"
    model, figures = climb(Run(out, {}), scores, 5, way)
    kept = torch.load(out / "best.pt", weights_only=True)
    assert kept["step"] == best  # of equals the first
    assert figures == kept["figures"] == {"score": scores[best - 1]}
    assert torch.equal(model.weight.detach(), kept["model"]["weight"])
    last = torch.load(out / "checkpoint.pt", weights_only=True)
    assert last["step"] == 5
    assert last["model"]["weight"] > kept["model"]["weight"]
    # Resumed when it is over, it has the same result.
    again, figures = climb(Run(out, {}, resume=True), [], 5, way)
    assert figures == kept["figures"]
    assert torch.equal(again.weight, model.weight)
    # A folder of before there was a best checkpoint.
    (out / "best.pt").unlink()
    again, figures = climb(Run(out, {}, resume=True), [], 5, way)
    assert figures == {"score": scores[-1]}
    assert torch.equal(again.weight.detach(), last["model"]["weight"])


def test_a_run_is_resumed_from_the_same_inputs_only(tmp_path):
    out = tmp_path / "run"
    Run(out, {"steps": 1}, inputs={"the network": "aa", "the pictures": "bb"})
    Run(out, {"steps": 1}, resume=True, inputs={"the network": "aa", "the pictures": "bb", "later": "cc"})
    with pytest.raises(DataError, match=r"the pictures has changed since .*run was started"):
        Run(out, {"steps": 1}, resume=True, inputs={"the network": "aa", "the pictures": "xx"})
    about = json.loads((out / "recipe.json").read_text())
    del about["inputs"]  # a folder of before inputs were written down
    (out / "recipe.json").write_text(json.dumps(about))
    Run(out, {"steps": 1}, resume=True, inputs={"the network": "zz"})
    Run(out, {"steps": 1, "init": None}, resume=True)  # of before there was such a setting
    with pytest.raises(DataError, match=r"other settings \(init\)"):
        Run(out, {"steps": 1, "init": "runs/other"}, resume=True)


def test_a_run_of_before_a_setting_was_there_had_its_default(tmp_path):
    """Also where it lies deeper; and a run is not taken for one with another value of it."""
    sizes = ClassifierConfig(classes=3)
    network = NetworkRecipe(data="x", steps=1, network=sizes)
    codec = CodecRecipe(data="x", steps=1, parts=(Part(network="n", lambda_=1.0),))
    old = network.model_dump(mode="json")
    del old["freeze"], old["appearance"], old["network"]["dilations"]
    Run(tmp_path / "network", old)
    Run(tmp_path / "network", network.model_dump(mode="json"), resume=True, kind=NetworkRecipe)
    wider = network.model_copy(update={"network": sizes.model_copy(update={"dilations": (1, 2)})})
    with pytest.raises(DataError, match=r"other settings \(network\)"):
        Run(tmp_path / "network", wider.model_dump(mode="json"), resume=True, kind=NetworkRecipe)
    old = codec.model_dump(mode="json")
    del old["hyper"], old["balance"]
    Run(tmp_path / "codec", old)
    Run(tmp_path / "codec", codec.model_dump(mode="json"), resume=True, kind=CodecRecipe)
    second = codec.model_copy(update={"hyper": 2}).model_dump(mode="json")
    with pytest.raises(DataError, match=r"other settings \(hyper\)"):
        Run(tmp_path / "codec", second, resume=True, kind=CodecRecipe)
    with pytest.raises(DataError, match="other settings"):  # a training of another kind
        Run(tmp_path / "network", codec.model_dump(mode="json"), resume=True, kind=CodecRecipe)


def test_mixed_precision_computes_layers_in_bfloat16_and_leaves_what_opts_out(tmp_path):
    seen, x = [], torch.randn(3, 4)

    class Mixed(Training[torch.Tensor, None]):
        model = nn.Linear(4, 2)
        run = Run(tmp_path / "run", {}, workers=Workers(torch.device("cpu"), "bf16-mixed"))
        plan = Plan(Schedule(1, 0.1), seed=0)

        def batches(self, start: int) -> Iterator[torch.Tensor]:
            yield x

        def loss(self, batch: torch.Tensor, step: int):
            out = self.model(batch)
            with torch.autocast(batch.device.type, enabled=False):
                rate = self.model(batch)
            seen.append((out.dtype, rate.dtype, self.model.weight.dtype))
            assert torch.equal(batch, x)  # not rounded
            return out.float().square().mean() + rate.square().mean(), {}

        def validate(self) -> Scores:
            return Scores()

        def result(self, scores: Scores) -> None: ...

    fit(Mixed(), Interrupts())
    assert seen == [(torch.bfloat16, torch.float32, torch.float32)]
    assert Workers(torch.device("cpu")).precision == "32"


def test_what_cannot_train_is_refused():
    with pytest.raises(DataError, match="training runs on cpu, cuda or mps, not on meta"):
        Workers(torch.device("meta"))
