"""A training as an object, and the loop that drives it. Knows no network, no loss and no data set.

batches -> loss -> optimiser step      at each step
validate -> sheets                     now and then
result                                 at the end, from the best weights
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import DataError
from train.echo import echo_once
from train.loop.distributed import Workers
from train.loop.interrupts import Interrupts, StopSignal
from train.loop.journal import Journal, Scalars
from train.loop.run import CHECKPOINT, Run
from train.loop.schedule import Schedule
from train.loop.scores import Scores, from_json, to_json

CHECKPOINT_S = 30.0
LOG_EVERY = 20  # steps
VALIDATE_EVERY = 1000  # steps
CLIP = 1.0  # the largest norm of a step's gradient

B = TypeVar("B")
R = TypeVar("R")


@dataclass(frozen=True)
class Better:
    """The score of a validation by which weights are compared, and which of two values is the better one."""

    metric: str
    way: Literal["max", "min"]

    def improves(self, new: Scores, old: Scores | None) -> bool:
        if old is None:
            return True
        a, b = new.value(self.metric), old.value(self.metric)
        return a > b if self.way == "max" else a < b


@dataclass(frozen=True)
class Plan:
    """The loop's settings.

    better: keeps the weights of the best validation; None: those of the last step.
    shown: names of logged values to show next to the progress bar.
    """

    schedule: Schedule
    seed: int
    weight_decay: float = 0.0
    better: Better | None = None
    shown: tuple[str, ...] = ("loss",)

    @property
    def steps(self) -> int:
        return self.schedule.steps


def is_logged(step: int, plan: Plan) -> bool:
    """Whether the values that the loss of this step gives are recorded."""
    return (step + 1) % LOG_EVERY == 0 or step + 1 == plan.steps


class Training(ABC, Generic[B, R]):
    """One training, ready to start: its methods in the order in which `fit` calls them.

    run: its folder and processes. model: everything that learns; parameters that require no gradient stay as they are.
    """

    run: Run
    model: nn.Module
    plan: Plan

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters that learn, and the multiple of the learning rate that they learn with."""
        return [([p for p in self.model.parameters() if p.requires_grad], 1.0)]

    @abstractmethod
    def batches(self, start: int) -> Iterator[B]:
        """This process's share of the batch of each step, from step `start` on."""

    @abstractmethod
    def loss(self, batch: B, step: int) -> tuple[Tensor, Scalars]:
        """The loss to lower, and values to log."""

    @abstractmethod
    def validate(self) -> Scores:
        """Scores on the images held out; called in every process, which count together."""

    def sheets(self) -> Mapping[str, NDArray[np.uint8]]:
        """RGB (H, W, 3) by name, to look at next to a validation; called in the first process."""
        return {}

    @abstractmethod
    def result(self, scores: Scores) -> R:
        """Writes what the training is for. scores: of the validation whose weights the model has."""


def fit(training: Training[B, R], interrupts: Interrupts) -> R:
    """Trains from the run's last checkpoint on, and gives the training's result.

    Raises DataError; StopSignal, with a checkpoint saved, where `interrupts` has received a signal.
    """
    loop = _Loop(training)
    leads, folder = training.run.leads, training.run.folder
    if not leads:
        interrupts.kept = ""
    try:
        with interrupts.together(loop.workers):
            loop.train(interrupts)
    except StopSignal:
        interrupts.ignore()
        if leads and loop.unsaved:
            loop.save()
        raise
    finally:
        if leads and loop.step:
            interrupts.kept = (
                f"{folder / CHECKPOINT} holds step {loop.step} of {training.plan.steps}; resume to go on"
            )
    return training.result(loop.restored_best())


