"""Trains the reference classifier, uncompressed: what `isthmus train network` does; `dense` trains the others.

A trained network is a folder: network.safetensors (weights) and network.json (`NetworkCard`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cloud.models.networks import (
    REFERENCE_CLASSIFIER,
    ClassifierConfig,
    ReferenceClassifier,
    ReferenceNetwork,
    build_network,
)
from cloud.training.data import Maps, Pictures, in_order, network_input
from cloud.training.run import Run, Schedule, batches, fit, training_device
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.files import write_atomically
from shared.types import Frozen

NetworkTask = Literal["classification", "normals", "segmentation"]
WEIGHTS, CARD = "network.safetensors", "network.json"


class TrainingRecipe(Frozen):
    """What every network's training is told."""

    data: str
    steps: int = Field(ge=1)
    batch: int = Field(48, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    seed: int = 0
    height: int = 256
    width: int = 256


class NetworkRecipe(TrainingRecipe):
    """Everything that decides how a classifier comes out."""

    label_smoothing: float = Field(0.05, ge=0, lt=1)
    network: ClassifierConfig


class NetworkCard(Frozen):
    """network.json: how to build the network again, and what it reached. labels: names of the outputs."""

    network: str
    task: NetworkTask = "classification"
    config: dict[str, Any]
    split: int
    labels: tuple[str, ...]
    preprocess: Preprocess
    recipe: dict[str, Any]
    figures: dict[str, float]


def train_network(
    recipe: NetworkRecipe,
    training: Pictures,
    validation: Pictures,
    out: Path,
    resume: bool,
    device: str = "cpu",
) -> NetworkCard:
    """Train, and write the network to `out`. Raises DataError."""
    place = training_device(device)
    torch.manual_seed(recipe.seed)
    network = ReferenceClassifier(recipe.network)
    run = Run(out, recipe.model_dump(mode="json"), resume)
    network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocess = Preprocess(height=recipe.height, width=recipe.width)

    def data(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in steps_of(recipe, training, preprocess, place, start):
            yield step.x, torch.from_numpy(training.labels[step.indices]).to(place)

    def loss_of(batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        network.train()
        out = network(batch[0])
        loss = F.cross_entropy(out, batch[1], label_smoothing=recipe.label_smoothing)
        return loss, {"top1": float((out.argmax(1) == batch[1]).float().mean())}

    def validate() -> dict[str, float]:
        return {"top1": top1(network, validation, preprocess)}

    figures = fit(
        run,
        network,
        Schedule(recipe.steps, recipe.learning_rate),
        data,
        loss_of,
        seed=recipe.seed,
        validate=validate,
        show=("loss", "top1"),
        weight_decay=recipe.weight_decay,
    )
    labels = training.names
    return finish(network, REFERENCE_CLASSIFIER, "classification", recipe, labels, preprocess, figures, out)


class Step(NamedTuple):
    """x: network input (B, 3, H, W) of the pictures `indices` (B,), of which `flip` (B,) are mirrored. random: of this
    step, for whatever else is drawn."""

    x: Tensor
    indices: NDArray[np.int64]
    flip: NDArray[np.bool_]
    random: np.random.Generator


def steps_of(
    recipe: TrainingRecipe, pictures: Pictures | Maps, preprocess: Preprocess, place: torch.device, start: int
) -> Iterator[Step]:
    """What each step of a network's training sees, from `start` on."""
    steps = batches(len(pictures), recipe.batch, recipe.seed, start, recipe.steps)
    for step, indices in enumerate(steps, start):
        random = np.random.default_rng((recipe.seed, step, 1))
        flip = random.random(len(indices)) < 0.5
        x = network_input(pictures.pixels(indices), preprocess, flip)
        x = x.to(place).contiguous(memory_format=torch.channels_last)
        yield Step(x, indices, flip, random)


@torch.no_grad()
def top1(network: nn.Module, pictures: Pictures, preprocess: Preprocess, batch: int = 64) -> float:
    """Share of pictures whose best class is the right one."""
    network.eval()
    place = next(network.parameters()).device
    right = 0
    for indices in in_order(len(pictures), batch):
        best = network(network_input(pictures.pixels(indices), preprocess).to(place)).argmax(1).cpu().numpy()
        right += int((best == pictures.labels[indices]).sum())
    return right / len(pictures)


def finish(
    network: ReferenceNetwork,
    name: str,
    task: NetworkTask,
    recipe: TrainingRecipe,
    labels: tuple[str, ...],
    preprocess: Preprocess,
    figures: Mapping[str, float],
    out: Path,
) -> NetworkCard:
    """Write a trained network and its card to `out`."""
    card = NetworkCard(
        network=name,
        task=task,
        config=network.config.model_dump(mode="json"),
        split=network.split_layer,
        labels=labels,
        preprocess=preprocess,
        recipe=recipe.model_dump(mode="json"),
        figures=dict(figures),
    )
    save_network(network, card, out)
    return card


def save_network(network: nn.Module, card: NetworkCard, folder: Path) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(tensors))
    write_atomically(folder / CARD, card.model_dump_json(indent=1).encode())


def load_network(folder: Path) -> tuple[ReferenceNetwork, NetworkCard]:
    """A trained network, in evaluation mode. Raises DataError."""
    try:
        card = NetworkCard.model_validate(json.loads((folder / CARD).read_text()))
        network = build_network(card.network, card.config)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError as error:
        raise DataError(
            f"no trained network in {folder} ({Path(error.filename).name} is missing); "
            "make one with `isthmus train network`"
        ) from None
    except (ValidationError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the network in {folder} cannot be read: {str(error).splitlines()[0]}") from None
    return network.eval(), card


def load_classifier(folder: Path) -> tuple[ReferenceNetwork, NetworkCard]:
    """A trained network that must be a classifier. Raises DataError."""
    network, card = load_network(folder)
    if card.task != "classification":
        raise DataError(
            f"{folder} holds a network for {card.task}; this takes networks for classification only, so far"
        )
    return network, card
