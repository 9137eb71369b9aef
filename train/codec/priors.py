"""Codecs to compare the codebook hyperprior with: the same transforms and gains, another model of z.

Legend: N latent channels, h x w latent grid, W hyper-latent channels. None of them can be deployed; a bundle takes
the codebook only.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cloud.networks.sizes import CodecConfig
from cloud.networks.transforms import affine, chain
from train.codec.entropy_model import SPEED, FactorisedPrior, bounded_log_scale, level_of, on_grid
from train.codec.feature_codec import FeatureCodec, Rate


class ChannelMeans(nn.Module):
    """A mean for each channel and level, the same for all cells."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.of_level = nn.Parameter(torch.zeros(config.levels, config.latent_channels))

    def forward(self, position: Tensor | None, images: int, h: int, w: int) -> Tensor:
        """Maps (B, N, h, w)."""
        level = torch.as_tensor(level_of(position), device=self.of_level.device).expand(images)
        return self.of_level[level][:, :, None, None].expand(-1, -1, h, w)


class FactorisedCodec(FeatureCodec):
    """No hyperprior: each channel of z has one learned density per level, the same for all cells. v has no bits.

    With a context it is that of the codebook's codec, which sees means of channels and levels in place of v's maps.
    """

    def _make_entropy_model(self) -> None:
        self._make_context()
        if self.context is None:
            self.prior = FactorisedPrior(self.config.latent_channels, self.config.levels, speed=SPEED)
        else:
            self.means = ChannelMeans(self.config)

    def _initialise(self) -> None:
        self._initialise_transforms()

    def extract(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), 0)

    def hyper_bits(self, v: Tensor, position: Tensor | None) -> Tensor:
        return v.new_zeros(len(v))

    def maps(self, v: Tensor, h: int, w: int, position: Tensor | None = None) -> Tensor:
        maps: Tensor = self.means(position, len(v), h, w)
        return maps

    def rate(self, z_hat: Tensor, z_rate: Tensor, position: Tensor | None, *, noisy: bool = False) -> Rate:
        if self.context is not None:
            return super().rate(z_hat, z_rate, position, noisy=noisy)
        bits_z = cell_bits(self.prior, z_rate, position)
        return Rate(bits_z, bits_z.new_zeros(len(bits_z)), bits_z.new_zeros(len(bits_z), 0))


class HyperAnalysis(nn.Module):
    """z (B, N, h, w) -> hyper-latent w before rounding (B, W, h/4, w/4), odd sizes rounded up."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        width = config.extractor[-1]
        self.layers = chain(config.latent_channels, (width, width), config.hyper_size, (1, 2, 2))

    def forward(self, z: Tensor) -> Tensor:
        w: Tensor = self.layers(z)
        return w


class HyperSynthesis(nn.Module):
    """w (B, W, h/4, w/4) -> mean and log standard deviation of every element of z, each (B, N, h, w)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        sizes = (config.hyper_size, *config.generator, 2 * config.latent_channels)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in pairwise(sizes))

    def forward(self, w: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        finer = [(-(-rows // 2), -(-columns // 2)), (rows, columns)]
        for i, layer in enumerate(self.layers):
            w = F.relu(w) if i else w
            if i < len(finer):
                w = F.interpolate(w, scale_factor=2.0, mode="nearest")[..., : finer[i][0], : finer[i][1]]
            w = layer(w)
        mean, log_scale = w.chunk(2, 1)
        return mean, bounded_log_scale(log_scale)


class HyperpriorCodec(FeatureCodec):
    """The usual convolutional mean-scale hyperprior (Minnen, Balle and Toderici, 2018).

    Its hidden widths are those of the codebook's extractor and generator. With a context it is that of the codebook's
    codec, which sees these means in place of the codebook's.
    """

    def _make_entropy_model(self) -> None:
        self._make_context()
        self.analysis = HyperAnalysis(self.config)
        self.prior = FactorisedPrior(self.config.hyper_size, self.config.levels, speed=SPEED)
        self.synthesis = HyperSynthesis(self.config)

    def _initialise(self) -> None:
        self._initialise_transforms()
        affine(self.synthesis.layers[-1]).weight.data *= 0.1

    def extract(self, z: Tensor) -> Tensor:
        w: Tensor = self.analysis(z)
        return w

    def hyper_bits(self, v: Tensor, position: Tensor | None) -> Tensor:
        return cell_bits(self.prior, v, position)

    def gaussians(self, v: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.synthesis(v, h, w)
        return on_grid(mean), log_scale

    def maps(self, v: Tensor, h: int, w: int, position: Tensor | None = None) -> Tensor:
        mean: Tensor = self.synthesis(v, h, w)[0]
        return mean


def cell_bits(prior: FactorisedPrior, z: Tensor, position: Tensor | None) -> Tensor:
    """Bits of each image (B,) for z (B, N, h, w) under a factorised prior of its N channels."""
    level = level_of(position)
    cells = z.flatten(2).transpose(1, 2)
    return prior.bits(cells, level if isinstance(level, int) else level[:, None]).sum((1, 2))
