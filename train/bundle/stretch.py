"""Gives decoded features back what rounding took from their contrast.

    y' = mean + factor (y - mean), by channel; mean: that of the network's own feature

A reconstruction that was trained to come near the feature is the mean of all that it could have been: it varies less
than the feature that a tail has learned from. The last layers of the task's subnet are changed, so it costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from cloud.networks.transforms import Scaling, WithSkip, affine
from shared.bundle import Preprocess
from shared.errors import DataError
from train.codec.split_networks import SplitNetworks, as_map
from train.data.dataset import Dataset, network_input

STRETCH_MAX = 2.0
SAMPLE = 256  # images whose features give the mean


@torch.no_grad()
def stretch(
    model: SplitNetworks, factors: Mapping[str, float], data: Dataset, preprocess: Preprocess
) -> None:
    """Changes what the codec gives the tails of some tasks.

    factors: by task, above 0 and at most STRETCH_MAX; 1 changes nothing. data: images that give each channel's mean.

    Raises DataError for an unknown task, and for a codec of one feature, which ends without a subnet of its own.
    """
    separation = model.codec.separation
    for task, factor in factors.items():
        if task not in model.names:
            raise DataError(
                f"the codec has no task {task!r}; it has {', '.join(model.names)}", setting="stretch"
            )
        if not 0 < factor <= STRETCH_MAX:
            raise DataError(f"{factor:g} is not above 0 and at most {STRETCH_MAX:g}", setting="stretch")
        which = model.names.index(task)
        if separation.scalings:
            scaling = separation.scalings[which]
            assert isinstance(scaling, Scaling)
            scaling.deviation.mul_(factor)
        elif separation.subnets:
            mean = _mean(model.fronts[which], model.heads[which].feature[0], data, preprocess)
            stretch_last(separation.subnets[which], factor, mean)
        else:
            raise DataError(
                "a codec of one feature, or without separation, has none to stretch", setting="stretch"
            )


@torch.no_grad()
def stretch_last(module: nn.Module, factor: float, mean: Tensor) -> None:
    """Changes the last layers of what makes a feature: convolutions, or a chain of them with a skip path.

    mean: (C,), of the feature.
    """
    chain = module.chain if isinstance(module, WithSkip) else module
    layers = chain if isinstance(chain, nn.Sequential) else chain.layers
    assert isinstance(layers, nn.Sequential | nn.ModuleList)
    last = affine(layers[-1])
    last.weight.mul_(factor)
    last.bias.mul_(factor).add_((1 - factor) * mean)
    if isinstance(module, WithSkip):
        module.linear.weight.mul_(factor)


def _mean(front: nn.Module, channels: int, data: Dataset, preprocess: Preprocess) -> Tensor:
    """Of each channel (C,) of a network's feature."""
    sums, count = torch.zeros(channels), 0
    for start in range(0, min(len(data), SAMPLE), 32):
        indices = np.arange(start, min(start + 32, len(data), SAMPLE))
        y = as_map(front(network_input(data.images(indices), preprocess)))
        sums += y.mean((2, 3)).sum(0)
        count += len(indices)
    return sums / count
