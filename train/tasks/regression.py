"""The linear reconstruction that an added task may begin with: ridge regression of its feature from z.

z as it is sent, 3 x 3 cells around each -> the feature's block of one cell, over all quality levels at once. A few
seconds of least squares put a reconstruction where thousands of steps do not bring it, and frozen networks that share
early layers with those of the bundle are then nearly there (docs/LOG.md).

Legend: B images, N latent channels, C x H' x W' the new network's feature, s its cells for one of z, each way.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cloud.networks.sizes import spatial
from cloud.networks.transforms import WithSkip, affine, interpolated
from train.tasks.trainable_head import TrainableHead

RIDGE = 0.01  # of the inputs' mean power


@torch.no_grad()
def start_by_regression(model: TrainableHead, batches: Iterator[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Sets the reconstruction's linear path, and lets the chain next to it begin at zero.

    batches: z (B, N, h, w), positions (B,) and features (B, C, H', W').
    """
    layers = model.reconstruction.layers
    assert isinstance(layers, WithSkip)  # as `reconstruction_of` has made sure
    stride, channels = layers.stride, model.head.feature[0]
    inputs = 9 * model.config.latent_channels + 1
    power = layers.linear.weight.new_zeros(inputs, inputs, dtype=torch.float64)
    cross = power.new_zeros(inputs, channels * stride**2)
    for z, position, y in batches:
        x = _cells(model, z, position)
        power += x.T @ x
        cross += x.T @ _blocks(model, y, z)
    power.diagonal().add_(RIDGE * power.diagonal().mean())
    found = torch.linalg.solve(power, cross).float()
    weight, last = found[:-1], found[-1]
    # As a transposed convolution: what a cell says of the block before it comes first.
    kernel = weight.reshape(-1, 3, 3, channels, stride, stride).flip(1, 2).permute(0, 3, 1, 4, 2, 5)
    layers.linear.weight.copy_(kernel.reshape(layers.linear.weight.shape))
    layers.weaken_chain(0.0)
    affine(layers.last).bias.copy_(last.reshape(channels, -1).mean(1))


def _cells(model: TrainableHead, z: Tensor, position: Tensor) -> Tensor:
    """The inputs of each block, (cells, 9 N + 1), double."""
    if model.log_inverse is not None:
        z = z * interpolated(model.log_inverse, position)
    z = model.reconstruction.continued(z, spatial(model.head.feature))
    x = F.unfold(z, 3, padding=1).transpose(1, 2).flatten(0, 1)
    return torch.cat([x, x.new_ones(len(x), 1)], 1).double()


def _blocks(model: TrainableHead, y: Tensor, z: Tensor) -> Tensor:
    """The feature in blocks, the targets, (cells, C s s), double."""
    y = y.float()
    if model.scaling is not None:
        y = model.scaling(y)
    stride, size = model.reconstruction.stride, spatial(model.head.feature)
    rows, columns = (side * stride for side in model.reconstruction.continued(z, size).shape[2:])
    missing = rows - size[0], columns - size[1]
    if all(0 <= side < stride for side in missing):
        y = F.pad(y, (0, missing[1], 0, missing[0]), mode="replicate")
    else:
        y = F.interpolate(y, (rows, columns), mode="bilinear", align_corners=False)
    return F.pixel_unshuffle(y, stride).permute(0, 2, 3, 1).flatten(0, 2).double()
