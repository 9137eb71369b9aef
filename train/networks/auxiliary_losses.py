"""Keeps in a network's feature what its own task could do without: the picture, and the things in it. Knows no task.

A network that learns one task throws the rest away, and a task that is added later then finds nothing (docs/LOG.md).
With these beside it in training, the feature serves tasks that nobody has thought of. They are dropped afterwards, and
neither an edge nor a cloud ever shows a picture made of a feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COARSE = 4  # pixels of the picture to one of the rebuilt one


class Appearance(nn.Module):
    """Feature (B, C, h, w) -> the picture (B, 3, H/4, W/4), coarsely. Any grid; what is finer is interpolated."""

    def __init__(self, channels: int, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 3 * 16, 1),
            nn.PixelShuffle(4),
        )

    def distance(self, y: Tensor, x: Tensor, variance: Callable[[Tensor], Tensor] = torch.var) -> Tensor:
        """Mean squared error of the picture rebuilt from y, over the variance of the pictures x (B, 3, H, W).

        variance: over all processes' pictures.
        """
        wanted = F.avg_pool2d(x, COARSE)
        made = self.layers(y)
        if made.shape != wanted.shape:
            made = F.interpolate(made, wanted.shape[2:], mode="bilinear", align_corners=False)
        return F.mse_loss(made, wanted) / variance(wanted)


class Things(nn.Module):
    """Feature (B, C, h, w) -> logits (B, K) of the whole picture's category, each the log-sum-exp of its cells'.

    What tells a category is a few things in the picture, and only the cells that show one can raise its logit: so the
    feature learns to tell things apart where they are, without a label of where. The pooling is that of P. O. Pinheiro
    and R. Collobert, "From Image-level to Pixel-level Labeling with Convolutional Networks", CVPR 2015, but for the
    number of cells, which a cross-entropy does not see.
    """

    def __init__(self, channels: int, classes: int, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(width, classes, 1)
        )

    def distance(self, y: Tensor, categories: Tensor) -> Tensor:
        """Cross-entropy of the categories (B,) told from y."""
        cells = self.layers(y).flatten(2)
        return F.cross_entropy(cells.logsumexp(2), categories)
