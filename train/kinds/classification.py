"""Classification: cross-entropy against a class an image; top-1 and top-5 accuracy, expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DataError
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

BINS = 15
TOP = 5


class TopClasses:
    """How often the best class is the right one, how often one of the best five is, and whether scores say so.

    Expected calibration error (Guo et al., 2017, "On calibration of modern neural networks"): images are sorted into 15
    bins by the score of their best class; in each, the mean score is compared with the share that is right.
    """

    def __init__(self) -> None:
        self._within = self._count = 0
        self._right, self._score = np.zeros(BINS), np.zeros(BINS)

    def add(self, predicted: NDArray[np.floating[Any]], truth: NDArray[np.integer[Any]]) -> None:
        """Counts probabilities (B, K) against classes (B,). Raises DataError for what is no number."""
        if not np.isfinite(predicted).all():
            raise DataError("the network's scores are not numbers; its training has diverged")
        images = np.arange(len(truth))
        best = predicted.argmax(1)
        score = predicted[images, best].astype(np.float64)
        bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
        self._right += np.bincount(bins, best == truth, BINS)
        self._score += np.bincount(bins, score, BINS)
        self._within += int(((predicted > predicted[images, truth][:, None]).sum(1) < TOP).sum())
        self._count += truth.size

    def merge(self, other: TopClasses) -> None:
        self._right = self._right + other._right
        self._score = self._score + other._score
        self._within += other._within
        self._count += other._count

    def values(self) -> dict[str, float]:
        """top1, top5, calibration_error: 0..1. Raises NothingMeasuredError."""
        check_any(self._count)
        return {
            "top1": float(self._right.sum() / self._count),
            "top5": self._within / self._count,
            "calibration_error": float(np.abs(self._right - self._score).sum() / self._count),
        }


class Classification(TrainingKind):
    softmax = True
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
        return TopClasses()

    def answers(self, out: Tensor) -> NDArray[Any]:
        return to_array(torch.softmax(out.float(), 1))

    def as_labels(self, out: Tensor) -> NDArray[Any]:
        return to_array(out.argmax(1))

    def right(self, out: Tensor, labels: NDArray[Any]) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = self.as_labels(out) == labels
        return right
