"""Depth: absolute differences in metres; relative error, root mean square and the share within a factor of 1.25."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DataError
from shared.kinds.depth import depth_rgb
from train.kinds.label_form import METRE_MAP
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

NEAREST_M = 1e-3  # a prediction of less, or below 0, counts as this


class DepthError:
    """Errors of predicted depths over all pixels whose depth is known, of all images."""

    FACTOR = 1.25

    def __init__(self) -> None:
        self._count = self._within = 0
        self._relative = self._square = 0.0

    def add(self, predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> None:
        """Counts metres (B, H, W); pixels whose truth is 0 are unknown. Raises DataError for what is no number."""
        known = truth > 0
        wanted, made = truth[known].astype(np.float64), predicted[known].astype(np.float64)
        if not np.isfinite(made).all():
            raise DataError("the network predicts depths that are not numbers")
        made = made.clip(NEAREST_M)
        self._count += wanted.size
        self._relative += float((np.abs(made - wanted) / wanted).sum())
        self._square += float(np.square(made - wanted).sum())
        self._within += int((np.maximum(made / wanted, wanted / made) < self.FACTOR).sum())

    def merge(self, other: DepthError) -> None:
        self._count += other._count
        self._within += other._within
        self._relative += other._relative
        self._square += other._square

    def values(self) -> dict[str, float]:
        """abs_rel: mean of |d - d*| / d*. rmse_m: metres. delta_1.25: share, 0..1. Raises DataError."""
        check_any(self._count)
        return {
            "abs_rel": self._relative / self._count,
            "rmse_m": (self._square / self._count) ** 0.5,
            "delta_1.25": self._within / self._count,
        }


class Depth(MapKind):
    form = METRE_MAP
    rooms = RoomLabels("depth", ("metres",))
    main = MainMetric("abs_rel", "abs-rel", False, 0.15, 0.01, "{:.3f}")

    def outputs(self, names: tuple[str, ...]) -> int:
        return 1

    def label_loss(self, out: Tensor, labels: Tensor, mean_count: MeanCount = at_least_one) -> Tensor:
        known = labels > 0
        return ((out[:, 0].float() - labels).abs() * known).sum() / mean_count(known.sum())

    def teacher_distance(self, out: Tensor, wanted: Tensor) -> Tensor:
        """The mean absolute difference, as a share of the teacher's mean depth."""
        depth = wanted.clamp_min(0).mean((1, 2, 3)).clamp_min(NEAREST_M)
        return (out - wanted).abs().mean((1, 2, 3)) / depth

    def metric(self, names: int) -> Metric:
        return DepthError()

    def answers(self, out: Tensor) -> NDArray[Any]:
        """Metres (B, H, W)."""
        return to_array(out[:, 0].float())

    def as_labels(self, out: Tensor) -> NDArray[Any]:
        return self.answers(out).clip(NEAREST_M)  # a network knows the depth of every pixel

    def painted(self, maps: NDArray[Any]) -> NDArray[np.uint8]:
        return depth_rgb(maps)
