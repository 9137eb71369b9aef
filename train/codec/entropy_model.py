"""The codec's entropy model: z -> v -> linear coefficients x codebook -> mean and scale of every element of z; bits.

Legend: B images, N latent channels, h x w latent grid, V elements of v, n groups (n = N), tau codebook entries.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cloud.networks.sizes import CodecConfig
from cloud.networks.transforms import affine, chain
from shared.codec.exact import MEAN_STEPS

SCALE_MIN = 0.11  # below it a Gaussian's mass lies on one integer anyway
SCALE_MAX = 64.0
# Of differences from another frame, whose distribution has heavier tails and a higher peak.
CHANGE_SCALE_MIN = 0.02
CHANGE_SCALE_MAX = 16.0
# How much faster a prior's parameters learn than others: they end far from where they start, and Adam moves each by the
# learning rate at most.
SPEED = 10.0


class HyperpriorExtractor(nn.Module):
    """Hyper-analysis h_a: z (B, N, h, w) -> v before rounding (B, V); pooled over the grid, so v has no spatial axes.

    A convolution treats all cells alike, and their mean forgets where each was. With `hyper` 2 a learned map is added
    after the first convolution, so that v can also say where something is (Liu et al., 2018, "An intriguing failing of
    convolutional neural networks and the CoordConv solution", add coordinates for that). It also divides the sum by
    the grid's side only, because the mean over many cells is so small that rounding removes all of v.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            chain(config.latent_channels, config.extractor[:-1], config.extractor[-1]), nn.ReLU()
        )
        channels = (*config.extractor, config.extractor[-1])[0]
        self.place = nn.Parameter(torch.randn(channels, *config.grid)) if config.hyper > 1 else None
        self.linear = nn.Sequential(
            nn.Linear(config.extractor[-1], config.extractor_linear),
            nn.ReLU(),
            nn.Linear(config.extractor_linear, config.hyper_size),
        )

    def forward(self, z: Tensor) -> Tensor:
        first, *rest = cast(nn.Sequential, self.convolutions[0])
        x = first(z)
        if self.place is not None:
            x = x + on_cells(self.place, *z.shape[2:])
        for layer in (*rest, self.convolutions[1]):
            x = layer(x)
        pooled = x.mean((2, 3))
        v: Tensor = self.linear(pooled if self.place is None else pooled * math.sqrt(z.shape[2] * z.shape[3]))
        return v


class FactorisedPrior(nn.Module):
    """Factorised prior (entropy bottleneck) of v: each element, at each level, a mixture of three logistic densities.

    Computed in the log domain to keep a gradient in the tails, where compressai's EntropyBottleneck clamps the
    likelihood (docs/decisions/0002). speed: of learning; the parameters are stored divided by it.
    """

    def __init__(self, size: int, levels: int = 1, parts: int = 3, speed: float = 1.0) -> None:
        super().__init__()
        self.speed = speed
        self.logits = nn.Parameter(torch.zeros(levels, size, parts))
        self.means = nn.Parameter(torch.linspace(-1.0, 1.0, parts).repeat(levels, size, 1) / speed)
        self.log_scales = nn.Parameter(torch.zeros(levels, size, parts))

    def bits(self, v: Tensor, level: Tensor | int = 0) -> Tensor:
        """-log2 of the mass on [v - 1/2, v + 1/2] for v (..., V). level: an integer for all, or a tensor (...)."""
        logits, means = self.logits[level] * self.speed, self.means[level] * self.speed
        scale = (self.log_scales[level] * self.speed).clamp(-4, 6).exp()
        middle = v[..., None] - means
        upper, lower = (middle + 0.5) / scale, (middle - 0.5) / scale
        # The mass of a logistic: sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)).
        log_mass = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-1 / scale))
        mixed = torch.logsumexp(log_mass + F.log_softmax(logits, -1), -1)
        return -mixed / math.log(2)


