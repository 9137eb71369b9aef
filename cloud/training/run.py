"""A training run: its folder, its loop, its checkpoints. Knows no network and no loss.

    RUN/recipe.json        what was asked for, seeds and versions included
    RUN/checkpoint.pt      weights, optimiser, step; written every half minute, whole or not at all
    RUN/curve.jsonl        one line every 20 steps
    RUN/tensorboard/       the same as curves

Everything random in a step follows from (seed, step), and the learning rate from the step, so a run that was killed
and resumed gives the curve of one that was not.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from shared.errors import DataError
from shared.files import write_atomically

CHECKPOINT_S = 30.0
LOG_EVERY = 20  # steps
VALIDATE_EVERY = 1000  # steps
CLIP = 1.0  # the largest norm of a step's gradient

Scalars = dict[str, float]


@dataclass
class Run:
    """A run folder. resume: go on with the run that it holds, if any. Raises DataError where it holds another."""

    folder: Path
    recipe: dict[str, Any]
    resume: bool = False

    def __post_init__(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder} is a file; --out names a folder")
        saved = self.folder / "recipe.json"
        if saved.is_file():
            self._check(json.loads(saved.read_text())["recipe"])
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
        about = {"recipe": self.recipe, "versions": {"python": platform.python_version(), **versions}}
        write_atomically(saved, json.dumps(about, indent=1).encode())

    def _check(self, old: dict[str, Any]) -> None:
        if not self.resume:
            raise DataError(f"{self.folder} already holds a run; add --resume, or choose another --out")
        new = json.loads(json.dumps(self.recipe))
        changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if changed:
            raise DataError(
                f"{self.folder} was started with other settings ({', '.join(changed)}); resume with the same, "
                "or choose another --out"
            )

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None at the start of a run."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def save(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / "checkpoint.pt", buffer.getvalue())


@dataclass(frozen=True)
class Schedule:
    """steps: of the optimiser. rate: peak learning rate, reached after a linear warm-up, then a cosine to 1 % of it."""

    steps: int
    rate: float
    warmup: int = 200

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, done)))))


def training_device(name: str) -> torch.device:
    """The device that `name` means: "auto" is a GPU where there is one. Raises DataError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises both for a device that is not there
        raise DataError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def batches(size: int, batch: int, seed: int, start: int, steps: int) -> Iterator[np.ndarray]:
    """Indices of each step's batch: every epoch is its own permutation, drawn from (seed, epoch)."""
    per_epoch = max(1, size // batch)
    epoch, order = -1, np.empty(0, np.int64)
    for step in range(start, steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng((seed, epoch)).permutation(size)
        at = step % per_epoch * batch
        yield order[at : at + batch]


def fit(
    run: Run,
    model: nn.Module,
    schedule: Schedule,
    data: Callable[[int], Iterator[Any]],
    loss_of: Callable[[Any, int], tuple[Tensor, Scalars]],
    *,
    seed: int,
    validate: Callable[[], Scalars] | None = None,
    pictures: Callable[[], Mapping[str, np.ndarray]] | None = None,
    show: tuple[str, ...] = ("loss",),
    weight_decay: float = 0.0,
) -> Mapping[str, float]:
    """Train `model`'s parameters that require gradients, from the run's last checkpoint on.

    data(start): the batches from a step on. loss_of(batch, step): the loss and what to log. show: logged names that
    stand beside the progress bar. pictures(): RGB (H, W, 3) uint8 by name, for TensorBoard at each validation. Returns
    the last validation's figures.
    """
    from torch.utils.tensorboard import SummaryWriter

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=weight_decay)
    step, figures = 0, {}
    state = run.load() if run.resume else None
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, figures = int(state["step"]), dict(state["figures"])
    curve = run.folder / "curve.jsonl"
    _cut(curve, step)
    saved = time.monotonic()

    def save() -> None:
        run.save(
            {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "figures": figures,
            }
        )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with (
        SummaryWriter(str(run.folder / "tensorboard"), purge_step=step) as board,
        curve.open("a") as lines,
        Progress(*columns, refresh_per_second=2) as progress,
    ):
        bar = progress.add_task("training", total=schedule.steps, completed=step, shown="")
        for batch in data(step):
            for group in optimiser.param_groups:
                group["lr"] = schedule(step)
            torch.manual_seed(seed * 1_000_003 + step)
            loss, scalars = loss_of(batch, step)
            if not torch.isfinite(loss):
                raise DataError(f"the loss became {loss.item()} at step {step}; lower --learning-rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()
            step += 1
            if step % LOG_EVERY == 0 or step == schedule.steps:
                scalars = {"loss": float(loss.detach()), **scalars}
                lines.write(json.dumps({"step": step, **scalars}) + "\n")
                lines.flush()
                for name, value in scalars.items():
                    board.add_scalar(f"train/{name}", value, step)
                progress.update(bar, shown="  ".join(f"{n} {scalars[n]:.4g}" for n in show if n in scalars))
            progress.update(bar, completed=step)
            if validate and (step % VALIDATE_EVERY == 0 or step == schedule.steps):
                figures = {name: float(value) for name, value in validate().items()}
                for name, value in figures.items():
                    board.add_scalar(f"validation/{name}", value, step)
                for name, picture in (pictures() if pictures else {}).items():
                    board.add_image(f"validation/{name}", picture, step, dataformats="HWC")
                progress.console.print(
                    f"step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
                )
            if time.monotonic() - saved > CHECKPOINT_S or step == schedule.steps:
                save()
                saved = time.monotonic()
    return figures


def _cut(curve: Path, step: int) -> None:
    """Forget what a killed run logged behind its last checkpoint."""
    if not curve.is_file():
        return
    kept = []
    for line in curve.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            continue  # the half line of a kill
    write_atomically(curve, "".join(line + "\n" for line in kept).encode())