class _Loop:
    """A training between two steps."""

    def __init__(self, training: Training[Any, Any]) -> None:
        self.training, self.run, self.plan = training, training.run, training.plan
        self.workers = self.run.workers or Workers(next(training.model.parameters()).device, "32")
        rates = training.rates()
        self.parameters = [p for parameters, _ in rates for p in parameters]
        groups = [{"params": parameters, "multiple": multiple} for parameters, multiple in rates]
        self.optimiser = torch.optim.AdamW(
            groups, lr=self.plan.schedule.rate, weight_decay=self.plan.weight_decay
        )
        self.step, self.scores = 0, Scores()
        self.best_scores: Scores | None = None
        self.unsaved = False
        self.validation_due = False
        self._resume()
        self._module, self._stepper = self.workers.setup(_Step(training), self.optimiser)

    def _resume(self) -> None:
        """Continues from the last checkpoint, if the run is to be resumed and there is one."""
        state = self.run.load() if self.run.resume else None
        if state is not None:
            self.training.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.scores = int(state["step"]), from_json(state["figures"])
            self.validation_due = state.get("validation_due", False)
        elif self.run.resume:
            why = "its run has no checkpoint yet" if self.run.found else "it held no run"
            echo_once(f"{self.run.folder}: starts at step 0, because {why}")
        best = self.run.best() if self.plan.better else None
        self.best_scores = from_json(best["figures"]) if best else None

    def train(self, interrupts: Interrupts) -> None:
        """All remaining steps. Raises DataError, StopSignal."""
        plan, saved = self.plan, time.monotonic()
        with (
            Journal(self.run.folder, self.step, plan.steps, plan.shown)
            if self.run.leads
            else nullcontext() as journal
        ):
            if self.validation_due:  # a signal has ended it
                self._validate(journal, interrupts)
            for batch in self.training.batches(self.step):
                with interrupts.held():
                    self._advance(batch, journal)
                interrupts.check()
                if self.validation_due:
                    self._validate(journal, interrupts)
                if self.run.leads and (time.monotonic() - saved > CHECKPOINT_S or self.step == plan.steps):
                    with interrupts.held():
                        self.save()
                    saved = time.monotonic()
        self.workers.wait()

    def _advance(self, batch: Any, journal: Journal | None) -> None:
        """One step of the optimiser."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.schedule(self.step) * group.get("multiple", 1.0)
        torch.manual_seed(self.plan.seed * 1_000_003 + self.step)
        loss, scalars = self._module(_Given(batch, self.step))
        if not torch.isfinite(loss):
            raise DataError(
                f"the loss became {loss.item()} at step {self.step}; lower the learning rate",
                setting="learning_rate",
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.workers.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self._stepper.step()
        self.step += 1
        self.unsaved = True
        self.validation_due = self.step % VALIDATE_EVERY == 0 or self.step == self.plan.steps
        if is_logged(self.step - 1, self.plan):
            scalars = self.workers.mean({"loss": float(loss.detach()), **scalars})
            if journal:
                journal.trained(self.step, scalars)
        if journal:
            journal.advance(self.step)

    def _validate(self, journal: Journal | None, interrupts: Interrupts) -> None:
        scores = self.training.validate()
        sheets = self.training.sheets() if journal and len(scores) else {}
        with interrupts.held():
            self.scores, self.validation_due, self.unsaved = scores, False, True
            if journal and len(scores):
                journal.validated(self.step, scores, sheets)
            if self.plan.better and self.plan.better.improves(scores, self.best_scores):
                self.best_scores = scores
                if journal:
                    self.run.save_best(
                        {
                            "model": self.training.model.state_dict(),
                            "step": self.step,
                            "figures": to_json(scores),
                        }
                    )

    def save(self) -> None:
        """Writes the checkpoint."""
        self.run.save(
            {
                "model": self.training.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "figures": to_json(self.scores),
                "validation_due": self.validation_due,
            }
        )
        self.unsaved = False

    def restored_best(self) -> Scores:
        """Gives the model the best weights, if they were kept, and their scores, or else the last ones'."""
        best = self.run.best() if self.plan.better else None
        if best is None:
            return self.scores
        self.training.model.load_state_dict(best["model"])
        return from_json(best["figures"])


class _Step(nn.Module):
    """A step's loss as a module, so that Fabric sees every call that the loss makes of the model."""

    def __init__(self, training: Training[Any, Any]) -> None:
        super().__init__()
        self.model, self._loss = training.model, training.loss

    def forward(self, given: _Given) -> tuple[Tensor, Scalars]:
        return self._loss(given.batch, given.step)


class _Given:
    """A step's batch, opaque to Fabric, which would round tensors to bfloat16 under bf16-mixed, and the rate's too."""

    def __init__(self, batch: Any, step: int) -> None:
        self.batch, self.step = batch, step