class HyperpriorGenerator(nn.Module):
    """Hyper-synthesis h_s: v (B, V) -> n groups of tau linear coefficients, A (B, n, tau)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.groups, self.tau = config.latent_channels, config.tau
        sizes = (config.hyper_size, *config.generator)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(sizes[-1], self.groups * self.tau)

    def forward(self, v: Tensor) -> Tensor:
        for layer in self.hidden:
            v = F.relu(layer(v))
        coefficients: Tensor = self.last(v)
        return coefficients.reshape(-1, self.groups, self.tau)


class Codebook(nn.Module):
    """tau learned spatial entries; A (B, n, tau) x entries (tau, h, w) -> maps (B, n, h, w)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.entries = nn.Parameter(torch.randn(config.tau, *config.grid) / math.sqrt(config.tau))

    def forward(self, coefficients: Tensor, h: int, w: int) -> Tensor:
        return torch.einsum("bnt,thw->bnhw", coefficients, on_cells(self.entries, h, w))


def on_cells(maps: Tensor, h: int, w: int) -> Tensor:
    """Resamples learned maps (K, ., .) to a grid of h x w."""
    if maps.shape[1:] == (h, w):
        return maps
    return F.interpolate(maps[None], (h, w), mode="bilinear", align_corners=False)[0]


class _Bounded(torch.autograd.Function):
    """A clamp that passes gradients which lead back inside, so that a scale does not stick to its bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high), (gradient,) = ctx.saved_tensors, ctx.bounds, gradients
        outwards = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0), None, None


def bounded_log_scale(log_scale: Tensor) -> Tensor:
    """Clamps to SCALE_MIN..SCALE_MAX, with a gradient that leads back inside."""
    bounded: Tensor = _Bounded.apply(log_scale, math.log(SCALE_MIN), math.log(SCALE_MAX))  # type: ignore[no-untyped-call]
    return bounded


def bounded_change_scale(log_scale: Tensor) -> Tensor:
    """Clamps to CHANGE_SCALE_MIN..CHANGE_SCALE_MAX, like `bounded_log_scale`."""
    bounded: Tensor = _Bounded.apply(log_scale, math.log(CHANGE_SCALE_MIN), math.log(CHANGE_SCALE_MAX))  # type: ignore[no-untyped-call]
    return bounded


class ProbabilityPredictor(nn.Module):
    """maps (B, n, h, w) -> mean and log standard deviation of every element of z, each (B, N, h, w).

    The method's table is lost; ours has a branch of 1 x 1 convolutions for each, with separate weights.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.mean = self._branch(config)
        self.log_scale = self._branch(config)

    @staticmethod
    def _branch(config: CodecConfig) -> nn.ModuleList:
        sizes = (config.latent_channels, *config.predictor, config.latent_channels)
        return nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(sizes))

    @torch.no_grad()
    def hand_through(self) -> None:
        """Starts the mean as the maps themselves, by x = relu(x) - relu(-x); needs a hidden layer of 2 n channels."""
        first, last = (affine(layer) for layer in self.mean)
        n = first.weight.shape[1]
        both = torch.cat([torch.eye(n), -torch.eye(n)])[:, :, None, None]
        first.weight[: 2 * n] = both
        first.bias.zero_()
        last.weight.zero_()
        last.weight[:, : 2 * n] = both.transpose(0, 1)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = maps, maps
        for i, (m, s) in enumerate(zip(self.mean, self.log_scale, strict=True)):
            mean, log_scale = m(F.relu(mean) if i else mean), s(F.relu(log_scale) if i else log_scale)
        return mean, bounded_log_scale(log_scale)


def gaussian_bits(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log2 of the Gaussian's mass on [z - 1/2, z + 1/2], with a gradient that does not vanish in the tails."""
    inverse = torch.exp(-log_scale)
    # By symmetry: both bounds then lie in the lower tail, where the logs are exact.
    away = (z - mean).abs()
    upper = torch.special.log_ndtr((0.5 - away) * inverse)
    lower = torch.special.log_ndtr((-0.5 - away) * inverse)
    bits: Tensor = -(upper + torch.log1p(-torch.exp((lower - upper).clamp(max=-1e-6)))) / math.log(2)
    return bits


def round_straight(x: Tensor) -> Tensor:
    """Rounding whose gradient is the identity."""
    return x + (x.round() - x).detach()


def on_grid(mean: Tensor) -> Tensor:
    """Rounds means to the grid of the deployed tables.

    A codec trained without it lost 1.5 % there: at the smallest scale, a shift by 1/32 can double a probability.
    """
    return round_straight(mean * MEAN_STEPS) / MEAN_STEPS


def level_of(position: Tensor | None) -> Tensor | int:
    """The level whose tables of v serve a position: the nearest, of two equally near the upper one."""
    return 0 if position is None else (position + 0.5).floor().long()
