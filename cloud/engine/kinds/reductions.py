"""Reductions over the channels of maps, on whatever device they are.

Legend: B images, K classes, H x W pixels, P pixels of an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The first channel of the largest score, and that score, (B, H, W) each, of scores (B, K, H, W).

    On a CPU in numpy's whole-array steps: 0.7 ms for 17 channels of 256 x 256, and torch's argmax over an axis in the
    middle takes 15.
    """
    if scores.device.type != "cpu":
        value, index = scores.max(1)
        return index, value
    found = [_best_channel(image) for image in scores.numpy()]
    index, value = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
    return index, value


def _best_channel(scores: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The first channel of the largest score, and that score, (H, W) each, of scores (K, H, W)."""
    number = np.uint8 if len(scores) <= 256 else np.int32
    value = scores[0].copy()
    index = np.zeros(value.shape, number)
    higher, step = np.empty(value.shape, bool), np.empty(value.shape, number)
    for channel, row in enumerate(scores[1:], 1):
        np.greater(row, value, out=higher)
        np.maximum(row, value, out=value)
        np.multiply(higher.view(np.uint8), number(channel), out=step)
        np.maximum(index, step, out=index)
    return index, value


def shares(index: Tensor, count: int) -> Tensor:
    """The share of each integer below `count` in each row of index (B, P): (B, count) float64."""
    counts = torch.stack([torch.bincount(row, minlength=count) for row in index])
    return counts.double() / index.shape[1]
