"""Trains the reference classifier, uncompressed: what `isthmus train network` does; `dense` trains the others.

A trained network is a folder: network.safetensors (weights) and network.json (`NetworkCard`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cloud.networks.networks import (
    REFERENCE_CLASSIFIER,
    ClassifierConfig,
    ReferenceClassifier,
    ReferenceNetwork,
    build_network,
    split,
)
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.files import write_atomically
from shared.types import Frozen
from train.data.augment import draw_zooms, zoom_pictures
from train.data.dataset import IGNORE, Maps, Pictures, in_order, network_input
from train.data.feature_cache import sets_told
from train.loop.distributed import Precision, Team
from train.loop.metrics import Top1
from train.loop.run import Run, Schedule, Seed, batches, fit, sha256_of, training_device
from train.networks.auxiliary_losses import Appearance, Things
from train.networks.external_networks import is_foreign, make

if TYPE_CHECKING:
    from train.networks.train_maps import DenseRecipe

NetworkTask = Literal["classification", "normals", "segmentation"]
WEIGHTS, CARD = "network.safetensors", "network.json"


class TrainingRecipe(Frozen):
    """What every network's training is told.

    data, validation: as `--data` names them; without the latter the last pictures of `data` are held out. init: the
    folder of a network to start from. freeze: layers, from the input on, that stay as they start. appearance: weight of
    rebuilding the picture from the feature (`appearance`). noise: standard deviation of the noise that the feature has
    in training, in those of its channels; what survives it survives a codec too, for fewer bytes. augment: the range
    of scales of which one is drawn for each picture.
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
            raise ValueError("freeze keeps layers of --init as they are; without it they would stay random")
        return self


class NetworkRecipe(TrainingRecipe):
    """Everything that decides how a classifier comes out."""

    label_smoothing: float = Field(0.05, ge=0, lt=1)
    network: ClassifierConfig


class NetworkCard(Frozen):
    """network.json: how to build the network again, and what it reached.

    network: a reference network's name, or "torchvision:NAME" or "package.module:factory". split: the layer after which
    it is cut where nothing else is said; None: it has to be said. labels: names of the outputs. ignored: the class
    of pixels that nobody labelled, which is none of the outputs.
    """

    network: str
    task: NetworkTask = "classification"
    config: dict[str, Any]
    split: int | str | None
    labels: tuple[str, ...]
    preprocess: Preprocess
    recipe: dict[str, Any]
    figures: dict[str, float]
    ignored: int | None = None


