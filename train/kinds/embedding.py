"""Embedding: no labels, only the uncompressed network's vectors; cosine agreement and recall at 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DataError
from train.kinds.training_kind import (
    MainMetric,
    MeanCount,
    Metric,
    TrainingKind,
    at_least_one,
    check_any,
    to_array,
)

PIECE = 1024  # queries that are compared with all vectors at once


class VectorAgreement:
    """How well vectors stand for those of the uncompressed network.

    Recall at 1: the share of images that are found by their vector among all uncompressed ones, by cosine. Of equal
    vectors the first counts.
    """

    def __init__(self) -> None:
        self._predicted: list[NDArray[np.float32]] = []
        self._truth: list[NDArray[np.float32]] = []

    def add(self, predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> None:
        """Counts vectors (B, D) of any length. Raises DataError for what is no number."""
        if not np.isfinite(predicted).all():
            raise DataError("the network's vectors are not numbers")
        self._predicted.append(_unit(predicted))
        self._truth.append(_unit(truth))

    def merge(self, other: VectorAgreement) -> None:
        self._predicted += other._predicted
        self._truth += other._truth

    def values(self) -> dict[str, float]:
        """cosine: -1..1, a mean. recall_at_1: 0..1. Raises DataError."""
        check_any(sum(map(len, self._truth)))
        predicted, truth = np.concatenate(self._predicted), np.concatenate(self._truth)
        hits = 0
        for start in range(0, len(predicted), PIECE):
            nearest = (predicted[start : start + PIECE] @ truth.T).argmax(1)
            hits += int((nearest == np.arange(start, start + len(nearest))).sum())
        cosines = (predicted * truth).sum(1, dtype=np.float64)
        return {"cosine": float(cosines.mean()), "recall_at_1": hits / len(predicted)}


def _unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(size > 0, size, 1)).astype(np.float32)


class Embedding(TrainingKind):
    form = None
    rooms = None
    main = MainMetric("cosine", "cosine", True, 0.95, 0.05, "{:.3f}")

    def label_loss(self, out: Tensor, labels: Tensor, mean_count: MeanCount = at_least_one) -> Tensor:
        raise DataError(
            "an embedding has no labels: it learns from its network's vectors (distill or feature)"
        )

    def teacher_distance(self, out: Tensor, wanted: Tensor) -> Tensor:
        """1 - cosine, plus the squared difference as a share of the teacher's square: direction and length."""
        square = wanted.square().sum(1).clamp_min(1e-12)
        return 1 - F.cosine_similarity(out, wanted, dim=1) + (out - wanted).square().sum(1) / square

    def metric(self, names: int) -> Metric:
        return VectorAgreement()

    def answers(self, out: Tensor) -> NDArray[Any]:
        """(B, D)."""
        return to_array(out.float())
