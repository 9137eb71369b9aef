"""A codec's recipe, and what follows from it alone."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import AliasChoices, BeforeValidator, Field, model_validator
from torch import Tensor

from cloud.networks.sizes import PRESETS, CodecConfig, Shape, common_grid
from shared.errors import DataError
from shared.types import Frozen
from train.codec.prior_choice import Prior
from train.loop.schedule import Seed
from train.networks.load import NetworkSpec

GRID_MAX = 32  # cells of z, high or wide, unless the recipe says otherwise
T = TypeVar("T", float, Tensor)
Distortion = Literal["task", "distill", "feature", "distill-hint", "task-hint"]
LABELLED = ("task", "task-hint")  # distortions that need labels
# In feature cells; a file gives 0 for None, the whole map.
Crop = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(lambda cells: cells or None)]


class Part(NetworkSpec):
    """One network of a codec.

    name: of its task, by default what the network was trained for.
    distortion: what the decoded feature is compared by; see `train.codec.distortion`.
    lambda_: weight of the distortion, in bits.
    tilt: at a level of scale s the distortion weighs lambda * s ** (1 - tilt). Above 0, low levels give up more of the
        other parts' quality than of this one's.
    """

    name: str = Field("", pattern=r"^([a-z][a-z0-9_-]{0,63})?$")
    distortion: Distortion = "distill"
    lambda_: float = Field(gt=0, validation_alias=AliasChoices("lambda", "lambda_"))
    tilt: float = Field(0.0, ge=0, le=1)


class CodecRecipe(Frozen):
    """Everything that decides how a codec comes out.

    scales: multipliers of lambda, one per quality level, ascending.
    qualities: the levels' numbers in 0..100, as many and ascending.
    crop: side, in feature cells, of the piece of a map on which its distortion is computed; None: the whole map.
    stride: feature cells per cell of z, each way; None: the preset's, or more, to bring a finer feature to GRID_MAX.
    width: of the modules around z, as a multiple of the preset's.
    init: a codec's run folder to start from; its levels may differ.
    anew: the entropy model begins anew, whatever `init` has; not where `trains` leaves it as it is.
    start: without `init`, the linear transform that the codec begins with keeps the features' "power", or what the
        tails' "answers" depend on, classes of images or pixels; see `train.codec.linear_start`.
    balance: a level of scale s counts s ** -balance in the loss. With 0 all count alike in bits, and the high levels,
        which have more of them, shape the transform most.
    prior: of z; all but the codebook are for comparison.
    hyper: version of the codebook's hyperprior, as in CodecConfig; recipes without it mean 1.
    context: what predicts z besides the codebook: "slices" of channels by halves of a checkerboard, or "none", as in
        recipes without it. compressai's priors take none.
    base: the task that can be answered from v alone; empty: none. base_lambda: weight of its distortion, in bits.
    trains: "all" of the codec; the "entropy" model alone, on the latents of `init`, or of a start from answers; or the
        "synthesis", that is reconstruction, separation and the networks' tails, on truly rounded latents, with
        everything before z and in the streams as in `init`.
    entropy_rate: learning rate of the entropy model, as a multiple.
    gain_rate: of the gains. They begin alike in all channels, and at the transform's own small rate they stay so: no
        level then differs from another but in its step.
    rate: whether what predicts z learns from z under "noise", or from z "rounded", as it is sent. The latter is for a
        codec that goes on: at first most elements are rounded to 0, and there is little to learn from.
    """

    data: str
    validation: str | None = None
    parts: tuple[Part, ...] = Field(min_length=1)
    scales: tuple[float, ...] = Field((1.0,), min_length=1)
    qualities: tuple[int, ...] = (50,)
    preset: Literal["reference", "small", "blocks"] = "small"
    stride: int | None = Field(None, ge=1)
    width: float = Field(1.0, gt=0, le=16)
    scaled: bool | None = None
    init: str | None = None
    anew: bool = False
    start: Literal["power", "answers"] = "power"
    balance: float = Field(0.0, ge=0, le=1)
    prior: Prior = "codebook"
    hyper: Literal[1, 2] = 1
    context: Literal["none", "slices"] = "none"
    context_hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64, 64)
    extractor: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="hidden widths of the hyperprior's extractor"
    )
    base: str = Field("", pattern=r"^([a-z][a-z0-9_-]{0,63})?$")
    base_lambda: float = Field(3000.0, gt=0)
    trains: Literal["all", "entropy", "synthesis"] = "all"
    entropy_rate: float = Field(1.0, gt=0)
    gain_rate: float = Field(1.0, gt=0)
    rate: Literal["noise", "rounded"] = "noise"
    form: Literal["rd", "dr"] = "rd"
    steps: int = Field(ge=1)
    batch: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    distortion_first: float = Field(0.1, ge=0, le=1, description="share of the steps without any rate")
    rate_ramp: float = Field(
        0.3, ge=0, le=1, description="share of the steps in which the rate's weight grows to 1"
    )
    crop: Crop = 8
    flips: bool = True
    train_all: bool = False
    seed: Seed = 0

    @model_validator(mode="after")
    def _agree(self) -> CodecRecipe:
        if self.form == "dr" and len(self.parts) > 1:
            raise ValueError("form dr has one lambda, on the rate: it is for one network")
        if len(self.qualities) != len(self.scales):
            raise ValueError(f"{len(self.scales)} scales need as many qualities, not {len(self.qualities)}")
        for name, values in (("scales", self.scales), ("qualities", self.qualities)):
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must ascend")
        if self.context != "none" and self.prior.startswith("compressai"):
            raise ValueError(f"the prior {self.prior} takes no context; use context none")
        if self.rate != "noise" and self.prior != "codebook":
            raise ValueError(f"the prior {self.prior} learns from noise; use rate noise")
        begun = self.init is not None or (self.trains == "entropy" and self.start == "answers")
        if self.trains != "all" and (not begun or self.train_all):
            raise ValueError(f"trains {self.trains} needs the run of a codec as init, and frozen networks")
        if self.anew and (self.init is None or self.trains == "synthesis"):
            raise ValueError("anew needs the run of a codec as init, and an entropy model that is trained")
        if self.train_all and self.start == "answers":
            raise ValueError("start answers is for frozen networks")
        if min(self.scales) <= 0 or not 0 <= min(self.qualities) <= max(self.qualities) <= 100:
            raise ValueError("scales are above 0, qualities within 0..100")
        return self

    @property
    def default_quality(self) -> int:
        """The quality of the level whose scale is nearest to 1."""
        nearest = min(range(len(self.scales)), key=lambda i: abs(np.log(self.scales[i])))
        return self.qualities[nearest]


def spread(levels: int) -> tuple[int, ...]:
    """Qualities for a number of levels, evenly over 0..100."""
    return tuple(round(100 * i / (levels - 1)) for i in range(levels)) if levels > 1 else (50,)


def sizes_of(recipe: CodecRecipe, features: Sequence[Shape]) -> CodecConfig:
    """Sizes of a codec for these features. Raises DataError."""
    config = PRESETS[recipe.preset].model_copy(update={"levels": len(recipe.scales)})
    cells, stride = max(common_grid(features)), recipe.stride or config.stride
    while recipe.stride is None and cells > GRID_MAX * stride:
        stride *= 2
    try:
        config = config.with_stride(stride).widened(recipe.width).with_hyper(recipe.hyper)
        if recipe.extractor is not None:
            wide = {"extractor": recipe.extractor, "extractor_linear": recipe.extractor[-1]}
            config = config.model_copy(update=wide)
        if recipe.context != "none":
            config = config.with_context().model_copy(update={"context_hidden": recipe.context_hidden})
        return config
    except ValueError as error:
        raise DataError(str(error), setting="stride") from None


def rate_weight(done: float, recipe: CodecRecipe) -> float:
    """The share of the rate's weight that counts after `done` (0..1) of the steps."""
    if recipe.rate_ramp == 0:
        return float(done >= recipe.distortion_first)
    return min(1.0, max(0.0, (done - recipe.distortion_first) / recipe.rate_ramp))


