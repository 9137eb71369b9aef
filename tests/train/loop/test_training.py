"""The loop that drives a training: best weights, resuming, precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from train.loop import training
from train.loop.distributed import Workers
from train.loop.interrupts import Interrupts
from train.loop.run import Run
from train.loop.schedule import Schedule
from train.loop.scores import Score, Scores, to_json
from train.loop.training import Better, Plan, Training, fit


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
    # An older folder has no best checkpoint.
    (out / "best.pt").unlink()
    again, figures = climb(Run(out, {}, resume=True), [], 5, way)
    assert figures == {"score": scores[-1]}
    assert torch.equal(again.weight.detach(), last["model"]["weight"])


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


def test_a_checkpoint_from_before_there_were_rates_goes_on_as_one_with_them(tmp_path):
    ended = []
    for older in (False, True):
        out = tmp_path / f"older-{older}"
        climb(Run(out, {}), [0.5], 3, "max")
        state = torch.load(out / "checkpoint.pt", weights_only=True)
        (group,) = state["optimiser"]["param_groups"]
        assert group["multiple"] == 1.0
        if older:
            del group["multiple"]
            torch.save(state, out / "checkpoint.pt")
        climb(Run(out, {}, resume=True), [0.9], 5, "max")
        last = torch.load(out / "checkpoint.pt", weights_only=True)
        assert last["step"] == 5
        assert not torch.equal(last["model"]["weight"], state["model"]["weight"])
        ended.append(last["model"]["weight"])
    assert torch.equal(*ended)


def test_a_resumed_run_that_starts_at_step_0_says_why(tmp_path, capsys):
    run = Run(tmp_path / "run", {}, resume=True)
    climb(run, [0.5], 1, "max")
    assert "run: starts at step 0, because it held no run" in capsys.readouterr().out
    (tmp_path / "run" / "checkpoint.pt").unlink()
    (tmp_path / "run" / "best.pt").unlink()
    climb(Run(tmp_path / "run", {}, resume=True), [0.5], 1, "max")
    assert "run: starts at step 0, because its run has no checkpoint yet" in capsys.readouterr().out
    climb(Run(tmp_path / "run", {}, resume=True), [], 1, "max")
    assert "starts at step 0" not in capsys.readouterr().out
