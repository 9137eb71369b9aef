"""Everything that decides how a reference network comes out of its training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cloud.networks.networks import ClassifierConfig, DenseConfig
from shared.types import Frozen, TaskKind
from train.loop.schedule import Seed


class TrainingRecipe(Frozen):
    """The settings of every network's training.

    data, validation: specs of data sets; without the latter the last images of `data` are held out.
    init: folder of a network to start from.
    freeze: number of layers, from the input on, that stay as they start.
    appearance: weight of rebuilding the image from the feature (`auxiliary_losses`).
    noise: standard deviation of the noise on the feature in training, as a multiple of each channel's own. What
        survives it survives a codec too, for fewer bytes.
    augment: smallest and largest scale; one between them is drawn for each image.
    """

    data: str
    validation: str | None = None
    steps: int = Field(ge=1)
    batch: int = Field(48, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    seed: Seed = 0
    init: str | None = None
    freeze: int = Field(0, ge=0)
    appearance: float = Field(0.0, ge=0)
    noise: float = Field(0.0, ge=0)
    height: int = 256
    width: int = 256
    augment: tuple[float, float] | None = None

    @field_validator("augment")
    @classmethod
    def _scales(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0.1 <= value[0] <= value[1] <= 10:
            raise ValueError("two scales between 0.1 and 10, the smaller one first")
        return value

    @model_validator(mode="after")
    def _something_to_freeze(self) -> TrainingRecipe:
        if self.freeze and self.init is None:
            raise ValueError(
                "freeze keeps layers of the network to start from (init); without one they would stay random"
            )
        return self


class NetworkRecipe(TrainingRecipe):
    """Everything that decides how a network for labels of whole images comes out, one or several for each."""

    task: TaskKind = "classification"
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    network: ClassifierConfig


class DenseRecipe(TrainingRecipe):
    """Everything that decides how a network for maps comes out.

    label_stride: 2 computes the loss at a quarter of the pixels: one of each 2 x 2, drawn for each step.
    category: weight of telling the images' categories from the feature's cells (`auxiliary_losses.CategoryHead`).
    """

    task: TaskKind
    label_stride: Literal[1, 2] = 1
    category: float = Field(0.0, ge=0)
    network: DenseConfig
