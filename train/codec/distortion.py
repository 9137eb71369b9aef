"""How far a task's answer from a decoded feature is from what it should be.

Legend: B images, C feature channels, H' x W' feature cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.kinds import KINDS
from train.codec.codec_recipe import Distortion
from train.codec.split_networks import Head
from train.kinds import TRAINING_KINDS


def distortion(
    kind: Distortion,
    head: Head,
    teacher: Callable[..., Tensor],
    decoded: Tensor,
    given: Tensor,
    labels: NDArray[Any] | None,
    crop: int | None,
    variance: Callable[[Tensor], Tensor] = torch.var,
) -> Tensor:
    """d of each image, (B,).

    feature: mean squared error over the feature's variance.
    task: the task's own loss against the labels.
    distill: the kind's `teacher_distance` from the teacher's answers.
    distill-hint, task-hint: that plus feature, which reaches a given error in fewer steps where the tail is deep
        (Romero et al., 2015, "FitNets: hints for thin deep nets").

    decoded, given: the task's feature (B, C, H', W') through the codec, and without it.
    crop: side, in cells, of the piece of a map that is compared; None: all of it.
    variance: of `given`, over the images of all processes.
    """
    if kind == "feature":
        return (decoded.float() - given).square().mean((1, 2, 3)) / variance(given)
    if kind == "distill-hint" or kind == "task-hint":
        hint = distortion("feature", head, teacher, decoded, given, labels, crop, variance)
        rest: Distortion = "distill" if kind == "distill-hint" else "task"
        return hint + distortion(rest, head, teacher, decoded, given, labels, crop)
    if kind == "task":
        return _from_labels(head, decoded, np.asarray(labels), crop)
    if KINDS[head.kind].mapped and crop is not None:
        rows, columns = _piece(decoded, crop)
        decoded, given = decoded[..., rows, columns], given[..., rows, columns]
    out = head(decoded, light=True).float()
    with torch.no_grad():
        wanted = teacher(given, light=True).float()
    return TRAINING_KINDS[head.kind].teacher_distance(out, wanted)


def _from_labels(head: Head, decoded: Tensor, labels: NDArray[Any], crop: int | None) -> Tensor:
    """The task's own loss of each image, (B,).

    A piece of a map is compared where the tail ends, before any interpolation, with one of the labels that belong to
    each value, a different one each time.
    """
    compared = None
    if KINDS[head.kind].mapped and crop is not None:
        compared = _labelled_piece(head, decoded, labels, crop)
    out, labels = compared or (head(decoded).float(), labels)
    wanted = torch.from_numpy(np.ascontiguousarray(labels)).to(decoded.device)
    return TRAINING_KINDS[head.kind].label_distance(out, wanted)


def _labelled_piece(
    head: Head, decoded: Tensor, labels: NDArray[Any], crop: int
) -> tuple[Tensor, NDArray[Any]] | None:
    """The tail's output of a piece, and its labels; None where labels do not divide evenly among cells or values."""
    pixels, rest = divmod(labels.shape[1], decoded.shape[2])
    if rest or labels.shape[2] != pixels * decoded.shape[3]:
        return None
    rows, columns = _piece(decoded, crop)
    out = head(decoded[..., rows, columns], light=True).float()
    rows, columns = (slice(one.start * pixels, one.stop * pixels) for one in (rows, columns))
    labels = labels[:, rows, columns]
    fine = labels.shape[1] // out.shape[2]
    if labels.shape[1:3] != (fine * out.shape[2], fine * out.shape[3]):
        return None
    top, left = (int(torch.randint(fine, ())) for _ in range(2))
    return out, labels[:, top::fine, left::fine]


@torch.no_grad()
def crop_for(head: Head, cells: int | None) -> int | None:
    """`cells`, or None for a head that takes whole maps only: tracing may fix the size of its map, or of one inside."""
    if cells is None or not KINDS[head.kind].mapped:
        return cells
    channels, height, width = head.feature
    training = head.training
    head.eval()
    high, wide = min(cells, height), min(cells, width)
    try:
        whole = head(torch.zeros(1, channels, height, width), light=True).shape[2:]
        piece = head(torch.zeros(1, channels, high, wide), light=True).shape[2:]
    except RuntimeError:
        return None
    finally:
        head.train(training)
    return cells if (piece[0] * height, piece[1] * width) == (whole[0] * high, whole[1] * wide) else None


def _piece(y: Tensor, cells: int) -> tuple[slice, slice]:
    """Rows and columns of a piece of features y (B, C, H', W'), drawn anew each time."""
    height, width = y.shape[2:]
    high, wide = min(cells, height), min(cells, width)
    top, left = (int(torch.randint(n, ())) for n in (height - high + 1, width - wide + 1))
    return slice(top, top + high), slice(left, left + wide)
