"""What training knows of each kind of answer: its losses, its metric, its labels and how it is painted.

Legend: B images, H x W pixels, K outputs. Outputs are logits (B, K) of a classification, logits (B, K, H, W) of a
segmentation, or vectors (B, 3, H, W) of any length for normals. Labels are as `train.data.dataset.FORMS` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.kinds import KINDS
from shared.kinds.normals import normals_rgb
from shared.kinds.segmentation import paint
from shared.types import TaskKind
from train.data.dataset import IGNORE
from train.loop.metrics import AngularError, Confusion, Top1

Metric = Top1 | AngularError | Confusion

# The metric by which a kind's weights are compared, and which of two values is better.
MAIN_METRIC: dict[TaskKind, tuple[str, bool]] = {  # name, larger is better
    "classification": ("top1", True),
    "normals": ("mean_deg", False),
    "segmentation": ("miou", True),
}
# The main metrics as a person reads them: name in scores, name in prose, format.
IN_PROSE = (
    ("top1", "top-1", "{:.1%}"),
    ("mean_deg", "normals", "{:.2f} degrees"),
    ("miou", "mIoU", "{:.3f}"),
)


def is_map(kind: TaskKind) -> bool:
    """Whether an answer has a value for every pixel."""
    return KINDS[kind].mapped


def ignored_class(kind: TaskKind) -> int | None:
    """The class of pixels that nobody labelled."""
    return IGNORE if kind == "segmentation" else None


def at_least_one(count: Tensor) -> Tensor:
    return count.clamp(min=1)


def map_loss(
    kind: TaskKind,
    out: Tensor,
    labels: Tensor,
    mean_count: Callable[[Tensor], Tensor] = at_least_one,
) -> Tensor:
    """The loss of maps against labels, a mean over the labelled pixels; 0 if there is none.

    Segmentation: cross-entropy. Normals: 1 - cosine, plus the mean absolute difference of the components.
    mean_count: `Workers.mean_count` where several processes train.
    """
    if kind == "segmentation":
        labelled = mean_count((labels != IGNORE).sum())
        return F.cross_entropy(out, labels.long(), ignore_index=IGNORE, reduction="sum") / labelled
    valid = (labels != 0).any(-1)
    one = F.normalize(labels.permute(0, 3, 1, 2).float(), dim=1)
    other = F.normalize(out.float(), dim=1)
    distance = 1 - (one * other).sum(1) + (one - other).abs().mean(1)
    return (distance * valid).sum() / mean_count(valid.sum())


def label_distance(kind: TaskKind, out: Tensor, labels: Tensor) -> Tensor:
    """The task's own loss of each image, (B,)."""
    if kind == "classification":
        return F.cross_entropy(out, labels, reduction="none")
    return torch.stack([map_loss(kind, a[None], b[None]) for a, b in zip(out, labels, strict=True)])


def teacher_distance(kind: TaskKind, out: Tensor, wanted: Tensor) -> Tensor:
    """The distance of outputs from a teacher's, of each image, (B,); a mean over the pixels of a map.

    Kullback-Leibler divergence of the classes. Normals: 1 - cosine, plus the mean absolute difference.
    """
    if kind == "normals":
        one, other = F.normalize(out, dim=1), F.normalize(wanted, dim=1)
        return (1 - (one * other).sum(1) + (one - other).abs().mean(1)).mean((1, 2))
    wanted = F.log_softmax(wanted, 1)
    divergence = (wanted.exp() * (wanted - F.log_softmax(out, 1))).sum(1)
    return divergence if divergence.dim() == 1 else divergence.mean((1, 2))


def new_metric(kind: TaskKind, classes: int) -> Metric:
    """The field's metric for a kind of answer."""
    if kind == "classification":
        return Top1()
    return AngularError() if kind == "normals" else Confusion(classes, IGNORE)


def count(metric: Metric, out: Tensor, labels: NDArray[Any]) -> None:
    """Counts outputs against labels."""
    if isinstance(metric, AngularError):
        metric.add(as_labels("normals", out), labels.astype(np.float32))
    else:
        metric.add(out.argmax(1).cpu().numpy(), labels)


def as_labels(kind: TaskKind, out: Tensor) -> NDArray[Any]:
    """Outputs in the form of labels: classes (B,) or (B, H, W), or vectors (B, H, W, 3) of any length."""
    answers = out.float().permute(0, 2, 3, 1) if kind == "normals" else out.argmax(1)
    array: NDArray[Any] = answers.cpu().numpy()
    return array


def right_answers(kind: TaskKind, out: Tensor, labels: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Whether the class of each image is right, (B,); None for a kind without one class an image."""
    return as_labels(kind, out) == labels if kind == "classification" else None


def painted(kind: TaskKind, maps: NDArray[Any]) -> NDArray[np.uint8]:
    """RGB (B, H, W, 3) of maps in the form of labels."""
    if kind == "normals":
        return normals_rgb(maps)
    return paint(np.where(maps == IGNORE, 0, maps))
