"""Scores of tasks' answers, counted over any number of batches and processes."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from shared.types import TaskKind
from train.data.dataset import Dataset
from train.kinds import TRAINING_KINDS
from train.kinds.training_kind import Metric
from train.loop.scores import Against, Quality, Score, Scores


class Target(NamedTuple):
    """What a task's outputs for a batch are compared with: labels, or the answers of its network without a codec."""

    kind: TaskKind
    labels: NDArray[Any]
    classes: int
    against: Against


def target_of(kind: TaskKind, data: Dataset, indices: NDArray[Any], plain: Tensor) -> Target:
    """The labels of the images `indices`, or without labels what the network answers.

    plain: the network's outputs for these images.
    """
    return label_target(kind, data, indices) or network_target(kind, plain)


def label_target(kind: TaskKind, data: Dataset, indices: NDArray[Any]) -> Target | None:
    """The labels of the images `indices`; None where the set has none."""
    if data.form is None:
        return None
    return Target(kind, data.labels(indices), len(data.names), "labels")


def network_target(kind: TaskKind, plain: Tensor) -> Target:
    """The network's answers as the truth."""
    return Target(kind, TRAINING_KINDS[kind].as_labels(plain), plain.shape[1], "network")


class Scoring:
    """Counts answers and sums values of the same images; what several processes counted can be merged."""

    def __init__(self) -> None:
        self._metrics: dict[tuple[str, Quality, Against], Metric] = {}
        self._sums: dict[tuple[str, str, Quality], float] = {}

    def count(self, task: str, quality: Quality, out: Tensor, target: Target) -> None:
        """Counts a task's outputs at a quality."""
        key = task, quality, target.against
        if key not in self._metrics:
            self._metrics[key] = TRAINING_KINDS[target.kind].metric(target.classes)
        self._metrics[key].add(TRAINING_KINDS[target.kind].answers(out), target.labels)

    def add(self, task: str, metric: str, quality: Quality, values: Tensor) -> None:
        """Adds the values (B,) of images, for a mean."""
        key = task, metric, quality
        self._sums[key] = self._sums.get(key, 0.0) + float(values.sum())

    def merge(self, other: Scoring) -> None:
        for key, metric in other._metrics.items():
            if key in self._metrics:
                self._metrics[key].merge(metric)
            else:
                self._metrics[key] = metric
        for name, value in other._sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def scores(self, images: int = 1) -> Scores:
        """The metrics, and the means over so many images of what was added."""
        counted = [
            Score(name, value, task, quality, against)
            for (task, quality, against), metric in self._metrics.items()
            for name, value in metric.values().items()
        ]
        means = [
            Score(metric, total / images, task, quality)
            for (task, metric, quality), total in self._sums.items()
        ]
        return Scores([*counted, *means])
