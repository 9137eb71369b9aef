"""Classification: cross-entropy against a class an image; top-1 accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from train.kinds.label_form import CLASS
from train.kinds.training_kind import (
    MainMetric,
    MeanCount,
    Metric,
    RoomLabels,
    TrainingKind,
    at_least_one,
    check_any,
    divergence,
    to_array,
)
from train.rooms import CATEGORIES


class Top1:
    """Top-1 accuracy: the share of images whose best class is the right one."""

    def __init__(self) -> None:
        self._right = self._count = 0

    def add(self, predicted: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]]) -> None:
        """Counts classes (B,) against labels (B,)."""
        self._right += int((predicted == truth).sum())
        self._count += truth.size

    def merge(self, other: Top1) -> None:
        self._right += other._right
        self._count += other._count

    def values(self) -> dict[str, float]:
        """top1: 0..1. Raises DataError."""
        check_any(self._count)
        return {"top1": self._right / self._count}


class Classification(TrainingKind):
    form = CLASS
    rooms = RoomLabels("category", CATEGORIES)
    main = MainMetric("top1", "top-1", True, 0.90, 0.01, "{:.1%}")

    def label_loss(self, out: Tensor, labels: Tensor, mean_count: MeanCount = at_least_one) -> Tensor:
        return F.cross_entropy(out, labels)

    def smoothed_loss(self, out: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return F.cross_entropy(out, labels, label_smoothing=smoothing)

    def label_distance(self, out: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(out, labels, reduction="none")

    def teacher_distance(self, out: Tensor, wanted: Tensor) -> Tensor:
        return divergence(out, wanted)

    def metric(self, names: int) -> Metric:
        return Top1()

    def answers(self, out: Tensor) -> NDArray[Any]:
        return to_array(out.argmax(1))

    def right(self, out: Tensor, labels: NDArray[Any]) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = self.answers(out) == labels
        return right
