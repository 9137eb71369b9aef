"""A training run: its folder, its loop, its checkpoints. Knows no network and no loss.

    RUN/recipe.json        what was asked for, seeds and versions included; the hashes of what the run starts from
    RUN/checkpoint.pt      weights, optimiser, step; written every half minute, whole or not at all
    RUN/best.pt            the weights that did best at a validation, their step and figures; the run's result
    RUN/curve.jsonl        one line every 20 steps
    RUN/tensorboard/       the same as curves

Everything random in a step follows from (seed, step), and the learning rate from the step, so a run that was killed
and resumed gives the curve of one that was not. Where several processes train (`team`), the first of them writes, in a
folder that all can read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from shared.errors import DataError
from shared.files import write_atomically
from train.loop.distributed import Team, started_by_torchrun

CHECKPOINT_S = 30.0
LOG_EVERY = 20  # steps
VALIDATE_EVERY = 1000  # steps
CLIP = 1.0  # the largest norm of a step's gradient

Scalars = dict[str, float]
LossOf = Callable[[Any, int], tuple[Tensor, Scalars]]
Better = tuple[str, Literal["max", "min"]]  # a figure of the validation, and which of two is the better


@dataclass
class Run:
    """A run folder. resume: go on with the run that it holds, if any. Raises DataError where it holds another.

    inputs: the SHA-256 of what the run starts from, by the name that an error shall give it; a run is not resumed from
    others. A folder of before an input was written down counts as having had it. kind: of the recipe, whose defaults
    are what settings have in a folder of before they were there.
    """

    folder: Path
    recipe: dict[str, Any]
    resume: bool = False
    inputs: Mapping[str, str] = field(default_factory=dict)
    team: Team | None = None
    kind: type[BaseModel] | None = None

    def __post_init__(self) -> None:
        if self.team is None and started_by_torchrun():
            raise DataError("this training runs in one process; start it without torchrun")
        if self.leads:
            self._open()
        if self.team:
            self.team.wait()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.team is None or self.team.leads

    def _open(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder} is a file; --out names a folder")
        saved = self.folder / "recipe.json"
        if saved.is_file():
            self._check(json.loads(saved.read_text()))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "lightning-fabric")}
        about = {
            "recipe": self.recipe,
            "inputs": dict(self.inputs),
            "versions": {"python": platform.python_version(), **versions},
        }
        if self.team:
            about["started_on"] = {
                "device": str(self.team.device),
                "processes": self.team.size,
                "precision": self.team.precision,
            }
        write_atomically(saved, json.dumps(about, indent=1).encode())

    def _check(self, about: dict[str, Any]) -> None:
        if not self.resume:
            raise DataError(f"{self.folder} already holds a run; add --resume, or choose another --out")
        old, new = self._filled(about["recipe"]), json.loads(json.dumps(self.recipe))
        changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if changed:
            raise DataError(
                f"{self.folder} was started with other settings ({', '.join(changed)}); resume with the same, "
                "or choose another --out"
            )
        was = about.get("inputs", {})
        for name in sorted(was.keys() & self.inputs.keys()):
            if was[name] != self.inputs[name]:
                raise DataError(
                    f"{name} has changed since {self.folder} was started; put back what it was, "
                    "or choose another --out"
                )

    def _filled(self, recipe: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.kind.model_validate(recipe).model_dump(mode="json") if self.kind else recipe
        except ValidationError:
            return recipe  # of a training of another kind

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None at the start of a run."""
        return self._read("checkpoint.pt")

    def best(self) -> dict[str, Any] | None:
        """The best weights so far, {"model", "step", "figures"}, or None where nothing was validated."""
        return self._read("best.pt")

    def save(self, state: dict[str, Any]) -> None:
        self._write("checkpoint.pt", state)

    def save_best(self, state: dict[str, Any]) -> None:
        self._write("best.pt", state)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def _write(self, name: str, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / name, buffer.getvalue())


