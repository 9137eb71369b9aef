"""What the trainings of reference networks share: the network as it learns, its run folder, the input of each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud.networks.networks import ReferenceNetwork, split
from shared.bundle import Preprocess
from shared.errors import DataError
from train.data.augment import draw_zooms, zoom_pictures
from train.data.dataset import IGNORE, Dataset, dataset_digests, network_input
from train.loop.distributed import Team
from train.loop.run import Run, batches, sha256_of
from train.networks.auxiliary_losses import Appearance, Things
from train.networks.network_folder import WEIGHTS, NetworkCard, NetworkTask, load_network, save_network
from train.networks.network_recipe import DenseRecipe, NetworkRecipe, TrainingRecipe


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
    training: Dataset,
    validation: Dataset,
    categories: int = 0,
) -> tuple[Run, Learner]:
    """The run folder of a network's training; the network as it starts, on its device.

    Raises DataError.
    """
    if recipe.freeze > network.split_layer:
        raise DataError(f"--freeze {recipe.freeze}: the front has {network.split_layer} layers")
    team.check_batch(min(recipe.batch, len(training)))
    inputs = dataset_digests(training, validation)
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
    recipe: TrainingRecipe, pictures: Dataset, preprocess: Preprocess, team: Team, start: int
) -> Iterator[Step]:
    """What each step of a network's training sees, from `start` on."""
    steps = batches(len(pictures), recipe.batch, recipe.seed, start, recipe.steps)
    for step, indices in enumerate(steps, start):
        random = np.random.default_rng((recipe.seed, step, 1))
        flip = team.share(random.random(len(indices)) < 0.5)
        zooms = team.share(draw_zooms(random, len(indices), recipe.augment)) if recipe.augment else None
        indices = team.share(indices)
        pixels = pictures.images(indices)
        if zooms is not None:
            pixels = zoom_pictures(pixels, zooms, preprocess)
        x = network_input(pixels, preprocess, flip)
        x = x.to(team.device).contiguous(memory_format=torch.channels_last)
        yield Step(x, indices, flip, zooms, random)


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
