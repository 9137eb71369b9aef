"""The priors of `train.codec.priors` with compressai's entropy models as densities, for comparison too.

Legend: N channels, L levels. Imported only when asked for: compressai needs numpy 1.26 and takes seconds to import.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from shared.errors import DataError
from train.codec.entropy_model import level_of
from train.codec.feature_codec import Rate
from train.codec.priors import FactorisedCodec, HyperAnalysis, HyperpriorCodec, HyperSynthesis
from train.networks.torchvision_shim import import_torchvision

import_torchvision()  # first, because compressai imports it without the care that it needs
try:
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional
except ImportError as error:
    raise DataError(f"a compressai prior needs compressai ({error}): pip install 'isthmus[peers]'") from None

# Learning speed of the bottlenecks' parameters, like `entropy_model.SPEED` for our densities. Measured on densities
# that drift as z's do: from 1 to 100 times, all are within 0.4 % of the entropy after 1,500 steps; ours are so at 10,
# and 6 % above it at 1.
SPEED = 10.0


class _AsGiven:
    """Codes the inputs as they are; compressai's models would round them or add noise in `forward`."""

    def quantize(self, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        return inputs


class _Times(nn.Module):
    """Stores a parameter divided by a factor, because Adam moves each by the learning rate at most."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, kept: Tensor) -> Tensor:
        return kept * self.factor

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / self.factor


class Bottleneck(_AsGiven, EntropyBottleneck):  # type: ignore[misc]
    """EntropyBottleneck of N channels that learns `speed` times as fast. Its quantiles, for its coder only, do not."""

    def __init__(self, channels: int, speed: float = SPEED) -> None:
        super().__init__(channels)
        self.quantiles.requires_grad_(False)
        for parameters in (self.matrices, self.biases, self.factors):
            for i in range(len(parameters)):
                register_parametrization(parameters, str(i), _Times(speed))


class Gaussian(_AsGiven, GaussianConditional):  # type: ignore[misc]
    """GaussianConditional without tables, for likelihoods only."""

    def __init__(self) -> None:
        super().__init__(None)


class Bottlenecks(nn.Module):
    """One Bottleneck per level, like our densities; a single one would serve the L scales that the gains give."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.of_level = nn.ModuleList(Bottleneck(channels) for _ in range(levels))

    def bits(self, x: Tensor, position: Tensor | None) -> Tensor:
        """Bits of each image (B,) for x (B, N, h, w), under the bottleneck of its level."""
        level = torch.as_tensor(level_of(position), device=x.device).expand(len(x))
        bits = x.new_zeros(len(x))
        for k, bottleneck in enumerate(self.of_level):
            own = (level == k).nonzero()[:, 0]  # may be empty: each parameter still gets a gradient
            bits = bits.index_add(0, own, bits_of(bottleneck(x[own])[1]))
        return bits


def bits_of(likelihoods: Tensor) -> Tensor:
    """Bits of each image (B,) for likelihoods (B, N, h, w)."""
    return -likelihoods.log2().sum((1, 2, 3))


class CompressaiFactorisedCodec(FactorisedCodec):
    """z under an EntropyBottleneck."""

    def _make_entropy_model(self) -> None:
        self.bottlenecks = Bottlenecks(self.config.latent_channels, self.config.levels)

    def rate(self, z_hat: Tensor, z_rate: Tensor, position: Tensor | None, *, noisy: bool = False) -> Rate:
        bits_z = self.bottlenecks.bits(z_rate, position)
        return Rate(bits_z, torch.zeros_like(bits_z), bits_z.new_zeros(len(bits_z), 0))


class CompressaiHyperpriorCodec(HyperpriorCodec):
    """The hyper-latent under an EntropyBottleneck, z under a GaussianConditional."""

    def _make_entropy_model(self) -> None:
        self.analysis, self.synthesis = HyperAnalysis(self.config), HyperSynthesis(self.config)
        self.bottlenecks = Bottlenecks(self.config.hyper_size, self.config.levels)
        self.gaussian = Gaussian()

    def hyper_bits(self, v: Tensor, position: Tensor | None) -> Tensor:
        return self.bottlenecks.bits(v, position)

    def latent_bits(self, z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        return bits_of(self.gaussian(z, log_scale.exp(), mean)[1])


PEERS = {
    "compressai-factorised": CompressaiFactorisedCodec,
    "compressai-hyperprior": CompressaiHyperpriorCodec,
}
