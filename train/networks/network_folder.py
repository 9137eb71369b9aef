"""A trained network as a folder: network.safetensors (weights) and network.json (`NetworkCard`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from cloud.networks.networks import build_network
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.files import write_atomically
from shared.types import Frozen, TaskKind
from train.networks.external_networks import is_external, make

NetworkTask = TaskKind
DEFAULT_TASK: NetworkTask = "classification"
WEIGHTS, CARD = "network.safetensors", "network.json"


class NetworkCard(Frozen):
    """network.json: how to build the network again, and how well it does.

    network: name of a reference network, "torchvision:NAME" or "package.module:factory".
    split: the layer after which it is cut by default; None: there is no default.
    labels: names of the outputs.
    figures: its scores on the images held out, as `train.loop.scores` names them.
    ignored: the class of pixels that nobody labelled, which is none of the outputs.
    options: of the kind of task, as a bundle's `Task` has them.
    """

    network: str
    task: NetworkTask = DEFAULT_TASK
    config: dict[str, Any]
    split: int | str | None
    labels: tuple[str, ...]
    preprocess: Preprocess
    recipe: dict[str, Any]
    figures: dict[str, float]
    ignored: int | None = None
    options: dict[str, Any] = Field(default_factory=dict)


def save_network(network: nn.Module, card: NetworkCard, folder: Path) -> None:
    """Writes weights and card. Raises OSError."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(tensors))
    write_atomically(folder / CARD, card.model_dump_json(indent=1).encode())


def network_of(card: NetworkCard) -> nn.Module:
    """The network of a card, without its weights. Raises DataError, or ValueError for a reference network."""
    if is_external(card.network):
        return make(card.network, card.config)
    return build_network(card.network, card.config)


def load_network(folder: Path) -> tuple[nn.Module, NetworkCard]:
    """A trained network, in evaluation mode. Raises DataError."""
    try:
        card = NetworkCard.model_validate(json.loads((folder / CARD).read_text()))
        network = network_of(card)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError as error:
        raise DataError(f"no trained network in {folder} ({Path(error.filename).name} is missing)") from None
    except (ValidationError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the network in {folder} cannot be read: {str(error).splitlines()[0]}") from None
    return network.eval(), card
