"""Segmentation: cross-entropy over the labelled pixels; mean intersection over union."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cloud.engine.kinds.reductions import best
from shared.errors import DataError
from shared.kinds.segmentation import paint
from train.kinds.label_form import CLASS_MAP, IGNORE
from train.kinds.training_kind import (
    MainMetric,
    MapKind,
    MeanCount,
    Metric,
    RoomLabels,
    at_least_one,
    check_any,
    divergence,
    to_array,
)
from train.rooms import SEMANTIC_CLASSES


class Confusion:
    """Mean intersection over union of C classes, and the share of right pixels, over all images at once.

    A class that occurs neither in the predictions nor in the labels is left out of the mean. Pixels labelled `ignore`
    do not count.
    """

    def __init__(self, classes: int, ignore: int = IGNORE) -> None:
        self._classes, self._ignore = classes, ignore
        self._matrix = np.zeros((classes, classes), np.int64)  # truth, predicted

    def add(self, predicted: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]]) -> None:
        """Counts classes against labels of the same shape. Raises DataError for a class out of range."""
        counted = truth != self._ignore
        rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
        for name, values in (("labels", rows), ("predictions", columns)):
            if values.size and not 0 <= values.min() <= values.max() < self._classes:
                raise DataError(
                    f"the {name} hold classes {values.min()}..{values.max()}; there are 0..{self._classes - 1}"
                )
        flat = np.bincount(rows * self._classes + columns, minlength=self._classes**2)
        self._matrix += flat.reshape(self._matrix.shape)

    def merge(self, other: Confusion) -> None:
        self._matrix += other._matrix

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class (C,); NaN for a class that does not occur."""
        both = np.diagonal(self._matrix)
        either = self._matrix.sum(0) + self._matrix.sum(1) - both
        out = np.full(self._classes, np.nan)
        np.divide(both, either, out=out, where=either > 0)
        return out

    def values(self) -> dict[str, float]:
        """miou, pixel_accuracy: 0..1. Raises DataError."""
        count = int(self._matrix.sum())
        check_any(count)
        return {
            "miou": float(np.nanmean(self.iou())),
            "pixel_accuracy": int(np.trace(self._matrix)) / count,
        }


class Segmentation(MapKind):
    softmax = True
    form = CLASS_MAP
    rooms = RoomLabels("semantic", SEMANTIC_CLASSES)
    main = MainMetric("miou", "mIoU", True, 0.60, 0.02, "{:.3f}")

    def label_loss(self, out: Tensor, labels: Tensor, mean_count: MeanCount = at_least_one) -> Tensor:
        labelled = mean_count((labels != IGNORE).sum())
        return F.cross_entropy(out, labels.long(), ignore_index=IGNORE, reduction="sum") / labelled

    def teacher_distance(self, out: Tensor, wanted: Tensor) -> Tensor:
        return divergence(out, wanted)

    def metric(self, names: int) -> Metric:
        return Confusion(names)

    def answers(self, out: Tensor) -> NDArray[Any]:
        """(B, H, W)."""
        return to_array(best(out)[0])

    def painted(self, maps: NDArray[Any]) -> NDArray[np.uint8]:
        return paint(np.where(maps == IGNORE, 0, maps))
