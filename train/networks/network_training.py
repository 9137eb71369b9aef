"""What the trainings of reference networks share: the start of a run, the input of each step, scores, the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud.networks.networks import ReferenceNetwork
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.types import TaskKind
from train.data.augment import draw_zooms, zoom_images
from train.data.dataset import Dataset, dataset_digests, in_order, network_input
from train.echo import echo_once
from train.kinds import TRAINING_KINDS
from train.loop.distributed import Workers
from train.loop.run import Run, sha256_of
from train.loop.schedule import Schedule, batch_indices
from train.loop.scores import Score, Scores, to_json
from train.loop.training import Better, Plan
from train.networks.learner import Learner
from train.networks.network_folder import WEIGHTS, NetworkCard, load_network, save_network
from train.networks.network_recipe import DenseRecipe, NetworkRecipe, TrainingRecipe


def open_run(
    recipe: NetworkRecipe | DenseRecipe,
    network: ReferenceNetwork,
    data: Sequence[Dataset],
    out: Path,
    resume: bool,
    workers: Workers,
    categories: int = 0,
) -> tuple[Run, Learner]:
    """Opens the run folder, and puts the network as it starts on its device.

    data: the images to train on and those held out. categories: see `Learner`.

    Raises DataError.
    """
    if recipe.freeze > network.split_layer:
        raise DataError(
            f"{recipe.freeze} layers cannot be frozen: the front has {network.split_layer} layers",
            setting="freeze",
        )
    training, validation = data
    workers.check_batch(min(recipe.batch, len(training)))
    inputs = dataset_digests(training, validation)
    if recipe.init is not None:
        folder = Path(recipe.init)
        taken, left = load_matching_weights(network, folder)
        inputs["the network to start from"] = sha256_of(folder / WEIGHTS)
    run = Run(out, recipe.model_dump(mode="json"), resume, inputs, workers, type(recipe))
    if recipe.init is not None:
        new = f"; {len(left)} start new: {', '.join(left)}" if left else ""
        echo_once(f"{taken} of {taken + len(left)} tensors taken from {recipe.init}{new}")
    learner = Learner(network, recipe, workers, categories)
    learner.module.to(workers.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return run, learner


def load_matching_weights(network: nn.Module, folder: Path) -> tuple[int, list[str]]:
    """Gives `network` those tensors of the network in `folder` whose names and shapes are its own.

    Returns how many those are, and the names of the others. Raises DataError, also where no parameter fits.
    """
    given, own = load_network(folder)[0].state_dict(), network.state_dict()
    fit = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    if not any(name in fit for name, _ in network.named_parameters()):
        raise DataError(f"none of the weights in {folder} has the shape of this network's", setting="init")
    network.load_state_dict(fit, strict=False)
    return len(fit), [name for name in own if name not in fit]


def plan_of(recipe: TrainingRecipe, kind: TaskKind) -> Plan:
    """The loop's settings: the weights that do best by the kind's main metric are the result."""
    metric = TRAINING_KINDS[kind].main
    return Plan(
        Schedule(recipe.steps, recipe.learning_rate),
        recipe.seed,
        recipe.weight_decay,
        Better(metric.key, "max" if metric.larger_is_better else "min"),
        ("loss", metric.key),
    )


class StepInput(NamedTuple):
    """This process's share of a step.

    x: network input (B, 3, H, W) of the images `indices` (B,).
    flip (B,): which of them are mirrored, after zooming by `zooms` (B, 3), if any.
    random: draws whatever else the step needs, alike in all processes.
    """

    x: Tensor
    indices: NDArray[np.int64]
    flip: NDArray[np.bool_]
    zooms: NDArray[np.float64] | None
    random: np.random.Generator


def step_inputs(
    recipe: TrainingRecipe, data: Dataset, preprocess: Preprocess, workers: Workers, start: int
) -> Iterator[StepInput]:
    """The input of each step, from `start` on."""
    steps = batch_indices(len(data), recipe.batch, recipe.seed, start, recipe.steps)
    for step, indices in enumerate(steps, start):
        # Everything is drawn for the whole batch, so that any number of processes sees the same.
        random = np.random.default_rng((recipe.seed, step, 1))
        flip = workers.share(random.random(len(indices)) < 0.5)
        zooms = workers.share(draw_zooms(random, len(indices), recipe.augment)) if recipe.augment else None
        indices = workers.share(indices)
        images = data.images(indices)
        if zooms is not None:
            images = zoom_images(images, zooms, preprocess)
        x = network_input(images, preprocess, flip)
        x = x.to(workers.device).contiguous(memory_format=torch.channels_last)
        yield StepInput(x, indices, flip, zooms, random)


@torch.no_grad()
def scored(
    kind: TaskKind,
    network: nn.Module,
    data: Dataset,
    preprocess: Preprocess,
    workers: Workers,
    batch: int,
) -> Scores:
    """The network's scores on a labelled set, counted by all processes together."""
    network.eval()
    known = TRAINING_KINDS[kind]
    metric = known.metric(len(data.names))
    for indices in workers.part(in_order(len(data), batch)):
        x = network_input(data.images(indices), preprocess).to(workers.device)
        metric.add(known.answers(network(x)), data.labels(indices))
    return Scores(Score(name, value) for name, value in workers.merged(metric).values().items())


def write_network(
    run: Run,
    network: ReferenceNetwork,
    name: str,
    kind: TaskKind,
    recipe: TrainingRecipe,
    labels: tuple[str, ...],
    preprocess: Preprocess,
    scores: Scores,
) -> NetworkCard:
    """Writes a trained network and its card to the run's folder. name: of the reference network."""
    card = NetworkCard(
        network=name,
        task=kind,
        config=network.config.model_dump(mode="json"),
        split=network.split_layer,
        labels=labels,
        preprocess=preprocess,
        recipe=recipe.model_dump(mode="json"),
        figures=to_json(scores),
        ignored=TRAINING_KINDS[kind].ignored,
    )
    if run.leads:
        save_network(network, card, run.folder)
    return card
