"""Auxiliary losses that preserve image and object information in a feature for later tasks. Knows no task.

A network that learns one task discards the rest, and a task that is added later finds nothing (docs/LOG.md). Trained
with these losses, the feature serves tasks that nobody has thought of. Their modules are dropped after training, and
neither an edge nor a cloud ever shows an image made from a feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COARSE = 4  # image pixels to a rebuilt one, each way


class Appearance(nn.Module):
    """Feature (B, C, h, w) -> the image at a quarter of its size (B, 3, H/4, W/4), from a grid of any size."""

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
        """Mean squared error of the image rebuilt from y, over the variance of the images x (B, 3, H, W).

        variance: over the images of all processes.
        """
        wanted = F.avg_pool2d(x, COARSE)
        rebuilt = self.layers(y)
        if rebuilt.shape != wanted.shape:
            rebuilt = F.interpolate(rebuilt, wanted.shape[2:], mode="bilinear", align_corners=False)
        return F.mse_loss(rebuilt, wanted) / variance(wanted)


class CategoryHead(nn.Module):
    """Feature (B, C, h, w) -> logits (B, K) of the image's category: the log-sum-exp of its cells' logits.

    A category shows in a few objects, and only the cells that show one can raise its logit. So the feature learns to
    distinguish objects where they are, without labels of where. The pooling follows P. O. Pinheiro and R. Collobert,
    "From Image-level to Pixel-level Labeling with Convolutional Networks", CVPR 2015, without the division by the
    number of cells, which makes no difference to a cross-entropy.
    """

    def __init__(self, channels: int, classes: int, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(width, classes, 1)
        )

    def distance(self, y: Tensor, categories: Tensor) -> Tensor:
        """Cross-entropy of the logits of y against the categories (B,)."""
        cells = self.layers(y).flatten(2)
        return F.cross_entropy(cells.logsumexp(2), categories)
