"""What training and benches know of a kind of answer: the Protocol that each kind's file fulfils, and what they share.

    labels, or a teacher's output -> label_loss, teacher_distance -> a loss
                                  -> count -> metric -> values, of which `main` decides

Legend: B images, K outputs, H x W pixels. Outputs are vectors (B, K), or maps (B, C, H, W).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DataError
from train.kinds.label_form import LabelForm


class NothingMeasuredError(DataError):
    """No image was counted, or none with a label."""


class Metric(Protocol):
    """Counts answers over any number of batches; what several processes counted can be merged."""

    def add(self, predicted: NDArray[Any], truth: NDArray[Any]) -> None:
        """Counts a batch. Raises DataError for answers that cannot be."""

    def merge(self, other: Self) -> None: ...

    def values(self) -> dict[str, float]:
        """By name. Raises NothingMeasuredError."""


@dataclass(frozen=True)
class MainMetric:
    """The metric by which a kind is judged.

    key: its name in scores. form, unit: how a value is printed. target: what a bench asks of a network. tolerance:
    what a codec may cost at the default quality.
    """

    key: str
    name: str
    larger_is_better: bool
    target: float
    tolerance: float
    form: str
    unit: str = ""

    def text(self, value: float) -> str:
        return f"{self.form.format(value)}{self.unit}"


@dataclass(frozen=True)
class RoomLabels:
    """Where rendered rooms have a kind's labels, and the names of its outputs. reduce: labels from the layer's."""

    layer: str
    names: tuple[str, ...]
    reduce: Callable[[NDArray[Any]], NDArray[Any]] = lambda labels: labels


def at_least_one(count: Tensor) -> Tensor:
    return count.clamp(min=1)


MeanCount = Callable[[Tensor], Tensor]


class TrainingKind(Protocol):
    """A kind of answer as training sees it.

    form: of its labels; None: it has none, and learns from a teacher alone. rooms: its labels in rendered rooms.
    softmax: whether an output holds the logits of classes one of which is drawn, for the image or each pixel.
    """

    softmax: bool = False
    form: LabelForm | None
    rooms: RoomLabels | None
    main: MainMetric

    @property
    def ignored(self) -> int | None:
        """The class of pixels that nobody labelled, if the kind's labels are maps of classes."""
        classes = self.form is not None and self.form.per_pixel and self.form.named
        return self.form.unlabelled if self.form is not None and classes else None

    def outputs(self, names: tuple[str, ...]) -> int:
        """The channels or numbers that a network for these names has."""
        return len(names)

    def label_loss(self, out: Tensor, labels: Tensor, mean_count: MeanCount = at_least_one) -> Tensor:
        """The loss of outputs against labels, a mean over all that is labelled; 0 if nothing is.

        mean_count: `Workers.mean_count` where several processes train.
        """

    def smoothed_loss(self, out: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """`label_loss` of a network's own training. smoothing: of the labels, if the kind does that."""
        return self.label_loss(out, labels)

    def label_distance(self, out: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image against its labels, (B,)."""
        pairs = zip(out, labels, strict=True)
        return torch.stack([self.label_loss(one[None], its[None]) for one, its in pairs])

    def teacher_distance(self, out: Tensor, wanted: Tensor) -> Tensor:
        """The distance of outputs from a teacher's, of each image, (B,); a mean over the pixels of a map."""

    def metric(self, names: int) -> Metric:
        """A new metric. names: how many outputs have one."""

    def answers(self, out: Tensor) -> NDArray[Any]:
        """Outputs as the metric counts them."""

    def as_labels(self, out: Tensor) -> NDArray[Any]:
        """Outputs in the form of labels, so that others can be compared with them."""
        return self.answers(out)

    def right(self, out: Tensor, labels: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Whether each image's answer is right, (B,); None for a kind whose answers are better or worse."""
        return None


class MapKind(TrainingKind):
    """A kind whose answers are maps, which can be shown as images."""

    @abstractmethod
    def painted(self, maps: NDArray[Any]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of maps in the form of labels."""


def to_array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.cpu().numpy()
    return array


def check_any(count: float) -> None:
    """Raises NothingMeasuredError if nothing was counted."""
    if not count:
        raise NothingMeasuredError("there is nothing to measure: no image, or none with a labelled pixel")


def divergence(out: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence from a teacher's classes, of each image, (B,); a mean over the pixels of a map."""
    wanted = torch.log_softmax(wanted, 1)
    each = (wanted.exp() * (wanted - torch.log_softmax(out, 1))).sum(1)
    return each if each.dim() == 1 else each.mean((1, 2))
