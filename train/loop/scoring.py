"""What a validation counts of its tasks' answers, against labels or, without any, the uncompressed network's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.kinds.normals import normals_rgb
from shared.kinds.segmentation import paint
from shared.types import TaskKind
from train.data.dataset import IGNORE, Dataset
from train.loop.metrics import AngularError, Confusion, Top1

AGREEMENT = "agreement_"  # before the figures of a task without labels
SHEET_ROWS = 4

Metric = Top1 | AngularError | Confusion


def labelled(view: Dataset) -> bool:
    return view.form is not None


def metric_of(task: TaskKind, classes: int) -> Metric:
    """What the field measures a task's answers with."""
    if task == "classification":
        return Top1()
    return AngularError() if task == "normals" else Confusion(classes, IGNORE)


def count(metric: Metric, out: Tensor, truth: NDArray[Any]) -> None:
    """Count outputs (B, K) or (B, K or 3, H, W) against labels as data sets give them."""
    if isinstance(metric, AngularError):
        metric.add(answers(out, "normals"), truth.astype(np.float32))
    else:
        metric.add(out.argmax(1).cpu().numpy(), truth)


def answers(out: Tensor, task: TaskKind) -> NDArray[Any]:
    """Outputs as labels are: classes (B,) or (B, H, W), or normals (B, H, W, 3) of any length."""
    made = out.float().permute(0, 2, 3, 1) if task == "normals" else out.argmax(1)
    array: NDArray[Any] = made.cpu().numpy()
    return array


class Target(NamedTuple):
    """What a task's outputs for some pictures are held against: labels, or what its network gives without a codec."""

    task: TaskKind
    truth: NDArray[Any]
    classes: int
    labelled: bool


def target_of(task: TaskKind, view: Dataset, indices: NDArray[np.int64], plain: Tensor) -> Target:
    """For the view's pictures `indices`. plain: the task's outputs for them without the codec."""
    if labelled(view):
        return Target(task, view.labels(indices), len(view.names), True)
    return Target(task, answers(plain, task), plain.shape[1], False)


class Tally:
    """Figures of tasks by where their answers come from, and sums; those of several processes merge."""

    def __init__(self) -> None:
        self._metrics: dict[tuple[str, str], Metric] = {}
        self.sums: dict[str, float] = {}

    def count(self, prefix: str, where: str, out: Tensor, target: Target) -> None:
        """A task's outputs, got in the way `where`. prefix: of the figures' names."""
        key = prefix if target.labelled else prefix + AGREEMENT, where
        count(self._metrics.setdefault(key, metric_of(target.task, target.classes)), out, target.truth)

    def add(self, name: str, value: Tensor) -> None:
        """Of pictures (B,), to the sum of that name."""
        self.sums[name] = self.sums.get(name, 0.0) + float(value.sum())

    def merge(self, other: Tally) -> None:
        for key, metric in other._metrics.items():
            if key in self._metrics:
                self._metrics[key].merge(metric)  # type: ignore[arg-type]
            else:
                self._metrics[key] = metric
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def figures(self) -> dict[str, float]:
        """By "name@where"."""
        return {
            f"{prefix}{key}@{where}": value
            for (prefix, where), metric in self._metrics.items()
            for key, value in metric.figures().items()
        }


def sheet(task: TaskKind, view: Dataset, *outputs: Tensor) -> NDArray[np.uint8]:
    """The first pictures of a view, a row each: input, the maps of `outputs` (B, K or 3, H, W), truth if known."""
    indices = sheet_indices(view)
    columns = [view.images(indices), *(_painted(answers(out, task), task) for out in outputs)]
    if labelled(view):
        truth = view.labels(indices)
        columns.append(
            _painted(np.where(truth == IGNORE, 0, truth) if task == "segmentation" else truth, task)
        )
    rows = np.concatenate(columns, axis=2)
    return rows.reshape(-1, *rows.shape[2:]).astype(np.uint8)


def sheet_indices(view: Dataset) -> NDArray[np.int64]:
    return np.arange(min(SHEET_ROWS, len(view)))


def _painted(maps: NDArray[Any], task: TaskKind) -> NDArray[np.uint8]:
    return normals_rgb(maps) if task == "normals" else paint(maps)
