"""The recipe of a task that is added to a finished bundle."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from train.bundle.stretch import STRETCH_MAX
from train.codec.codec_recipe import Crop, Distortion
from train.loop.schedule import Seed
from train.networks.load import NetworkSpec


class TaskRecipe(NetworkSpec):
    """Everything that decides how an added task comes out.

    name: by default what its network was trained for.
    width: of the reconstruction, as a multiple of the bundle's own; no edge pays for it.
    start: without `init`, the reconstruction's linear path begins at "random", or with the "regression" of the feature
        from z; see `train.tasks.regression`.
    init: a task folder for the same bundle, with a reconstruction of the same width to start from.
    half: rounds weights to 16 bits, which halves the task's files. eight_bit_tail: and those of the tail to 8.
    stretch: factor by which the decoded feature is stretched once it has been learnt; see `train.bundle.stretch`.
    """

    data: str
    validation: str | None = None
    bundle: str
    name: str = Field("", pattern=r"^([a-z][a-z0-9_-]{0,63})?$")
    distortion: Distortion = "distill"
    width: float = Field(1.0, gt=0, le=16)
    start: Literal["random", "regression"] = "random"
    init: str | None = None
    steps: int = Field(ge=1)
    batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    crop: Crop = 8
    flips: bool = True
    seed: Seed = 0
    half: bool = False
    eight_bit_tail: bool = False
    stretch: float = Field(1.0, gt=0, le=STRETCH_MAX)
