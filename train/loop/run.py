"""A training's run folder: its recipe, its checkpoints, what it started from. Knows no network and no loss.

    RUN/recipe.json        the settings, seeds and versions, and the hashes of what the run started from
    RUN/checkpoint.pt      weights, optimiser and step; written every half minute, whole or not at all
    RUN/best.pt            weights of the best validation, its step and scores: the run's result
    RUN/curve.jsonl        a line every 20 steps
    RUN/tensorboard/       the same as curves

Everything random in a step follows from (seed, step), and the learning rate from the step, so a run that was killed
and resumed gives the curve of one that was not. Where several processes train, the first of them writes, in a folder
that all can read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from shared.errors import DataError
from shared.files import write_atomically
from train.loop.distributed import Workers, started_by_torchrun

RECIPE, CHECKPOINT, BEST = "recipe.json", "checkpoint.pt", "best.pt"


@dataclass
class Run:
    """A run folder, opened to train in.

    resume: continue the run that the folder holds, if any.
    inputs: SHA-256 of everything that the run starts from, by the name that an error gives it. A run is not resumed
        from other inputs; one that an older folder does not list is assumed to match.
    workers: the processes that train; None: this one alone.
    kind: class of the recipe; its defaults stand for settings that an older folder does not list.

    Raises DataError where the folder holds another run.
    """

    folder: Path
    recipe: dict[str, Any]
    resume: bool = False
    inputs: Mapping[str, str] = field(default_factory=dict)
    workers: Workers | None = None
    kind: type[BaseModel] | None = None

    def __post_init__(self) -> None:
        if self.workers is None and started_by_torchrun():
            raise DataError("this training runs in one process; start it without torchrun")
        self.found = (self.folder / RECIPE).is_file()  # before this process makes the folder
        if self.workers:
            self.workers.wait()
        if self.leads:
            self._open()
        if self.workers:
            self.workers.wait()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.workers is None or self.workers.leads

    def _open(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder} is a file, not a folder to train in", setting="out")
        if self.found:
            self._check(json.loads((self.folder / RECIPE).read_text()))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "lightning-fabric")}
        about = {
            "recipe": self.recipe,
            "inputs": dict(self.inputs),
            "versions": {"python": platform.python_version(), **versions},
        }
        if self.workers:
            about["started_on"] = {
                "device": str(self.workers.device),
                "processes": self.workers.size,
                "precision": self.workers.precision,
            }
        write_atomically(self.folder / RECIPE, json.dumps(about, indent=1).encode())

    def _check(self, about: dict[str, Any]) -> None:
        if not self.resume:
            raise DataError(
                f"{self.folder} already holds a run; resume it, or choose another folder", setting="resume"
            )
        old, new = self._with_defaults(about["recipe"]), json.loads(json.dumps(self.recipe))
        changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if changed:
            raise DataError(
                f"{self.folder} was started with other settings ({', '.join(changed)}); resume it with the same ones, "
                "or choose another folder",
                setting="out",
            )
        before = about.get("inputs", {})
        for name in sorted(before.keys() & self.inputs.keys()):
            if before[name] != self.inputs[name]:
                raise DataError(
                    f"{name} has changed since {self.folder} was started; restore it, or choose another folder",
                    setting="out",
                )

    def _with_defaults(self, recipe: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.kind.model_validate(recipe).model_dump(mode="json") if self.kind else recipe
        except ValidationError:
            return recipe  # of a training of another kind

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None at the start of a run."""
        return self._read(CHECKPOINT)

    def best(self) -> dict[str, Any] | None:
        """The best weights so far, {"model", "step", "figures"}; None before the first validation."""
        return self._read(BEST)

    def save(self, state: dict[str, Any]) -> None:
        self._write(CHECKPOINT, state)

    def save_best(self, state: dict[str, Any]) -> None:
        self._write(BEST, state)

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
    """SHA-256, hex, of a file, for a run's `inputs`. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
