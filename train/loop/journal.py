"""What a run reports while it trains: curve.jsonl, TensorBoard, and a progress bar with the time left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.files import write_atomically
from train.loop.scores import Scores, to_json

Scalars = dict[str, float]
CURVE = "curve.jsonl"


class Journal:
    """The records of a run that is at `step` of `steps`. shown: names of logged values to show next to the bar."""

    def __init__(self, folder: Path, step: int, steps: int, shown: tuple[str, ...]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        _drop_after(folder / CURVE, step)
        self._shown = shown
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
        self._lines = self._open.enter_context((folder / CURVE).open("a"))
        self._progress = self._open.enter_context(Progress(*columns, refresh_per_second=2))
        self._bar = self._progress.add_task("training", total=steps, completed=step, shown="")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def advance(self, step: int) -> None:
        self._progress.update(self._bar, completed=step)

    def trained(self, step: int, scalars: Scalars) -> None:
        """Records what the loss of a step logged."""
        self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
        self._lines.flush()
        for name, value in scalars.items():
            self._board.add_scalar(f"train/{name}", value, step)
        shown = "  ".join(f"{name} {scalars[name]:.4g}" for name in self._shown if name in scalars)
        self._progress.update(self._bar, shown=shown)

    def validated(self, step: int, scores: Scores, sheets: Mapping[str, NDArray[np.uint8]]) -> None:
        """Records a validation. sheets: RGB (H, W, 3) by name."""
        values = to_json(scores)
        for name, value in values.items():
            self._board.add_scalar(f"validation/{name}", value, step)
        for name, sheet in sheets.items():
            self._board.add_image(f"validation/{name}", sheet, step, dataformats="HWC")
        line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._progress.console.print(f"step {step}: {line}")


def _drop_after(curve: Path, step: int) -> None:
    """Removes what a killed run logged after its last checkpoint."""
    if not curve.is_file():
        return
    kept = []
    for line in curve.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            continue  # half a line, left by a kill
    write_atomically(curve, "".join(line + "\n" for line in kept).encode())
