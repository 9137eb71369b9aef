"""The codec's transforms: from network features to the unrounded latent, and from z back to one feature per task.

Legend: B images, C feature channels, N latent channels, h x w latent grid, L quality levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cloud.networks.sizes import CodecConfig, Shape, common_grid, spatial


def chain(
    inputs: int, widths: tuple[int, ...], outputs: int, strides: tuple[int, ...] | None = None
) -> nn.Sequential:
    """3 x 3 convolutions with ReLU between them, none after the last."""
    layers: list[nn.Module] = []
    sizes = (inputs, *widths, outputs)
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Conv2d(a, b, 3, strides[i] if strides else 1, 1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Affine(NamedTuple):
    """The parameters of a linear layer or a convolution."""

    weight: Tensor
    bias: Tensor


def affine(layer: nn.Module) -> Affine:
    """The parameters of a layer, which must be linear or a convolution, with a bias."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.bias is not None
    return Affine(layer.weight, layer.bias)


class WithSkip(nn.Module):
    """A chain of convolutions plus a linear skip path around it.

    The chain's ReLUs block half of their input: without the skip path a joint codec reconstructed its features coarsely
    at any rate. stride: total stride of the chain. up: the chain upsamples by the stride instead of downsampling.
    cells: width and height of what the skip path sees for one cell.
    """

    def __init__(
        self,
        chain: nn.Sequential | _Upsampling,
        inputs: int,
        outputs: int,
        stride: int = 1,
        *,
        up: bool = False,
        cells: int = 1,
    ) -> None:
        super().__init__()
        self.chain, self.stride = chain, stride
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        self.linear = kind(inputs, outputs, cells * stride, stride, cells // 2 * stride, bias=False)

    @property
    def last(self) -> nn.Module:
        """The chain's last layer."""
        return (self.chain.layers if isinstance(self.chain, _Upsampling) else self.chain)[-1]

    @torch.no_grad()
    def weaken_chain(self, factor: float) -> None:
        """Scales the weights of the chain's last layer; the skip path keeps its own."""
        affine(self.last).weight.mul_(factor)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """size: rows and columns of the output; given when upsampling."""
        if size is not None:
            out: Tensor = self.chain(x, size) + self.linear(x)[..., : size[0], : size[1]]
            return out
        missing = [-side % self.stride for side in x.shape[2:]]  # a strided chain rounds odd sizes up
        whole = F.pad(x, (0, missing[1], 0, missing[0])) if any(missing) else x
        added: Tensor = self.chain(x) + self.linear(whole)
        return added


def _with_skip(
    chain: nn.Sequential, inputs: int, outputs: int, config: CodecConfig, stride: int = 1
) -> nn.Module:
    return WithSkip(chain, inputs, outputs, stride) if config.shortcut else chain


class Scaling(nn.Module):
    """Normalises each channel of a feature to mean 0 and variance 1, and undoes it.

    Inner features of networks have any scale, and each channel its own; what happens without this is in docs/LOG.md.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def measure(self, y: Tensor) -> None:
        """Measures features y (B, C, H, W). Nearly constant channels count as 1/20 of the mean deviation."""
        deviation, mean = torch.std_mean(y.float(), (0, 2, 3), keepdim=True, correction=0)
        self.mean.copy_(mean[0])
        self.deviation.copy_(deviation[0].clamp(min=0.05 * float(deviation.square().mean().sqrt()) or 1.0))

    def forward(self, y: Tensor) -> Tensor:
        scaled: Tensor = (y - self.mean) / self.deviation
        return scaled

    def back(self, y: Tensor) -> Tensor:
        own: Tensor = y * self.deviation + self.mean
        return own


def _scalings(features: Sequence[Shape], config: CodecConfig) -> nn.ModuleList:
    return nn.ModuleList(Scaling(feature[0]) for feature in features if config.scaled)


class FeatureFusion(nn.Module):
    """Feature fusion: one subnet per feature, resized to the common grid, channels concatenated.

    Features (B, C_k, H_k, W_k) -> y (B, sum C_k, H', W'). A single feature passes unchanged.
    """

    def __init__(self, features: Sequence[Shape], config: CodecConfig) -> None:
        super().__init__()
        self.grid = common_grid(features)
        self.scalings = _scalings(features, config)
        several = len(features) > 1
        self.subnets = nn.ModuleList(
            _with_skip(chain(f[0], config.fusion, f[0]), f[0], f[0], config)
            for f in features
            if several and config.fusion
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        if self.scalings:
            features = [scaling(y) for scaling, y in zip(self.scalings, features, strict=True)]
        if len(features) == 1:
            return features[0]
        parts = features
        if self.subnets:
            parts = [subnet(y) for subnet, y in zip(self.subnets, features, strict=True)]
        return torch.cat([p if p.shape[2:] == self.grid else F.interpolate(p, self.grid) for p in parts], 1)


class FeatureSeparation(nn.Module):
    """One subnet per task: y_hat (B, sum C_k, H', W') -> (B, C_k, H_k, W_k). A single feature passes unchanged."""

    def __init__(self, features: Sequence[Shape], config: CodecConfig) -> None:
        super().__init__()
        self.grids = [spatial(feature) for feature in features]
        self.scalings = _scalings(features, config)
        channels = sum(feature[0] for feature in features)
        several = len(features) > 1
        self.subnets = nn.ModuleList(
            _with_skip(chain(channels, config.separation, f[0]), channels, f[0], config)
            for f in features
            if several and config.separation
        )
        ends = list(accumulate(feature[0] for feature in features))
        self.own = [slice(end - feature[0], end) for end, feature in zip(ends, features, strict=True)]

    def forward(self, y_hat: Tensor, which: int) -> Tensor:
        """Returns the feature of task number `which`."""
        y = y_hat
        if len(self.own) > 1:
            y = self.subnets[which](y_hat) if self.subnets else y_hat[:, self.own[which]]
            y = y if y.shape[2:] == self.grids[which] else F.adaptive_avg_pool2d(y, self.grids[which])
        scaling = self.scalings[which] if self.scalings else None
        return scaling.back(y) if isinstance(scaling, Scaling) else y


class Gains(nn.Module):
    """Gain units: one pair of vectors per level, which scale z before rounding and after decoding.

    Between two levels they are interpolated geometrically (Cui et al., 2021, "Asymmetric gained deep image compression
    with continuous rate adaptation"). Stored as logarithms, (L, N) each.
    """

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(levels, channels))
        self.log_inverse = nn.Parameter(torch.zeros(levels, channels))

    @torch.no_grad()
    def start(self, scales: Sequence[float]) -> None:
        """Sets the start values. scales: lambda multipliers, one per level; gains go with their root."""
        steps = torch.tensor(scales, dtype=torch.float32).log()[:, None] / 2
        self.log_gain.copy_(steps.expand_as(self.log_gain))
        self.log_inverse.copy_(-steps.expand_as(self.log_inverse))

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """position (B,) -> gain and inverse gain, (B, N, 1, 1) each."""
        return interpolated(self.log_gain, position), interpolated(self.log_inverse, position)


def interpolated(logs: Tensor, position: Tensor) -> Tensor:
    """Interpolates rows of logs (L, N) at positions (B,); returns their exponentials (B, N, 1, 1)."""
    low = position.floor().clamp(0, len(logs) - 1)
    share = (position - low)[:, None]
    rows = low.long()
    above = (rows + 1).clamp(max=len(logs) - 1)
    return torch.exp(logs[rows] * (1 - share) + logs[above] * share)[:, :, None, None]


class FeatureTransform(nn.Module):
    """Analysis transform g_a: y (B, C, H', W') -> u (B, N, h, w), the latent before gain and rounding.

    The method's table is lost; this mirrors FeatureReconstruction.
    """

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        layers = chain(channels, config.transform, config.latent_channels, config.strides)
        self.layers = _with_skip(layers, channels, config.latent_channels, config, config.stride)

    def forward(self, y: Tensor) -> Tensor:
        u: Tensor = self.layers(y)
        return u


class FeatureReconstruction(nn.Module):
    """Synthesis transform g_s: z (B, N, h, w) -> y_hat (B, C, H', W') on the feature's grid."""

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        self.stride, self.overhang = config.stride, config.overhang
        layers, inputs, cells = _Upsampling(channels, config), config.latent_channels, config.shortcut_cells
        self.layers = (
            WithSkip(layers, inputs, channels, config.stride, up=True, cells=cells)
            if config.shortcut
            else layers
        )

    def continued(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """z with the row and column of zeros that an overhang asks for."""
        more = [-(-side // self.stride) - cells for side, cells in zip(size, z.shape[2:], strict=True)]
        return F.pad(z, (0, more[1], 0, more[0])) if self.overhang and set(more) <= {0, 1} else z

    def forward(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """size: rows and columns of the feature. For an added task they may differ from the grid that z came from."""
        z = self.continued(z, size)
        own = all(-(-side // self.stride) == cells for side, cells in zip(size, z.shape[2:], strict=True))
        grid = size if own else (z.shape[2] * self.stride, z.shape[3] * self.stride)
        y_hat: Tensor = self.layers(z, grid)
        if grid == size:
            return y_hat
        if size[0] <= grid[0] and size[1] <= grid[1]:
            return F.adaptive_avg_pool2d(y_hat, size)
        return F.interpolate(y_hat, size, mode="bilinear", align_corners=False)


class _Upsampling(nn.Module):
    """3 x 3 convolutions with ReLU between them that upsample z to the feature's grid.

    Only the last two run on the full grid, where layers cost the most. The layers before them double the resolution,
    starting from the last and going backwards; if there are too few, the last one upsamples by the rest. A strided
    transform rounds odd sizes up, so the surplus is cut off.
    """

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        sizes = (config.latent_channels, *config.reconstruction, channels)
        coarse = len(sizes) - 3  # layers that may upsample
        halvings = config.stride.bit_length() - 1
        spread = [0] * max(0, coarse - halvings) + [1] * min(coarse, halvings)
        spread[-1] += max(0, halvings - coarse)
        self.factors = [2**n for n in spread]  # upsampling per layer
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b * (self.factors[i] ** 2 if i < coarse else 1), 3, 1, 1)
            for i, (a, b) in enumerate(pairwise(sizes))
        )

    def forward(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        left = math.prod(self.factors)
        for i, layer in enumerate(self.layers):
            z = layer(F.relu(z) if i else z)
            if i < len(self.factors) and self.factors[i] > 1:
                left //= self.factors[i]
                # Each new cell gets channels of its own; repeating one cell's channels would make them all equal.
                z = F.pixel_shuffle(z, self.factors[i])[..., : -(-size[0] // left), : -(-size[1] // left)]
        return z


def base_network(config: CodecConfig, outputs: int) -> nn.Sequential:
    """v (B, V) -> a task's outputs (B, K)."""
    sizes = (config.hyper_size, *config.base)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def initialise(module: nn.Module) -> None:
    """Initialises convolutions and linear layers by Kaiming, with zero biases; transposed ones keep torch's values."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
