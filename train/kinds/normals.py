"""Normals: 1 - cosine, plus the mean absolute difference of the components; angles in degrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DataError
from shared.kinds.normals import normals_rgb
from train.kinds.label_form import VECTOR_MAP
from train.kinds.training_kind import (
    MainMetric,
    MapKind,
    MeanCount,
    Metric,
    RoomLabels,
    at_least_one,
    check_any,
    to_array,
)


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
        predicted: NDArray[Any],
        truth: NDArray[Any],
        valid: NDArray[np.bool_] | None = None,
    ) -> None:
        """Counts vectors (..., 3) of any length.

        valid (...): the pixels that count, by default those where the truth is not 0.

        Raises DataError for predictions that are not numbers.
        """
        if valid is None:
            # numpy reduces short axes slowly.
            valid = np.logical_or.reduce([component != 0 for component in np.moveaxis(truth, -1, 0)])
        degrees = angles(predicted[valid], truth[valid].astype(np.float32, copy=False))
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
        check_any(count)
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


def angles(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Degrees between vectors (..., 3) of any length; 90 where one has length zero.

    Uses the tangent of half the angle, because an arc cosine in float32 is off by 0.03 degrees near 0, where good
    answers lie.
    """
    size_a, size_b = _lengths(a), _lengths(b)
    # Scaled to length 1 first, so that no product overflows or underflows.
    a, b = (v / np.where(s > 0, s, 1)[..., None] for v, s in ((a, size_a), (b, size_b)))
    degrees: NDArray[np.floating[Any]] = np.degrees(2 * np.arctan2(_lengths(a - b), _lengths(a + b)))
    return degrees


def _lengths(v: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Of vectors (..., 3). numpy's norm takes four times as long over so short an axis."""
    lengths: NDArray[np.floating[Any]] = np.sqrt(np.einsum("...i,...i->...", v, v))
    return lengths


def _distance(out: Tensor, wanted: Tensor) -> Tensor:
    """Of each pixel, (B, H, W), between vectors (B, 3, H, W) of any length."""
    one, other = F.normalize(wanted, dim=1), F.normalize(out, dim=1)
    return 1 - (one * other).sum(1) + (one - other).abs().mean(1)


class Normals(MapKind):
    form = VECTOR_MAP
    rooms = RoomLabels("normals", ("x", "y", "z"))
    main = MainMetric("mean_deg", "mean error", False, 12.0, 1.0, "{:.2f}", " degrees")

    def outputs(self, names: tuple[str, ...]) -> int:
        return 3

    def label_loss(self, out: Tensor, labels: Tensor, mean_count: MeanCount = at_least_one) -> Tensor:
        valid = (labels != 0).any(-1)
        distance = _distance(out.float(), labels.permute(0, 3, 1, 2).float())
        return (distance * valid).sum() / mean_count(valid.sum())

    def teacher_distance(self, out: Tensor, wanted: Tensor) -> Tensor:
        return _distance(out, wanted).mean((1, 2))

    def metric(self, names: int) -> Metric:
        return AngularError()

    def answers(self, out: Tensor) -> NDArray[Any]:
        """(B, H, W, 3), of any length."""
        return to_array(out.float().permute(0, 2, 3, 1))

    def painted(self, maps: NDArray[Any]) -> NDArray[np.uint8]:
        return normals_rgb(maps)
