"""Multilabel: binary cross-entropy of each label on its own; mean average precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DataError
from shared.kinds.multilabel import PRESENT
from train.kinds.label_form import CLASSES, IGNORE
from train.kinds.training_kind import (
    MainMetric,
    MeanCount,
    Metric,
    RoomLabels,
    TrainingKind,
    at_least_one,
    check_any,
    to_array,
)
from train.rooms import SEMANTIC_CLASSES


class AveragePrecision:
    """Mean over the labels of the average precision over all images.

    A label that holds for no image does not count, nor do images for which nobody said whether it holds.
    """

    def __init__(self) -> None:
        self._scores: list[NDArray[np.float32]] = []
        self._truth: list[NDArray[np.uint8]] = []

    def add(self, predicted: NDArray[np.floating[Any]], truth: NDArray[np.integer[Any]]) -> None:
        """Counts scores (B, K) against labels (B, K), 0, 1 or IGNORE. Raises DataError for what is no number."""
        if not np.isfinite(predicted).all():
            raise DataError("the network predicts scores that are not numbers")
        self._scores.append(predicted.astype(np.float32))
        self._truth.append(truth.astype(np.uint8))

    def merge(self, other: AveragePrecision) -> None:
        self._scores += other._scores
        self._truth += other._truth

    def values(self) -> dict[str, float]:
        """map: 0..1. Raises DataError."""
        check_any(sum(map(len, self._truth)))
        scores, truth = np.concatenate(self._scores), np.concatenate(self._truth)
        each = [
            average_precision(s[t != IGNORE], t[t != IGNORE]) for s, t in zip(scores.T, truth.T, strict=True)
        ]
        found = [value for value in each if value is not None]
        check_any(len(found))
        return {"map": float(np.mean(found))}


def average_precision(scores: NDArray[np.floating[Any]], truth: NDArray[np.integer[Any]]) -> float | None:
    """Precision at each distinct score, weighted by the recall it adds; None if the label never holds.

    scores, truth: (N,); truth is 1 where the label holds, otherwise 0.
    """
    positives = int(truth.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], truth[order].cumsum()
    # Images of one score are one step: their order among each other means nothing.
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    precision = hits[last] / (last + 1)
    gained = np.diff(hits[last], prepend=0) / positives
    return float((precision * gained).sum())


def present(maps: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """The classes that are in each map (B, H, W), (B, K), of the rooms' classes."""
    names = range(len(SEMANTIC_CLASSES))
    return np.stack([(maps == index).any((1, 2)) for index in names], 1).astype(np.uint8)


class Multilabel(TrainingKind):
    form = CLASSES
    rooms = RoomLabels("semantic", SEMANTIC_CLASSES, present)
    main = MainMetric("map", "mAP", True, 0.70, 0.02, "{:.3f}")

    def label_loss(self, out: Tensor, labels: Tensor, mean_count: MeanCount = at_least_one) -> Tensor:
        known = labels != IGNORE
        each = F.binary_cross_entropy_with_logits(out.float(), labels.clamp(max=1).float(), reduction="none")
        return (each * known).sum() / mean_count(known.sum())

    def teacher_distance(self, out: Tensor, wanted: Tensor) -> Tensor:
        """Kullback-Leibler divergence from the teacher's yes or no of each label, a mean over the labels."""
        wanted = wanted.float()
        p = wanted.sigmoid()
        yes, no = F.logsigmoid(wanted) - F.logsigmoid(out), F.logsigmoid(-wanted) - F.logsigmoid(-out)
        return (p * yes + (1 - p) * no).mean(1)

    def metric(self, names: int) -> Metric:
        return AveragePrecision()

    def answers(self, out: Tensor) -> NDArray[Any]:
        """Scores (B, K), 0..1."""
        return to_array(out.float().sigmoid())

    def as_labels(self, out: Tensor) -> NDArray[Any]:
        return (self.answers(out) >= PRESENT).astype(np.uint8)