def shares(recipe: CodecRecipe) -> list[float]:
    """Each part's share of the whole distortion: its lambda over their sum."""
    return [part.lambda_ / total_of(recipe) for part in recipe.parts] if recipe.form == "rd" else [1.0]


def weighted(recipe: CodecRecipe, distances: Sequence[T], scale: T) -> T:
    """The whole distortion of images (B,) or of one: the parts', by their shares and what the level makes of them."""
    pairs = zip(shares(recipe), recipe.parts, distances, strict=True)
    whole: T = functools.reduce(operator.add, (share * scale**-part.tilt * d for share, part, d in pairs))
    return whole


def total_of(recipe: CodecRecipe) -> float:
    """What the loss in bits an image is divided by in training; 1 in form "dr", whose loss is not in bits."""
    return sum(part.lambda_ for part in recipe.parts) if recipe.form == "rd" else 1.0


def lambdas_of(recipe: CodecRecipe) -> list[float]:
    """Weight of each part's distortion, in bits, at scale 1. In form "dr" lambda is the rate's weight instead."""
    return [part.lambda_ if recipe.form == "rd" else 1 / part.lambda_ for part in recipe.parts]


def level_loss(recipe: CodecRecipe, scale: T, distance: T, bits: T, ramp: float = 1.0) -> T:
    """The loss of images (B,) or of one.

    distance: the parts' distortions, `weighted`. ramp: the rate's weight, from `rate_weight`.

    The "rd" form is divided by lambda, which keeps its minimum and makes the size of its gradient independent of
    lambda. A level's scale weighs the distortion and not the rate, so that no level drowns the others' gradients.
    """
    rate = 1 / total_of(recipe) if recipe.form == "rd" else recipe.parts[0].lambda_
    loss: T = scale**-recipe.balance * (scale * distance + ramp * rate * bits)
    return loss
