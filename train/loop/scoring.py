"""What a validation counts of its tasks' answers, against labels or, without any, the uncompressed network's."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.kinds.normals import normals_rgb
from shared.kinds.segmentation import paint
from shared.types import TaskKind
from train.data.dataset import IGNORE, Maps, Pictures, mirror
from train.data.feature_cache import Pixels
from train.loop.metrics import AngularError, Confusion, Top1

AGREEMENT = "agreement_"  # before the figures of a task without labels
SHEET_ROWS = 4

Labelled = Pictures | Maps
View = Labelled | Pixels
Metric = Top1 | AngularError | Confusion


class Unlabelled:
    """A view's pictures without what is known of them."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._view.pixels(indices)


def labelled(view: View) -> bool:
    return hasattr(view, "labels") or hasattr(view, "maps")


def truth_of(view: Any, indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[Any]:
    """Labels as a labelled view has them, of pictures mirrored where `flip`."""
    labels: NDArray[Any] = (
        view.labels[indices] if hasattr(view, "labels") else mirror(view.maps(indices), flip)
    )
    return labels


def labels_digest(view: Any) -> str:
    """SHA-256, hex, of a labelled view's classes and of a sample of its labels: of all where a picture has one."""
    size = len(view)
    indices = (
        np.arange(size) if hasattr(view, "labels") else np.linspace(0, size - 1, min(size, 16)).astype(int)
    )
    truth = truth_of(view, indices, np.zeros(len(indices), np.bool_))
    return hashlib.sha256(
        repr(tuple(view.names)).encode() + np.ascontiguousarray(truth).tobytes()
    ).hexdigest()


def metric_of(task: TaskKind, classes: int) -> Metric:
    """What the field measures a task's answers with."""
    if task == "classification":
        return Top1()
    return AngularError() if task == "normals" else Confusion(classes, IGNORE)


def count(metric: Metric, out: Tensor, truth: NDArray[Any]) -> None:
    """Count outputs (B, K) or (B, K or 3, H, W) against labels as `Pictures` and `Maps` give them."""
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


def target_of(task: TaskKind, view: Any, indices: NDArray[np.int64], plain: Tensor) -> Target:
    """For the view's pictures `indices`. plain: the task's outputs for them without the codec."""
    if labelled(view):
        return Target(task, truth_of(view, indices, np.zeros(len(indices), np.bool_)), len(view.names), True)
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


def sheet(task: TaskKind, view: View, *outputs: Tensor) -> NDArray[np.uint8]:
    """The first pictures of a view, a row each: input, the maps of `outputs` (B, K or 3, H, W), truth if known."""
    indices = sheet_indices(view)
    columns = [view.pixels(indices), *(_painted(answers(out, task), task) for out in outputs)]
    if labelled(view):
        truth = truth_of(view, indices, np.zeros(len(indices), np.bool_))
        columns.append(
            _painted(np.where(truth == IGNORE, 0, truth) if task == "segmentation" else truth, task)
        )
    rows = np.concatenate(columns, axis=2)
    return rows.reshape(-1, *rows.shape[2:]).astype(np.uint8)


def sheet_indices(view: View) -> NDArray[np.int64]:
    return np.arange(min(SHEET_ROWS, len(view)))


def _painted(maps: NDArray[Any], task: TaskKind) -> NDArray[np.uint8]:
    return normals_rgb(maps) if task == "normals" else paint(maps)