def train_network(
    recipe: NetworkRecipe,
    training: Pictures,
    validation: Pictures,
    out: Path,
    resume: bool,
    device: str = "cpu",
    precision: Precision = "auto",
) -> NetworkCard:
    """Train, and write the network to `out`. Raises DataError."""
    team = Team(training_device(device), precision)
    torch.manual_seed(recipe.seed)
    network = ReferenceClassifier(recipe.network)
    run, learner = open_run(recipe, network, out, resume, team, training, validation)
    preprocess = Preprocess(height=recipe.height, width=recipe.width)

    def data(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in steps_of(recipe, training, preprocess, team, start):
            yield step.x, torch.from_numpy(training.labels[step.indices]).to(team.device)

    def loss_of(batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        learner.train()
        y, beside = learner.feature(batch[0])
        out = learner.tail(y)
        loss = F.cross_entropy(out, batch[1], label_smoothing=recipe.label_smoothing) + beside
        return loss, {"top1": float((out.argmax(1) == batch[1]).float().mean())}

    def validate() -> dict[str, float]:
        return top1(network, validation, preprocess, team)

    figures = fit(
        run,
        learner.module,
        Schedule(recipe.steps, recipe.learning_rate),
        data,
        loss_of,
        seed=recipe.seed,
        validate=validate,
        show=("loss", "top1"),
        weight_decay=recipe.weight_decay,
        better=("top1", "max"),
    )
    labels = training.names
    return finish(network, REFERENCE_CLASSIFIER, "classification", recipe, labels, preprocess, figures, run)


class Learner:
    """A reference network as it is trained: its first layers frozen if asked for, its feature noisy, rebuilding the
    picture and telling its category.

    module: all that learns; the network itself where there is nothing beside it. categories: how many, if the feature
    shall tell them.
    """

    def __init__(
        self,
        network: ReferenceNetwork,
        recipe: NetworkRecipe | DenseRecipe,
        team: Team,
        categories: int = 0,
    ) -> None:
        self.network, self._team = network, team
        self.front, self.tail = split(network, network.split_layer)
        self._frozen = split(network, recipe.freeze)[0].requires_grad_(False)
        self._recipe = recipe
        channels = recipe.network.feature_channels
        self._appearance = Appearance(channels) if recipe.appearance else None
        self._things = Things(channels, categories) if categories else None
        parts = {"network": network, "appearance": self._appearance, "things": self._things}
        beside = {name: part for name, part in parts.items() if part is not None}
        self.module: nn.Module = nn.ModuleDict(beside) if len(beside) > 1 else network

    def train(self) -> None:
        self.module.train()
        self._frozen.eval()  # its normalisation too stays as it is

    def feature(self, x: Tensor, categories: Tensor | None = None) -> tuple[Tensor, Tensor | float]:
        """x (B, 3, H, W) -> the feature (B, C, H/s, W/s), and what rebuilding x and telling its category (B,) from it
        adds to the loss."""
        y = self.front(x)
        if self._recipe.noise:
            deviation = self._team.variance(y, (0, 2, 3)).sqrt()
            y = y + self._recipe.noise * deviation * self._team.randn_like(y)
        beside: Tensor | float = 0.0
        if self._appearance is not None:
            beside = beside + self._recipe.appearance * self._appearance.distance(y, x, self._team.variance)
        if self._things is not None and categories is not None:
            beside = beside + self._recipe.category * self._things.distance(y, categories)
        return y, beside


def open_run(
    recipe: NetworkRecipe | DenseRecipe,
    network: ReferenceNetwork,
    out: Path,
    resume: bool,
    team: Team,
    training: Pictures | Maps,
    validation: Pictures | Maps,
    categories: int = 0,
) -> tuple[Run, Learner]:
    """The run folder of a network's training; the network as it starts, on its device.

    Raises DataError.
    """
    if recipe.freeze > network.split_layer:
        raise DataError(f"--freeze {recipe.freeze}: the front has {network.split_layer} layers")
    team.check_batch(min(recipe.batch, len(training)))
    inputs = sets_told(training, validation)
    if recipe.init is not None:
        folder = Path(recipe.init)
        taken, left = start_from(network, folder)
        inputs["the network of --init"] = sha256_of(folder / WEIGHTS)
    run = Run(out, recipe.model_dump(mode="json"), resume, inputs, team, type(recipe))
    if recipe.init is not None:
        new = f"; {len(left)} start new: {', '.join(left)}" if left else ""
        team.say(f"{taken} of {taken + len(left)} tensors taken from {recipe.init}{new}")
    learner = Learner(network, recipe, team, categories)
    learner.module.to(team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return run, learner


def start_from(network: nn.Module, folder: Path) -> tuple[int, list[str]]:
    """Give `network` the tensors of the network in `folder` that have its names and shapes.

    Returns how many those are, and the names of the others. Raises DataError, also where none fits.
    """
    given, own = load_network(folder)[0].state_dict(), network.state_dict()
    fit = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    if not any(name in fit for name, _ in network.named_parameters()):
        raise DataError(f"--init {folder}: none of its weights have the shapes of this network's")
    network.load_state_dict(fit, strict=False)
    return len(fit), [name for name in own if name not in fit]


class Step(NamedTuple):
    """This process's share of a step. x: network input (B, 3, H, W) of the pictures `indices` (B,), of which `flip`
    (B,) are mirrored after they were zoomed by `zooms` (B, 3), if any. random: of this step, for whatever else is
    drawn; the same in all processes."""

    x: Tensor
    indices: NDArray[np.int64]
    flip: NDArray[np.bool_]
    zooms: NDArray[np.float64] | None
    random: np.random.Generator


def steps_of(
    recipe: TrainingRecipe, pictures: Pictures | Maps, preprocess: Preprocess, team: Team, start: int
) -> Iterator[Step]:
    """What each step of a network's training sees, from `start` on."""
    steps = batches(len(pictures), recipe.batch, recipe.seed, start, recipe.steps)
    for step, indices in enumerate(steps, start):
        random = np.random.default_rng((recipe.seed, step, 1))
        flip = team.share(random.random(len(indices)) < 0.5)
        zooms = team.share(draw_zooms(random, len(indices), recipe.augment)) if recipe.augment else None
        indices = team.share(indices)
        pixels = pictures.pixels(indices)
        if zooms is not None:
            pixels = zoom_pictures(pixels, zooms, preprocess)
        x = network_input(pixels, preprocess, flip)
        x = x.to(team.device).contiguous(memory_format=torch.channels_last)
        yield Step(x, indices, flip, zooms, random)


@torch.no_grad()
def top1(
    network: nn.Module, pictures: Pictures, preprocess: Preprocess, team: Team, batch: int = 64
) -> dict[str, float]:
    """Share of pictures whose best class is the right one; counted by all processes together."""
    network.eval()
    metric = Top1()
    for indices in team.part(in_order(len(pictures), batch)):
        x = network_input(pictures.pixels(indices), preprocess).to(team.device)
        metric.add(network(x).argmax(1).cpu().numpy(), pictures.labels[indices])
    return team.merged(metric).figures()


def finish(
    network: ReferenceNetwork,
    name: str,
    task: NetworkTask,
    recipe: TrainingRecipe,
    labels: tuple[str, ...],
    preprocess: Preprocess,
    figures: Mapping[str, float],
    run: Run,
) -> NetworkCard:
    """Write a trained network and its card to the run's folder."""
    card = NetworkCard(
        network=name,
        task=task,
        config=network.config.model_dump(mode="json"),
        split=network.split_layer,
        labels=labels,
        preprocess=preprocess,
        recipe=recipe.model_dump(mode="json"),
        figures=dict(figures),
        ignored=IGNORE if task == "segmentation" else None,
    )
    if run.leads:
        save_network(network, card, run.folder)
    return card


def save_network(network: nn.Module, card: NetworkCard, folder: Path) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(tensors))
    write_atomically(folder / CARD, card.model_dump_json(indent=1).encode())


def network_of(card: NetworkCard) -> nn.Module:
    """The network of a card, without its weights. Raises DataError, or ValueError for a reference network."""
    if is_foreign(card.network):
        return make(card.network, card.config)
    return build_network(card.network, card.config)


def load_network(folder: Path) -> tuple[nn.Module, NetworkCard]:
    """A trained network, in evaluation mode. Raises DataError."""
    try:
        card = NetworkCard.model_validate(json.loads((folder / CARD).read_text()))
        network = network_of(card)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError as error:
        raise DataError(
            f"no trained network in {folder} ({Path(error.filename).name} is missing); "
            "make one with `isthmus train network`"
        ) from None
    except (ValidationError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the network in {folder} cannot be read: {str(error).splitlines()[0]}") from None
    return network.eval(), card