def sha256_of(path: Path) -> str:
    """Of a file, for a run's `inputs`. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Of all that is drawn; larger ones, times the steps, torch does not take.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


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


class _Step(nn.Module):
    """A step's loss as a module, so that whatever the loss calls of the model is under Fabric's eyes."""

    def __init__(self, model: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.model, self._loss_of = model, loss_of

    def forward(self, given: _Given) -> tuple[Tensor, Scalars]:
        return self._loss_of(given.batch, given.step)


class _Given:
    """A step's batch, in a thing that Fabric does not look into: it would round the batch to bf16-mixed's bfloat16, and
    with it what a rate is computed of."""

    def __init__(self, batch: Any, step: int) -> None:
        self.batch, self.step = batch, step


def fit(
    run: Run,
    model: nn.Module,
    schedule: Schedule,
    data: Callable[[int], Iterator[Any]],
    loss_of: LossOf,
    *,
    seed: int,
    validate: Callable[[], Scalars] | None = None,
    pictures: Callable[[], Mapping[str, np.ndarray]] | None = None,
    show: tuple[str, ...] = ("loss",),
    weight_decay: float = 0.0,
    better: Better | None = None,
) -> Mapping[str, float]:
    """Train `model`'s parameters that require gradients, from the run's last checkpoint on.

    data(start): the batches from a step on; of several processes, this one's share. loss_of(batch, step): the loss and
    what to log. show: logged names that stand beside the progress bar. validate(): called in every process.
    pictures(): RGB (H, W, 3) uint8 by name, for TensorBoard at each validation; called in the first process. Returns
    the last validation's figures; with `better` the best one's, and the model has its weights.
    """
    team = run.team or Team(next(model.parameters()).device, "32")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=weight_decay)
    step, figures = 0, {}
    state = run.load() if run.resume else None
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, figures = int(state["step"]), dict(state["figures"])
    best = run.best() if better else None
    best_figures = best and best["figures"]
    del state, best
    loss_module, stepper = team.setup(_Step(model, loss_of), optimiser)
    saved = time.monotonic()
    with _Journal(run.folder, step, schedule.steps, show) if team.leads else nullcontext() as journal:
        for batch in data(step):
            for group in optimiser.param_groups:
                group["lr"] = schedule(step)
            torch.manual_seed(seed * 1_000_003 + step)
            loss, scalars = loss_module(_Given(batch, step))
            if not torch.isfinite(loss):
                raise DataError(f"the loss became {loss.item()} at step {step}; lower --learning-rate")
            optimiser.zero_grad(set_to_none=True)
            team.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            stepper.step()
            step += 1
            last = step == schedule.steps
            if step % LOG_EVERY == 0 or last:
                scalars = team.mean({"loss": float(loss.detach()), **scalars})
                if journal:
                    journal.trained(step, scalars)
            if journal:
                journal.advance(step)
            if validate and (step % VALIDATE_EVERY == 0 or last):
                figures = {name: float(value) for name, value in validate().items()}
                if journal:
                    journal.validated(step, figures, pictures() if pictures else {})
                if better and _improves(better, figures, best_figures):
                    best_figures = figures
                    if journal:
                        run.save_best({"model": model.state_dict(), "step": step, "figures": figures})
            if journal and (time.monotonic() - saved > CHECKPOINT_S or last):
                run.save(
                    {
                        "model": model.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step,
                        "figures": figures,
                    }
                )
                saved = time.monotonic()
    team.wait()
    best = run.best() if better else None
    if best is None:
        return figures
    model.load_state_dict(best["model"])
    return dict(best["figures"])


def _improves(better: Better, new: Scalars, old: Scalars | None) -> bool:
    name, way = better
    return old is None or (new[name] > old[name] if way == "max" else new[name] < old[name])


class _Journal:
    """What a run tells while it goes on: curve.jsonl, TensorBoard, and a progress bar with the time left."""

    def __init__(self, folder: Path, step: int, steps: int, show: tuple[str, ...]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        curve = folder / "curve.jsonl"
        _cut(curve, step)
        self._show = show
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._open = ExitStack()
        self._board = self._open.enter_context(SummaryWriter(str(folder / "tensorboard"), purge_step=step))
        self._lines = self._open.enter_context(curve.open("a"))
        self._progress = self._open.enter_context(Progress(*columns, refresh_per_second=2))
        self._bar = self._progress.add_task("training", total=steps, completed=step, shown="")

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def trained(self, step: int, scalars: Scalars) -> None:
        self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
        self._lines.flush()
        for name, value in scalars.items():
            self._board.add_scalar(f"train/{name}", value, step)
        shown = "  ".join(f"{name} {scalars[name]:.4g}" for name in self._show if name in scalars)
        self._progress.update(self._bar, shown=shown)

    def advance(self, step: int) -> None:
        self._progress.update(self._bar, completed=step)

    def validated(self, step: int, figures: Scalars, pictures: Mapping[str, np.ndarray]) -> None:
        for name, value in figures.items():
            self._board.add_scalar(f"validation/{name}", value, step)
        for name, picture in pictures.items():
            self._board.add_image(f"validation/{name}", picture, step, dataformats="HWC")
        told = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._progress.console.print(f"step {step}: {told}")


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
