"""The codec of features, in the method's names; it is made of `transforms` and `entropy_model`.

Legend: B images, C feature channels, N latent channels, h x w latent grid, V elements of v, n groups (n = N),
tau codebook entries, L quality levels.

    features -> FeatureFusion -> y (B, C, ., .) -> FeatureTransform -> u (B, N, h, w)
    u x gain of the level, rounded -> z -> HyperpriorExtractor -> v (B, V)
    v -> HyperpriorGenerator -> A (B, n, tau);  A x Codebook -> maps (B, n, h, w) -> ProbabilityPredictor -> mean, scale
    z x inverse gain -> FeatureReconstruction -> y_hat -> FeatureSeparation -> one feature a task

A level is a position, a float in 0..L-1: between two trained levels the gains are interpolated. With one level there
are no gains.

The modules are float, for training. `train.codec.quantise` turns generator, codebook, predictor and prior into the
integers that are deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from cloud.networks.sizes import CodecConfig, Shape
from cloud.networks.transforms import (
    FeatureFusion,
    FeatureReconstruction,
    FeatureSeparation,
    FeatureTransform,
    Gains,
    Scaling,
    WithSkip,
    affine,
    initialise,
    interpolated,
)
from train.codec.context_model import ContextNetworks, Latents, heavy_tailed_bits, parts_of
from train.codec.entropy_model import (
    SPEED,
    Codebook,
    FactorisedPrior,
    HyperpriorExtractor,
    HyperpriorGenerator,
    ProbabilityPredictor,
    bounded_change_scale,
    bounded_log_scale,
    gaussian_bits,
    level_of,
    on_grid,
    round_straight,
)
from train.codec.linear_start import blocks_of, linear_start


class Rate(NamedTuple):
    """Bits of z and of v of each image, (B,) each, and v (B, V), rounded."""

    bits_z: Tensor
    bits_v: Tensor
    v: Tensor


class Coded(NamedTuple):
    """A pass through the codec: y_hat, the bits of z and of v of each image, (B,) each, and v (B, V), rounded."""

    y_hat: Tensor
    bits_z: Tensor
    bits_v: Tensor
    v: Tensor


# The parts of a codec that decide how long streams are, besides z itself. Its prior decides which of them it has.
ENTROPY = (
    "extractor", "analysis", "prior", "generator", "codebook", "predictor", "synthesis", "means", "context"
)  # fmt: skip


def entropy_modules(core: FeatureCodec) -> list[nn.Module]:
    """Those of ENTROPY that this codec has."""
    return [module for name in ENTROPY if isinstance(module := getattr(core, name, None), nn.Module)]


class FeatureCodec(nn.Module):
    """The codec of one feature y, for training.

    In training, the rate is computed from z and v with uniform noise in place of rounding, and everything else reads
    them rounded straight through, a mix from Minnen and Singh, 2020, "Channel-wise autoregressive entropy models". In
    evaluation everything is rounded.

    position (B,): the level of each image; None if there is only one.
    noise(x): uniform in 0..1, shaped like x. Where several processes train, each takes its share of one draw.
    rounds: what predicts z learns from z rounded, and only z's own gradient comes from noise.
    """

    noise: Callable[[Tensor], Tensor]
    rounds = False
    context: ContextNetworks | None

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        self.config, self.noise = config, torch.rand_like
        self.context = None
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
        self._make_context()

    def _make_context(self) -> None:
        if self.config.context:
            self.context = ContextNetworks(parts_of(self.config.context), self.config.context_hidden)

    def _initialise(self) -> None:
        """Starts z and v near unit variance, a few bits an element, and the predictor near mean 0 and scale 1.

        Kaiming's scale keeps deep chains from vanishing or exploding.
        """
        self._initialise_transforms()
        for last in (self.predictor.mean[-1], self.predictor.log_scale[-1]):
            affine(last).weight.data *= 0.1
        if self.config.hyper > 1:
            self.predictor.hand_through()
            self.generator.last.weight.data *= 0.1

    @torch.no_grad()
    def _initialise_transforms(self) -> None:
        """Starts linear shortcuts as an orthogonal matrix and its transpose, and the chains next to them faint.

        So the codec begins as a linear one that loses nothing, or as little as its latent has room for.
        """
        initialise(self)
        analysis, synthesis = self.transform.layers, self.reconstruction.layers
        if not isinstance(analysis, WithSkip) or not isinstance(synthesis, WithSkip):
            return
        nn.init.orthogonal_(analysis.linear.weight.flatten(1))
        synthesis.linear.weight.copy_(analysis.linear.weight)
        analysis.weaken_chain(0.1)
        synthesis.weaken_chain(0.1)

    @torch.no_grad()
    def start_linear(self, y: Tensor, g: Tensor | None = None, parts: Sequence[int] = ()) -> None:
        """Starts the linear shortcuts as the Karhunen-Loeve transform of y (B, C, H', W') and its inverse.

        Of all linear transforms it puts the most power into the fewest elements of z. z holds as many of its
        components as it has channels.
        g: gradients like y, from `answer_gradients` times the root of their parts' weights in bits, of `parts` channels
            each; power then is counted in the metric of the answers, and z in steps that suit those weights. The
            chains next to the shortcuts start at zero: what they would add at random costs answers.
        """
        analysis, synthesis = self.transform.layers, self.reconstruction.layers
        if not isinstance(analysis, WithSkip) or not isinstance(synthesis, WithSkip):
            return
        weight = analysis.linear.weight
        stride = self.config.stride
        cells = blocks_of(y, stride)
        if not cells.shape[1]:  # a feature smaller than one cell of z
            return
        given = None if g is None else blocks_of(g, stride)
        sizes = [channels * stride**2 for channels in parts]
        forward, back = linear_start(cells, given, sizes)
        rows = min(len(weight), len(forward))
        for linear, matrix in ((analysis.linear, forward), (synthesis.linear, back.T)):
            linear.weight.zero_()
            linear.weight[:rows] = matrix[:rows].reshape(rows, *weight.shape[1:])
        if g is not None:
            analysis.weaken_chain(0.0)
            synthesis.weaken_chain(0.0)

    def z_of(self, u: Tensor, position: Tensor | None = None) -> Tensor:
        """z before rounding."""
        return u if self.gains is None else u * interpolated(self.gains.log_gain, _given(position))

    def latents(self, y: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z and v as the edge makes them: rounded, as floats."""
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
        """Bits of v of each image, (B,)."""
        return self.prior.bits(v, level_of(position)).sum(1)

    def gaussians(self, v: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Mean, rounded to the deployed tables' grid, and log scale of every element of z."""
        mean, log_scale = self.predictor(self.codebook(self.generator(v), h, w))
        return on_grid(mean), log_scale

    def maps(self, v: Tensor, h: int, w: int, position: Tensor | None = None) -> Tensor:
        """The codebook's combination (B, n, h, w), which a context takes in place of a mean. position: for priors that
        have no v to say it."""
        maps: Tensor = self.codebook(self.generator(v), h, w)
        return maps

    def bits_given(self, z: Tensor, v: Tensor, reference: Tensor) -> Tensor:
        """Bits of z of each image (B,), given another latent; all rounded. Needs a context."""
        assert self.context is not None
        latents = Latents(z, self.maps(v, z.shape[2], z.shape[3]), reference)
        mean, log_scale = self.context(latents)
        bits = heavy_tailed_bits(z - reference - on_grid(mean), bounded_change_scale(log_scale))
        return bits.sum((1, 2, 3))

    def latent_bits(self, z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Bits of z of each image, (B,)."""
        return gaussian_bits(z, mean, log_scale).sum((1, 2, 3))

    def rounded_bits(self, y: Tensor, position: Tensor | None = None) -> Tensor:
        """Bits of each image (B,) with everything rounded; `forward` in training gives those under noise."""
        with torch.autocast(y.device.type, enabled=False):
            z = self.z_of(self.transform(y.float()), position).round()
            rate = self.rate(z, z, position)
            return rate.bits_z + rate.bits_v

    def rate(self, z_hat: Tensor, z_rate: Tensor, position: Tensor | None, *, noisy: bool = False) -> Rate:
        """The rate of each image.

        z_hat: v is extracted from it. z_rate: it is coded. noisy: v is coded with noise in place of rounding.
        """
        v = self.extract(z_hat)
        v_hat = round_straight(v)
        v_rate = v + self.noise(v) - 0.5 if noisy else v_hat
        h, w = z_hat.shape[2:]
        if self.context is None:
            mean, log_scale = self.gaussians(v_hat, h, w)
        else:
            # No gradient through what is known: it would make z serve its own prediction.
            mean, log_scale = self.context(Latents(z_hat.detach(), self.maps(v_hat, h, w, position)))
            mean, log_scale = on_grid(mean), bounded_log_scale(log_scale)
        bits_z = self.latent_bits(z_rate, mean, log_scale)
        if noisy and self.rounds:
            known = self.latent_bits(z_rate, mean.detach(), log_scale.detach())
            bits_z = self.latent_bits(z_hat.detach(), mean, log_scale) + known - known.detach()
        return Rate(bits_z, self.hyper_bits(v_rate, position), v_hat)

    def forward(self, y: Tensor, position: Tensor | None = None) -> Coded:
        # Mixed precision ends here: 16 bits are too few for a probability.
        with torch.autocast(y.device.type, enabled=False):
            z = self.z_of(self.transform(y.float()), position)
            z_hat = round_straight(z)
            z_rate = z + self.noise(z) - 0.5 if self.training else z_hat
            rate = self.rate(z_hat, z_rate, position, noisy=self.training)
        return Coded(self.reconstruct(z_hat, position, (y.shape[2], y.shape[3])), *rate)


def _given(position: Tensor | None) -> Tensor:
    if position is None:
        raise ValueError("a codec of several levels needs the level of each image")
    return position


class JointCodec(nn.Module):
    """The whole codec of n features: fusion, a codec of the fused feature, separation. n = 1: the plain codec."""

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
        """Starts the linear shortcuts as the identity, and the chains next to them faint."""
        for part in (self.fusion, self.separation):
            initialise(part)
        own = torch.eye(sum(feature[0] for feature in self.features))[:, :, None, None]
        rows = torch.split(own, [feature[0] for feature in self.features])
        for k, weight in enumerate(rows):
            for subnet, linear in (
                (self.fusion.subnets[k : k + 1], torch.eye(len(weight))[:, :, None, None]),
                (self.separation.subnets[k : k + 1], weight),
            ):
                for beside in subnet:
                    if isinstance(beside, WithSkip):
                        beside.linear.weight.copy_(linear)
                        beside.weaken_chain(0.1)

    def measure(self, features: Sequence[Tensor], gradients: Sequence[Tensor] | None = None) -> None:
        """Starts from a sample of the features, (B, C_k, H_k, W_k) each: their scale, and their main directions.

        gradients: like the features, which then have one grid; see `FeatureCodec.start_linear`.
        """
        for part in (self.fusion, self.separation):
            for scaling, y in zip(part.scalings, features, strict=False):
                cast(Scaling, scaling).measure(y)
        scaled = None
        if gradients is not None:
            scaled = torch.cat(list(gradients), 1)
            if self.fusion.scalings:
                scaled = scaled * torch.cat([cast(Scaling, own).deviation for own in self.fusion.scalings])
        with torch.no_grad():
            parts = [feature[0] for feature in self.features]
            self.core.start_linear(self.fusion(features), scaled, parts)

    def forward(
        self, features: Sequence[Tensor], position: Tensor | None = None
    ) -> tuple[list[Tensor], Coded]:
        """Features (B, C_k, H_k, W_k) -> their reconstructions, and the pass through the core."""
        coded = self.core(self.fusion(features), position)
        return [self.separation(coded.y_hat, k) for k in range(len(self.features))], coded
