"""Sizes of a codec and of what it codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from shared.types import Frozen


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


Shape = tuple[int, ...]  # of one picture's feature: (C, H', W'), or (C,) for a vector


def spatial(feature: Shape) -> tuple[int, int]:
    """Rows and columns of a feature; one that is a vector (a network's output) has one cell."""
    return (feature[1], feature[2]) if len(feature) == 3 else (1, 1)


def common_grid(features: Sequence[Shape]) -> tuple[int, int]:
    """The grid on which features meet: the finest of theirs, so that none loses a cell before it is coded."""
    grids = [spatial(feature) for feature in features]
    return max(h for h, _ in grids), max(w for _, w in grids)
