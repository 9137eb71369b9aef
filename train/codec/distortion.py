"""How far a task's answer from a feature that went through the codec is from what it should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from train.codec.codec_recipe import Distortion
from train.codec.split_networks import Head
from train.networks.train_maps import dense_loss


def distortion(
    kind: Distortion,
    head: Head,
    teacher: Callable[..., Tensor],
    made: Tensor,
    given: Tensor,
    truth: NDArray[Any] | None,
    crop: int | None,
    variance: Callable[[Tensor], Tensor] = torch.var,
) -> Tensor:
    """d of each picture, (B,). made: the task's feature through the codec; given: without, of the same shape.

    truth: labels, for "task". crop: cells of a map's piece that is compared, or None for all of it. variance: of
    `given`, over all processes' pictures.

    feature: mean squared error over the feature's variance. task: the task's own loss against the labels. distill:
    Kullback-Leibler divergence from the teacher's classes (a mean over the pixels for a map), or for normals 1 - cosine
    and the mean absolute difference. distill-hint, task-hint: the sum of that and of feature, which reaches a given
    error in fewer steps where the tail is deep (Romero et al., 2015, "FitNets: hints for thin deep nets").
    """
    if kind == "feature":
        return (made.float() - given).square().mean((1, 2, 3)) / variance(given)
    if kind == "distill-hint" or kind == "task-hint":
        hint = distortion("feature", head, teacher, made, given, truth, crop, variance)
        rest: Distortion = "distill" if kind == "distill-hint" else "task"
        return hint + distortion(rest, head, teacher, made, given, truth, crop)
    if kind == "task":
        return _from_labels(head, made, np.asarray(truth), crop)
    if head.kind != "classification" and crop is not None:
        rows, columns = _piece(made, crop)
        made, given = made[..., rows, columns], given[..., rows, columns]
    out = head(made, light=True).float()
    with torch.no_grad():
        wanted = teacher(given, light=True).float()
    if head.kind == "normals":
        one, other = F.normalize(out, dim=1), F.normalize(wanted, dim=1)
        return (1 - (one * other).sum(1) + (one - other).abs().mean(1)).mean((1, 2))
    wanted = F.log_softmax(wanted, 1)
    divergence = (wanted.exp() * (wanted - F.log_softmax(out, 1))).sum(1)
    return divergence if divergence.dim() == 1 else divergence.mean((1, 2))


def _from_labels(head: Head, made: Tensor, truth: NDArray[Any], crop: int | None) -> Tensor:
    """The task's own loss of each picture, (B,). A piece of a map is compared where the tail ends, before any
    interpolation, with one label of those that come to each value, another one each time."""
    if head.kind == "classification":
        labels = torch.from_numpy(np.ascontiguousarray(truth)).to(made.device)
        return F.cross_entropy(head(made).float(), labels, reduction="none")
    compared = None if crop is None else _labelled_piece(head, made, truth, crop)
    out, truth = compared or (head(made).float(), truth)
    labels = torch.from_numpy(np.ascontiguousarray(truth)).to(made.device)
    return torch.stack(
        [dense_loss(head.kind, one[None], map_[None]) for one, map_ in zip(out, labels, strict=True)]
    )


def _labelled_piece(
    head: Head, made: Tensor, truth: NDArray[Any], crop: int
) -> tuple[Tensor, NDArray[Any]] | None:
    """The tail's output of a piece and its labels; None where not as many come to each cell and to each value."""
    pixels, rest = divmod(truth.shape[1], made.shape[2])
    if rest or truth.shape[2] != pixels * made.shape[3]:
        return None
    rows, columns = _piece(made, crop)
    out = head(made[..., rows, columns], light=True).float()
    rows, columns = (slice(one.start * pixels, one.stop * pixels) for one in (rows, columns))
    truth = truth[:, rows, columns]
    fine = truth.shape[1] // out.shape[2]
    if truth.shape[1:3] != (fine * out.shape[2], fine * out.shape[3]):
        return None
    top, left = (int(torch.randint(fine, ())) for _ in range(2))
    return out, truth[:, top::fine, left::fine]


@torch.no_grad()
def crop_for(head: Head, cells: int | None) -> int | None:
    """`cells`, or None for a head that takes whole maps only: a traced network may know its map's size by heart."""
    if cells is None or head.kind == "classification":
        return cells
    channels, height, width = head.feature
    training = head.training
    head.eval()
    try:
        head(torch.zeros(1, channels, min(cells, height), min(cells, width)), light=True)
    except RuntimeError:
        return None
    finally:
        head.train(training)
    return cells


def _piece(y: Tensor, cells: int) -> tuple[slice, slice]:
    """Rows and columns of a piece of features y (B, C, H', W'), drawn anew each time."""
    height, width = y.shape[2:]
    high, wide = min(cells, height), min(cells, width)
    top, left = (int(torch.randint(n, ())) for n in (height - high + 1, width - wide + 1))
    return slice(top, top + high), slice(left, left + wide)
