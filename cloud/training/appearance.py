"""Keeps in a network's feature what its own task could do without: the picture can be rebuilt from it. Knows no task.

A network that learns one task throws the rest away, and a task that is added later then finds nothing (docs/LOG.md).
With this beside it in training, the feature serves tasks that nobody has thought of; what rebuilds the picture is
dropped afterwards, and neither an edge nor a cloud ever shows a picture made of a feature.
"""

from __future__ import annotations

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

    def distance(self, y: Tensor, x: Tensor) -> Tensor:
        """Mean squared error of the picture rebuilt from y, over the variance of the pictures x (B, 3, H, W)."""
        wanted = F.avg_pool2d(x, COARSE)
        made = self.layers(y)
        if made.shape != wanted.shape:
            made = F.interpolate(made, wanted.shape[2:], mode="bilinear", align_corners=False)
        return F.mse_loss(made, wanted) / wanted.var()
