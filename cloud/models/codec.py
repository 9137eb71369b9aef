"""The codec's torch modules, under the method's names; the field's term stands beside each.

Legend: B pictures, C feature channels, N latent channels, h x w latent grid, V elements of v, n groups (n = N),
tau codebook entries, L quality levels.

    features -> FeatureFusion -> y (B, C, ., .) -> FeatureTransform -> u (B, N, h, w)
    u x gain of the level, rounded -> z -> HyperpriorExtractor -> v (B, V)
    v -> HyperpriorGenerator -> A (B, n, tau);  A x Codebook -> maps (B, n, h, w) -> ProbabilityPredictor -> mean, scale
    z x inverse gain -> FeatureReconstruction -> y_hat -> FeatureSeparation -> one feature a task

A level is a position, a float in 0..L-1: between two trained levels the gains are interpolated. With one level there
are no gains.

The modules are float, for training. `cloud.training.quantise` turns generator, codebook, predictor and prior into the
integers that are deployed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from shared.codec.exact import MEAN_STEPS
from shared.types import Frozen

SCALE_MIN = 0.11  # below it a Gaussian's mass lies on one integer anyway
SCALE_MAX = 64.0
# How much faster than other parameters those of a prior learn: they lie far from where they start, and Adam moves each
# by the learning rate at most.
SPEED = 10.0


class CodecConfig(Frozen):
    """Sizes of a codec. Channels of a module are those between its given input and output.

    strides: of the transform's layers. grid: of the codebook's entries. fusion, separation: of one subnet each, used
    where there are several features. levels: L. shortcut: a linear layer beside each chain of convolutions. scaled:
    features are brought to mean 0 and variance 1, channel by channel, before anything else, and back after all.
    hyper: 1, or 2, whose extractor knows places and adds up over the grid instead of taking the mean, whose predictor
    begins with the codebook's own combination for a mean, and whose prior of v learns faster (docs/LOG.md).
    """

    transform: tuple[int, ...] = (128, 256, 512, 1024, 1024)
    strides: tuple[int, ...] = (1, 1, 1, 1, 1, 1)
    latent_channels: int = Field(128, ge=1)
    extractor: tuple[int, ...] = (64, 512)
    extractor_linear: int = 512
    hyper_size: int = Field(128, ge=1)
    generator: tuple[int, ...] = (512, 512, 512)
    tau: int = Field(512, ge=1)
    grid: tuple[int, int] = (4, 4)
    predictor: tuple[int, ...] = (128,)
    reconstruction: tuple[int, ...] = Field((1024, 1024, 512, 256, 128), min_length=2)
    fusion: tuple[int, ...] = (512, 256, 128)
    separation: tuple[int, ...] = (512, 256, 128)
    levels: int = Field(1, ge=1, le=101)
    shortcut: bool = False
    scaled: bool = False
    hyper: Literal[1, 2] = 1

    @model_validator(mode="after")
    def _fits(self) -> CodecConfig:
        if len(self.strides) != len(self.transform) + 1:
            raise ValueError(f"{len(self.transform) + 1} transform layers need as many strides")
        if any(s not in (1, 2) for s in self.strides):
            raise ValueError("a transform layer's stride is 1 or 2")
        if self.hyper > 1 and (len(self.predictor) != 1 or self.predictor[0] < 2 * self.latent_channels):
            raise ValueError("with hyper 2 the predictor has one hidden layer, twice as wide as the latent")
        return self

    @property
    def stride(self) -> int:
        """Feature cells that a latent cell is wide and high."""
        return math.prod(self.strides)

    def with_stride(self, stride: int) -> CodecConfig:
        """These sizes with another stride, of the transform's second layer first. Raises ValueError."""
        halvings = stride.bit_length() - 1
        if stride < 1 or stride & (stride - 1) or halvings > len(self.strides):
            raise ValueError(f"a stride is a power of two up to {2 ** len(self.strides)}, not {stride}")
        last = len(self.strides)
        halved = {i % last for i in range(1, halvings + 1)}
        return self.model_copy(update={"strides": tuple(2 if i in halved else 1 for i in range(last))})

    def widened(self, factor: float) -> CodecConfig:
        """These sizes with all channels of z and of the modules around it multiplied."""

        def wide(*widths: int) -> tuple[int, ...]:
            return tuple(max(1, round(width * factor)) for width in widths)

        return self.model_copy(
            update={
                "transform": wide(*self.transform),
                "latent_channels": wide(self.latent_channels)[0],
                "reconstruction": wide(*self.reconstruction),
                "fusion": wide(*self.fusion),
                "separation": wide(*self.separation),
            }
        )

    def with_hyper(self, hyper: Literal[1, 2]) -> CodecConfig:
        """These sizes with that hyperprior."""
        predictor = (2 * self.latent_channels,) if hyper > 1 else self.predictor
        return self.model_copy(update={"hyper": hyper, "predictor": predictor})

    def for_feature(self, height: int, width: int) -> CodecConfig:
        """These sizes, with the codebook's grid set to that of z for a feature of height x width cells."""
        return self.model_copy(update={"grid": (-(-height // self.stride), -(-width // self.stride))})


# The method's worked example (feature 8 x 4 x 4: a 256 x 256 picture at stride 64), and what the shipped bundle uses.
PRESETS = {
    "reference": CodecConfig(),
    "small": CodecConfig(
        transform=(64, 96, 96),
        strides=(1, 2, 1, 1),
        latent_channels=64,
        extractor=(64, 96),
        extractor_linear=96,
        hyper_size=48,
        generator=(96, 128),
        tau=64,
        grid=(8, 8),
        predictor=(64,),
        reconstruction=(96, 96, 64, 48),
        fusion=(48,),
        separation=(64, 48),
        shortcut=True,
    ),
}


def chain(
    inputs: int, widths: tuple[int, ...], outputs: int, strides: tuple[int, ...] | None = None
) -> nn.Sequential:
    """3 x 3 convolutions with ReLU between them, none after the last."""
    layers: list[nn.Module] = []
    sizes = (inputs, *widths, outputs)
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Conv2d(a, b, 3, strides[i] if strides else 1, 1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


Shape = tuple[int, ...]  # of one picture's feature: (C, H', W'), or (C,) for a vector


def spatial(feature: Shape) -> tuple[int, int]:
    """Rows and columns of a feature; one that is a vector (a network's output) has one cell."""
    return (feature[1], feature[2]) if len(feature) == 3 else (1, 1)


def common_grid(features: Sequence[Shape]) -> tuple[int, int]:
    """The grid on which features meet: the finest of theirs, so that none loses a cell before it is coded."""
    grids = [spatial(feature) for feature in features]
    return max(h for h, _ in grids), max(w for _, w in grids)


class Beside(nn.Module):
    """A chain of convolutions and a linear layer beside it, which carries what the chain has not learnt yet.

    Its rectifiers pass half of what comes: without the linear way a joint codec's reconstruction of its features stayed
    coarse at any rate. stride: of the chain; up: the chain makes its output finer by it, not coarser.
    """

    def __init__(
        self, chain: nn.Module, inputs: int, outputs: int, stride: int = 1, *, up: bool = False
    ) -> None:
        super().__init__()
        self.chain, self.stride = chain, stride
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        self.linear = kind(inputs, outputs, stride, stride, bias=False)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """size: rows and columns of what comes out, where it is made finer."""
        if size is not None:
            out: Tensor = self.chain(x, size) + self.linear(x)[..., : size[0], : size[1]]
            return out
        missing = [-side % self.stride for side in x.shape[2:]]  # a strided chain rounds odd sizes up
        whole = F.pad(x, (0, missing[1], 0, missing[0])) if any(missing) else x
        added: Tensor = self.chain(x) + self.linear(whole)
        return added


def _beside(chain: nn.Module, inputs: int, outputs: int, config: CodecConfig, stride: int = 1) -> nn.Module:
    return Beside(chain, inputs, outputs, stride) if config.shortcut else chain


class Scaling(nn.Module):
    """A feature's channels to mean 0 and variance 1, and back.

    A network's inner features may have any scale, and each channel its own (docs/LOG.md says what came of leaving it).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def measure(self, y: Tensor) -> None:
        """Of features y (B, C, H, W). A channel that hardly moves is taken for one of a twentieth of the mean power."""
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
    """Feature fusion: one subnet a feature, all brought to the common grid, channels concatenated.

    Features (B, C_k, H_k, W_k) -> y (B, sum C_k, H', W'). A single feature passes as it is.
    """

    def __init__(self, features: Sequence[Shape], config: CodecConfig) -> None:
        super().__init__()
        self.grid = common_grid(features)
        self.scalings = _scalings(features, config)
        several = len(features) > 1
        self.subnets = nn.ModuleList(
            _beside(chain(f[0], config.fusion, f[0]), f[0], f[0], config) for f in features if several
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        if self.scalings:
            features = [scaling(y) for scaling, y in zip(self.scalings, features, strict=True)]
        if not self.subnets:
            return features[0]
        parts = [subnet(y) for subnet, y in zip(self.subnets, features, strict=True)]
        return torch.cat([p if p.shape[2:] == self.grid else F.interpolate(p, self.grid) for p in parts], 1)


class FeatureSeparation(nn.Module):
    """One subnet a task: y_hat (B, sum C_k, H', W') -> (B, C_k, H_k, W_k). A single feature passes as it is."""

    def __init__(self, features: Sequence[Shape], config: CodecConfig) -> None:
        super().__init__()
        self.grids = [spatial(feature) for feature in features]
        self.scalings = _scalings(features, config)
        channels = sum(feature[0] for feature in features)
        several = len(features) > 1
        self.subnets = nn.ModuleList(
            _beside(chain(channels, config.separation, f[0]), channels, f[0], config)
            for f in features
            if several
        )

    def forward(self, y_hat: Tensor, which: int) -> Tensor:
        """The feature of task number `which`."""
        y = y_hat
        if self.subnets:
            y = self.subnets[which](y_hat)
            y = y if y.shape[2:] == self.grids[which] else F.adaptive_avg_pool2d(y, self.grids[which])
        return self.scalings[which].back(y) if self.scalings else y


class Gains(nn.Module):
    """Gain units: one pair of vectors a level, by which z is scaled before rounding and after decoding.

    Between two levels they are interpolated geometrically (Cui et al., 2021, "Asymmetric gained deep image compression
    with continuous rate adaptation"). Kept as logarithms, (L, N) each.
    """

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(levels, channels))
        self.log_inverse = nn.Parameter(torch.zeros(levels, channels))

    @torch.no_grad()
    def start(self, scales: Sequence[float]) -> None:
        """Start values. scales: of lambda, one a level; at high rates the best step goes with its square root."""
        steps = torch.tensor(scales, dtype=torch.float32).log()[:, None] / 2
        self.log_gain.copy_(steps.expand_as(self.log_gain))
        self.log_inverse.copy_(-steps.expand_as(self.log_inverse))

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """position (B,) -> gain and inverse gain, (B, N, 1, 1) each."""
        return interpolated(self.log_gain, position), interpolated(self.log_inverse, position)


def interpolated(logs: Tensor, position: Tensor) -> Tensor:
    """Rows of logs (L, N) at position (B,) -> their exponentials (B, N, 1, 1)."""
    low = position.floor().clamp(0, len(logs) - 1)
    share = (position - low)[:, None]
    rows = low.long()
    above = (rows + 1).clamp(max=len(logs) - 1)
    return torch.exp(logs[rows] * (1 - share) + logs[above] * share)[:, :, None, None]


class FeatureTransform(nn.Module):
    """Analysis transform g_a: y (B, C, H', W') -> u, which is z before gain and rounding, (B, N, h, w).

    The method's table is lost; this mirrors FeatureReconstruction.
    """

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        layers = chain(channels, config.transform, config.latent_channels, config.strides)
        self.layers = _beside(layers, channels, config.latent_channels, config, config.stride)

    def forward(self, y: Tensor) -> Tensor:
        u: Tensor = self.layers(y)
        return u


class HyperpriorExtractor(nn.Module):
    """Hyper-analysis h_a: z (B, N, h, w) -> v before rounding (B, V); pooled over the grid, so v has no axes.

    A convolution gives every cell the same weights, and a mean over them forgets where each was. Of `hyper` 2 a learned
    map is added behind the first convolution, so that v can say of a thing also where it is (Liu et al., 2018, "An
    intriguing failing of convolutional neural networks and the CoordConv solution", give coordinates for that). And
    it divides the sum by the grid's side: a mean over many cells is so small that rounding takes v whole.
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
        first, *rest = self.convolutions[0]
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

    Written here, in the log domain, because the gradient has to live on in the tails, where compressai's
    EntropyBottleneck clamps the likelihood (docs/decisions/0002). speed: of learning; the parameters are kept divided
    by it, because Adam moves each by the learning rate at most.
    """

    def __init__(self, size: int, levels: int = 1, parts: int = 3, speed: float = 1.0) -> None:
        super().__init__()
        self.speed = speed
        self.logits = nn.Parameter(torch.zeros(levels, size, parts))
        self.means = nn.Parameter(torch.linspace(-1.0, 1.0, parts).repeat(levels, size, 1) / speed)
        self.log_scales = nn.Parameter(torch.zeros(levels, size, parts))

    def bits(self, v: Tensor, level: Tensor | int = 0) -> Tensor:
        """-log2 of the mass on [v - 1/2, v + 1/2], of v (..., V). level, whole numbers: of all, or (...)."""
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
        return self.last(v).reshape(-1, self.groups, self.tau)


class Codebook(nn.Module):
    """tau learned spatial entries; A (B, n, tau) x entries (tau, h, w) -> maps (B, n, h, w)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.entries = nn.Parameter(torch.randn(config.tau, *config.grid) / math.sqrt(config.tau))

    def forward(self, coefficients: Tensor, h: int, w: int) -> Tensor:
        return torch.einsum("bnt,thw->bnhw", coefficients, on_cells(self.entries, h, w))


def on_cells(maps: Tensor, h: int, w: int) -> Tensor:
    """Learned maps (K, ., .) on a grid of h x w."""
    if maps.shape[1:] == (h, w):
        return maps
    return F.interpolate(maps[None], (h, w), mode="bilinear", align_corners=False)[0]


class _Bounded(torch.autograd.Function):
    """clamp whose gradient still passes where it leads back inside: a scale at its bound is not stuck there."""

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
    """Within SCALE_MIN..SCALE_MAX, with a gradient that leads back there."""
    bounded: Tensor = _Bounded.apply(log_scale, math.log(SCALE_MIN), math.log(SCALE_MAX))
    return bounded


class ProbabilityPredictor(nn.Module):
    """maps (B, n, h, w) -> mean and log standard deviation of every element of z, each (B, N, h, w).

    The method's table is lost; ours is a branch of 1 x 1 convolutions for each, with weights of its own.
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
        """Make the mean the maps themselves, by x = relu(x) - relu(-x); for a hidden layer of at least 2 n channels."""
        first, last = self.mean
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


class FeatureReconstruction(nn.Module):
    """Synthesis transform g_s: z (B, N, h, w) -> y_hat (B, C, H', W'), where (H', W') is the feature's grid."""

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        self.stride = config.stride
        layers = _Finer(channels, config)
        self.layers = (
            Beside(layers, config.latent_channels, channels, config.stride, up=True)
            if config.shortcut
            else layers
        )

    def forward(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """size: rows and columns of the feature, on the grid that z was made from or, of a later task, on any other."""
        own = all(-(-side // self.stride) == cells for side, cells in zip(size, z.shape[2:], strict=True))
        grid = size if own else (z.shape[2] * self.stride, z.shape[3] * self.stride)
        y_hat: Tensor = self.layers(z, grid)
        if grid == size:
            return y_hat
        if size[0] <= grid[0] and size[1] <= grid[1]:
            return F.adaptive_avg_pool2d(y_hat, size)
        return F.interpolate(y_hat, size, mode="bilinear", align_corners=False)


class _Finer(nn.Module):
    """3 x 3 convolutions with ReLU between them, of which only the last two run on the feature's grid, where they cost
    the most. Before them each layer makes the grid twice as fine, from the last backwards, as often as it takes; what
    is left falls to the last of them. A strided transform rounds odd sizes up; what is too much is cut."""

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        sizes = (config.latent_channels, *config.reconstruction, channels)
        coarse = len(sizes) - 3  # layers that may make it finer
        halvings = config.stride.bit_length() - 1
        spread = [0] * max(0, coarse - halvings) + [1] * min(coarse, halvings)
        spread[-1] += max(0, halvings - coarse)
        self.finer = [2**n for n in spread]  # by layer
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b * (self.finer[i] ** 2 if i < coarse else 1), 3, 1, 1)
            for i, (a, b) in enumerate(pairwise(sizes))
        )

    def forward(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        left = math.prod(self.finer)
        for i, layer in enumerate(self.layers):
            z = layer(F.relu(z) if i else z)
            if i < len(self.finer) and self.finer[i] > 1:
                left //= self.finer[i]
                # Each of the finer cells has channels of its own: repeating one cell's could not tell them apart.
                z = F.pixel_shuffle(z, self.finer[i])[..., : -(-size[0] // left), : -(-size[1] // left)]
        return z


def gaussian_bits(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log2 of the Gaussian's mass on [z - 1/2, z + 1/2], with a gradient that lives on in the tails."""
    inverse = torch.exp(-log_scale)
    away = (
        z - mean
    ).abs()  # by symmetry, so that both bounds lie in the lower tail, where the logs are exact
    upper = torch.special.log_ndtr((0.5 - away) * inverse)
    lower = torch.special.log_ndtr((-0.5 - away) * inverse)
    return -(upper + torch.log1p(-torch.exp((lower - upper).clamp(max=-1e-6)))) / math.log(2)


def round_straight(x: Tensor) -> Tensor:
    """Rounding whose gradient is the identity."""
    return x + (x.round() - x).detach()


def on_grid(mean: Tensor) -> Tensor:
    """Means as the deployed tables have them. A codec that learnt without it lost 1.5 % there, because at the smallest
    scale a 32nd can double a probability."""
    return round_straight(mean * MEAN_STEPS) / MEAN_STEPS


class Coded(NamedTuple):
    """What one pass through the codec gives: y_hat, and the bits of z and of v a picture, (B,) each."""

    y_hat: Tensor
    bits_z: Tensor
    bits_v: Tensor


class FeatureCodec(nn.Module):
    """The codec of one feature y, as it is trained.

    In training the rate is that of z and v with uniform noise in place of rounding, and everything that reads z or v
    reads them rounded straight through (Minnen and Singh, 2020, "Channel-wise autoregressive entropy models", mix the
    two so). In evaluation all is rounded. position (B,): the level of each picture; None where there is only one.
    noise(x): uniform in 0..1, of the shape of x; where several processes train, each has its share of one draw.
    """

    noise: Callable[[Tensor], Tensor]

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        self.config, self.noise = config, torch.rand_like
        self.transform = FeatureTransform(channels, config)
        self.gains = Gains(config.levels, config.latent_channels) if config.levels > 1 else None
        self._make_entropy_model()
        self.reconstruction = FeatureReconstruction(channels, config)
        self._initialise()

    def _make_entropy_model(self) -> None:
        config = self.config
        self.extractor = HyperpriorExtractor(config)
        self.prior = FactorisedPrior(
            config.hyper_size, config.levels, speed=SPEED if config.hyper > 1 else 1.0
        )
        self.generator = HyperpriorGenerator(config)
        self.codebook = Codebook(config)
        self.predictor = ProbabilityPredictor(config)

    def _initialise(self) -> None:
        """Kaiming's scale, so that deep chains neither vanish nor explode: z and v start near unit variance, a few
        bits an element. The predictor starts near mean 0 and scale 1."""
        self._initialise_transforms()
        for last in (self.predictor.mean[-1], self.predictor.log_scale[-1]):
            last.weight.data *= 0.1
        if self.config.hyper > 1:
            self.predictor.hand_through()
            self.generator.last.weight.data *= 0.1

    @torch.no_grad()
    def _initialise_transforms(self) -> None:
        """Kaiming's scale; of linear ways one an orthogonal matrix and the other its transpose, the chains beside them
        faint: so the codec begins as a linear one that loses nothing, or as little as its latent has room for."""
        initialise(self)
        if not self.config.shortcut:
            return
        analysis, synthesis = self.transform.layers, self.reconstruction.layers
        nn.init.orthogonal_(analysis.linear.weight.flatten(1))
        synthesis.linear.weight.copy_(analysis.linear.weight)
        for last in (analysis.chain[-1], synthesis.chain.layers[-1]):
            last.weight.mul_(0.1)

    @torch.no_grad()
    def start_from(self, y: Tensor) -> None:
        """Make the linear ways the Karhunen-Loeve transform of y (B, C, H', W') and its transpose: of linear ones it
        has the most of the power in the fewest elements of z. z has as many of its components as it has channels."""
        if not self.config.shortcut:
            return
        stride = self.config.stride
        whole = y[:, :, : y.shape[2] // stride * stride, : y.shape[3] // stride * stride]
        cells = F.pixel_unshuffle(whole, stride).transpose(0, 1).flatten(1)
        if not cells.shape[1]:
            return
        components = torch.linalg.eigh(cells @ cells.T / cells.shape[1]).eigenvectors.flip(1).T
        weight = self.transform.layers.linear.weight
        rows = min(len(weight), len(components))
        weight.zero_()
        weight[:rows] = components[:rows].reshape(rows, *weight.shape[1:])
        self.reconstruction.layers.linear.weight.copy_(weight)

    def z_of(self, u: Tensor, position: Tensor | None = None) -> Tensor:
        """z before rounding."""
        return u if self.gains is None else u * interpolated(self.gains.log_gain, _given(position))

    def latents(self, y: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z and v as the edge makes them: rounded, still floats."""
        z = self.z_of(self.transform(y), position).round()
        return z, self.extract(z).round()

    def reconstruct(self, z: Tensor, position: Tensor | None, size: tuple[int, int]) -> Tensor:
        """z (B, N, h, w), rounded -> y_hat (B, C, *size)."""
        if self.gains is not None:
            z = z * interpolated(self.gains.log_inverse, _given(position))
        y_hat: Tensor = self.reconstruction(z, size)
        return y_hat

    def extract(self, z: Tensor) -> Tensor:
        """v before rounding."""
        v: Tensor = self.extractor(z)
        return v

    def hyper_bits(self, v: Tensor, position: Tensor | None) -> Tensor:
        """Bits of v a picture, (B,)."""
        return self.prior.bits(v, level_of(position)).sum(1)

    def gaussians(self, v: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Mean, on the grid of the deployed tables, and log scale of every element of z."""
        mean, log_scale = self.predictor(self.codebook(self.generator(v), h, w))
        return on_grid(mean), log_scale

    def latent_bits(self, z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Bits of z a picture, (B,)."""
        return gaussian_bits(z, mean, log_scale).sum((1, 2, 3))

    def rounded_bits(self, y: Tensor, position: Tensor | None = None) -> Tensor:
        """Bits a picture (B,) as they will be written, where `forward` in training gives those under noise."""
        with torch.autocast(y.device.type, enabled=False):
            z = self.z_of(self.transform(y.float()), position).round()
            return sum(self.rate(z, z, position))

    def rate(
        self, z_hat: Tensor, z_rate: Tensor, position: Tensor | None, *, noisy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Bits of z and of v a picture, (B,) each. z_hat: what v is extracted from; z_rate: what is coded. noisy: v is
        coded with noise in place of rounding."""
        v = self.extract(z_hat)
        v_hat = round_straight(v)
        v_rate = v + self.noise(v) - 0.5 if noisy else v_hat
        mean, log_scale = self.gaussians(v_hat, z_hat.shape[2], z_hat.shape[3])
        return self.latent_bits(z_rate, mean, log_scale), self.hyper_bits(v_rate, position)

    def forward(self, y: Tensor, position: Tensor | None = None) -> Coded:
        # Mixed precision ends here: a probability in 16 bits is no probability.
        with torch.autocast(y.device.type, enabled=False):
            z = self.z_of(self.transform(y.float()), position)
            z_hat = round_straight(z)
            z_rate = z + self.noise(z) - 0.5 if self.training else z_hat
            bits_z, bits_v = self.rate(z_hat, z_rate, position, noisy=self.training)
        return Coded(self.reconstruct(z_hat, position, (y.shape[2], y.shape[3])), bits_z, bits_v)


def level_of(position: Tensor | None) -> Tensor | int:
    """The level whose tables of v serve a position: the nearest, the upper one of two equally near."""
    return 0 if position is None else (position + 0.5).floor().long()


def _given(position: Tensor | None) -> Tensor:
    if position is None:
        raise ValueError("a codec of several levels needs the level of each picture")
    return position


def initialise(module: nn.Module) -> None:
    """Kaiming's scale for convolutions and linear layers, biases 0; a transposed convolution keeps torch's own."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class JointCodec(nn.Module):
    """The whole codec of n features: fusion, the codec of what was fused, separation. n = 1: the plain codec."""

    def __init__(
        self, features: Sequence[Shape], config: CodecConfig, core: type[FeatureCodec] = FeatureCodec
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        self.fusion = FeatureFusion(features, config)
        self.grid = self.fusion.grid
        self.core = core(sum(f[0] for f in features), config.for_feature(*self.grid))
        self.separation = FeatureSeparation(features, config)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Kaiming's scale; linear ways hand each feature through as it is, the chains beside them faint."""
        for part in (self.fusion, self.separation):
            initialise(part)
        own = torch.eye(sum(feature[0] for feature in self.features))[:, :, None, None]
        rows = own.split([feature[0] for feature in self.features])
        for k, weight in enumerate(rows):
            for subnet, linear in (
                (self.fusion.subnets[k : k + 1], torch.eye(len(weight))[:, :, None, None]),
                (self.separation.subnets[k : k + 1], weight),
            ):
                for beside in subnet:
                    if isinstance(beside, Beside):
                        beside.linear.weight.copy_(linear)
                        beside.chain[-1].weight.mul_(0.1)

    def measure(self, features: Sequence[Tensor]) -> None:
        """Take what training starts from of a sample of the features, (B, C_k, H_k, W_k) each: their scaling, and the
        directions in which they vary most."""
        for part in (self.fusion, self.separation):
            for scaling, y in zip(part.scalings, features, strict=False):
                scaling.measure(y)
        with torch.no_grad():
            self.core.start_from(self.fusion(features))

    def forward(
        self, features: Sequence[Tensor], position: Tensor | None = None
    ) -> tuple[list[Tensor], Coded]:
        """Features (B, C_k, H_k, W_k) -> theirs reconstructed, and what the core gave."""
        coded = self.core(self.fusion(features), position)
        return [self.separation(coded.y_hat, k) for k in range(len(self.features))], coded
