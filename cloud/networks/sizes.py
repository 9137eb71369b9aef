"""The sizes of a codec's modules, and the shapes of the features that it codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from shared.types import Frozen


class CodecConfig(Frozen):
    """Sizes of a codec. A module's channels are its hidden ones; input and output follow from its neighbours.

    transform, strides: channels and strides of the transform's layers. grid: rows and columns of a codebook entry.
    fusion, separation: channels of one subnet each; unused with a single feature. Without any, several features are
    joined and taken apart as they are. levels: number L of quality levels.
    shortcut: adds a linear path next to each chain of convolutions. shortcut_cells: width and height, in cells of z, of
    what the reconstruction's linear path sees for one cell.
    overhang: a feature with a row or column more than z has cells for (networks whose maps have odd sides) is rebuilt
    from z with one more cell, of zeros; without it, one of z's own size is rebuilt and then enlarged, which blurs.
    scaled: normalises each feature channel to mean 0 and variance 1 first, and undoes it last.
    hyper: version of the hyperprior. Version 2 has an extractor that sees positions and sums over the grid instead of
    averaging, a predictor that starts with the codebook's combination as its mean, and a faster learning rate for the
    prior of v (docs/LOG.md).
    context: the number of channels in each slice of the context, most energy first; none without a context.
    context_hidden: widths of its networks' hidden layers. base: those of the network that answers a task from v.
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
    shortcut_cells: Literal[1, 3] = 1
    overhang: bool = False
    scaled: bool = False
    hyper: Literal[1, 2] = 1
    context: tuple[int, ...] = ()
    context_hidden: tuple[int, ...] = (64, 64)
    base: tuple[int, ...] = (128,)

    @model_validator(mode="after")
    def _fits(self) -> CodecConfig:
        if len(self.strides) != len(self.transform) + 1:
            raise ValueError(f"{len(self.transform) + 1} transform layers need as many strides")
        if any(s not in (1, 2) for s in self.strides):
            raise ValueError("the stride of a transform layer is 1 or 2")
        if self.hyper > 1 and (len(self.predictor) != 1 or self.predictor[0] < 2 * self.latent_channels):
            raise ValueError(
                "with hyper 2 the predictor needs one hidden layer of twice the latent's channels"
            )
        if self.context and (sum(self.context) != self.latent_channels or min(self.context) < 1):
            raise ValueError(
                f"slices of {list(self.context)} channels are not {self.latent_channels} in all, each at least 1"
            )
        return self

    @property
    def stride(self) -> int:
        """Feature cells per latent cell, in each direction."""
        return math.prod(self.strides)

    def with_stride(self, stride: int) -> CodecConfig:
        """Returns these sizes with another total stride; the second layer is strided first. Raises ValueError."""
        if stride == self.stride:
            return self
        halvings = stride.bit_length() - 1
        if stride < 1 or stride & (stride - 1) or halvings > len(self.strides):
            raise ValueError(
                f"the stride must be a power of two up to {2 ** len(self.strides)}, not {stride}"
            )
        last = len(self.strides)
        halved = {i % last for i in range(1, halvings + 1)}
        return self.model_copy(update={"strides": tuple(2 if i in halved else 1 for i in range(last))})

    def widened(self, factor: float) -> CodecConfig:
        """Returns these sizes with the channels of z and of the modules around it multiplied by `factor`."""

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
        """Returns these sizes with that version of the hyperprior."""
        predictor = (2 * self.latent_channels,) if hyper > 1 else self.predictor
        return self.model_copy(update={"hyper": hyper, "predictor": predictor})

    def with_context(self) -> CodecConfig:
        """Returns these sizes with a context of four slices, each about twice the one before."""
        n = self.latent_channels
        sizes = [max(1, n // 16), max(1, n // 8), max(1, n // 4)]
        left = n - sum(sizes)
        return self.model_copy(update={"context": (*sizes, left) if left > 0 else (n,)})

    def for_feature(self, height: int, width: int) -> CodecConfig:
        """Returns these sizes with the codebook's grid set to the latent grid of a feature of height x width cells."""
        return self.model_copy(update={"grid": (-(-height // self.stride), -(-width // self.stride))})


# The method's worked example (an 8 x 4 x 4 feature: 256 x 256 pixels at stride 64); the sizes of the bundle `rooms`;
# for wide features in blocks of 2 x 2 cells, as in the bundle `photos`.
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
    "blocks": CodecConfig(
        transform=(128, 128),
        strides=(2, 1, 1),
        latent_channels=192,
        extractor=(64, 96),
        extractor_linear=96,
        hyper_size=48,
        generator=(96, 128),
        tau=64,
        grid=(8, 8),
        predictor=(64,),
        reconstruction=(192, 96, 96),
        fusion=(),
        separation=(),
        shortcut=True,
    ),
}


Shape = tuple[int, ...]  # one image's feature: (C, H', W'), or (C,) for a vector


def spatial(feature: Shape) -> tuple[int, int]:
    """Returns rows and columns of a feature; a vector (a network's output) has one cell."""
    return (feature[1], feature[2]) if len(feature) == 3 else (1, 1)


def common_grid(features: Sequence[Shape]) -> tuple[int, int]:
    """Returns the finest grid of the features, on which they are fused, so that none loses a cell before coding."""
    grids = [spatial(feature) for feature in features]
    return max(h for h, _ in grids), max(w for _, w in grids)
