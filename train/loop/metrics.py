"""The field's metrics, counted over any number of batches. Knows no network and no data set.

    metric = Confusion(17)
    for ...: metric.add(predicted, truth)
    metric.values()                           # {"miou": ..., "pixel_accuracy": ...}

`merge` adds the counts of another accumulator, so that batches or processes can be counted apart. With nothing counted
there is a NothingMeasuredError, not a NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError


class NothingMeasuredError(DataError):
    """No image was counted, or none with a labelled pixel."""


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
        _check_any(self._count)
        return {"top1": self._right / self._count}


class AngularError:
    """Angles between predicted and true normals, over all pixels of all images, in degrees.

    Mean and shares are exact; the median comes from a histogram with bins of 0.01 degrees, within 0.005 of the exact
    one. A prediction of length zero counts as 90 degrees.
    """

    THRESHOLDS = (11.25, 22.5, 30.0)
    RESOLUTION = 0.01  # degrees

    def __init__(self) -> None:
        self._histogram = np.zeros(round(180 / self.RESOLUTION) + 1, np.int64)
        self._within = np.zeros(len(self.THRESHOLDS), np.int64)
        self._sum = 0.0

    def add(
        self,
        predicted: NDArray[np.floating[Any]],
        truth: NDArray[np.floating[Any]],
        valid: NDArray[np.bool_] | None = None,
    ) -> None:
        """Counts vectors (..., 3) of any length.

        valid (...): the pixels that count, by default those where the truth is not 0.

        Raises DataError for predictions that are not numbers.
        """
        if valid is None:
            valid = np.any(truth != 0, axis=-1)
        degrees = angles(predicted[valid], truth[valid])
        if not np.isfinite(degrees).all():
            raise DataError("the network predicts normals that are not numbers")
        bins = (degrees / self.RESOLUTION).astype(np.int64)
        self._histogram += np.bincount(bins, minlength=len(self._histogram))
        self._within += [int((degrees < limit).sum()) for limit in self.THRESHOLDS]
        self._sum += float(degrees.sum(dtype=np.float64))

    def merge(self, other: AngularError) -> None:
        self._histogram += other._histogram
        self._within += other._within
        self._sum += other._sum

    def values(self) -> dict[str, float]:
        """mean_deg and median_deg; within_11.25, within_22.5 and within_30: shares 0..1. Raises DataError."""
        count = int(self._histogram.sum())
        _check_any(count)
        shares = {
            f"within_{limit:g}": int(n) / count
            for limit, n in zip(self.THRESHOLDS, self._within, strict=True)
        }
        return {"mean_deg": self._sum / count, "median_deg": self._median(count), **shares}

    def _median(self, count: int) -> float:
        below = self._histogram.cumsum()
        # The median of an even number of angles lies half-way between the two in the middle.
        low, high = np.searchsorted(below, [(count - 1) // 2, count // 2], side="right")
        return (float(low + high) / 2 + 0.5) * self.RESOLUTION


class Confusion:
    """Mean intersection over union of C classes, and the share of right pixels, over all images at once.

    A class that occurs neither in the predictions nor in the labels is left out of the mean. Pixels labelled `ignore`
    do not count.
    """

    def __init__(self, classes: int, ignore: int = 255) -> None:
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
        _check_any(count)
        return {
            "miou": float(np.nanmean(self.iou())),
            "pixel_accuracy": int(np.trace(self._matrix)) / count,
        }


def angles(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Degrees between vectors (..., 3) of any length; 90 where one has length zero.

    Uses the tangent of half the angle, because an arc cosine in float32 is off by 0.03 degrees near 0, where good
    answers lie.
    """
    size_a, size_b = (np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
    # Scaled to length 1 first, so that no product overflows or underflows.
    a, b = (v / np.where(s > 0, s, 1) for v, s in ((a, size_a), (b, size_b)))
    half = np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
    degrees: NDArray[np.floating[Any]] = np.degrees(2 * half)
    return degrees


def _check_any(count: int) -> None:
    if not count:
        raise NothingMeasuredError("there is nothing to measure: no image, or none with a labelled pixel")
