"""Where a codec's networks come from: a folder that training wrote, or any other, with what has to be said of it.

`isthmus codec train` and `task train` take one as it is named; `isthmus network import` puts one into a folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import nn

from cloud.networks.networks import (
    REFERENCE_CLASSIFIER,
    REFERENCE_EMBEDDER,
    ClassifierConfig,
    ReferenceEmbedder,
)
from cloud.networks.networks import split as split_reference
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import size_of
from shared.kinds import KINDS
from shared.types import Frozen
from train.kinds import TRAINING_KINDS
from train.networks.cutting import Traced
from train.networks.external_networks import (
    ABSENT,
    TORCHVISION,
    give_weights,
    is_foreign,
    make,
    published_labels,
    published_preprocess,
)
from train.networks.network_folder import NetworkCard, NetworkTask, load_network


class NetworkSpec(Frozen):
    """A network and, of one that is not in a folder of ours, what its name does not tell.

    network: a folder, "torchvision:NAME" or "package.module:factory". weights: a file, "DEFAULT" or "none". task: what
    its output is; by default classification for a vector. size: HxW of its pictures, where they differ from
    torchvision's own. labels: a file with the name of a class a line. split: layer after which it is cut.
    """

    network: str
    split: int | str | None = None
    weights: str | None = None
    task: NetworkTask | None = None
    size: str | None = Field(None, description="HxW")
    labels: str | None = None
    options: dict[str, Any] = Field(default_factory=dict, description="of the kind of task")


def load_network_spec(source: NetworkSpec, seed: int = 0) -> tuple[nn.Module, NetworkCard]:
    """The network, in evaluation mode. Raises DataError.

    seed: draws the weights of a network that has none, so that a run can be resumed with the same ones.
    """
    if not is_foreign(source.network):
        given = [key for key in ("weights", "task", "size", "labels") if getattr(source, key) is not None]
        if given and not (given == ["task"] and learns_without_labels(source.task)):
            raise DataError(
                f"{source.network} is a trained network's folder and says itself what --{given[0]} is"
            )
        network, card = load_network(Path(source.network))
        if source.task is not None:
            network, card = without_last_layer(network, card, source.task, source.options)
        return network, card if source.split is None else card.model_copy(update={"split": source.split})
    labels = label_names(Path(source.labels)) if source.labels else ()
    config: dict[str, Any] = (
        {"classes": len(labels)} if labels and source.network.startswith(TORCHVISION) else {}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(source.network, config).eval()
    if source.weights is None and source.network.startswith(TORCHVISION):
        raise DataError(f"{source.network}: say which --weights: a file, DEFAULT or {ABSENT}")
    give_weights(network, source.network, source.weights or ABSENT)
    preprocess = preprocess_of(source)
    output = Traced(network, preprocess.height, preprocess.width).layers[-1].shape
    task = source.task or _task_of(source.network, output)
    return network, NetworkCard(
        network=source.network,
        task=task,
        config=config,
        split=source.split,
        labels=_labels(source, task, output, labels),
        preprocess=preprocess,
        recipe=source.model_dump(mode="json"),
        figures={},
        options=source.options,
    )


def learns_without_labels(task: str | None) -> bool:
    """Whether it is a kind of task without labels, which any classifier's last vector can be."""
    return task in TRAINING_KINDS and TRAINING_KINDS[task].form is None


def without_last_layer(
    network: nn.Module, card: NetworkCard, task: NetworkTask, options: dict[str, Any]
) -> tuple[nn.Module, NetworkCard]:
    """A reference classifier's last vector as a network of its own. Raises DataError."""
    if card.network != REFERENCE_CLASSIFIER:
        raise DataError(
            f"{card.network} has no last vector here; only {REFERENCE_CLASSIFIER} has", setting="task"
        )
    embedder = ReferenceEmbedder(ClassifierConfig.model_validate(card.config))
    own = embedder.state_dict()
    embedder.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if name in own})
    changed = {"network": REFERENCE_EMBEDDER, "task": task, "labels": (), "figures": {}, "options": options}
    return embedder.eval(), card.model_copy(update=changed)


def cut(network: nn.Module, card: NetworkCard) -> tuple[nn.Module, nn.Module]:
    """Front and tail of a network at its card's layer. Raises DataError.

    The layers of a reference network may be numbered as its modules are, so that it can be put together again anywhere.
    """
    if card.split is None:
        raise DataError(
            f"{card.network}: say after which layer it is cut: --split LAYER (`isthmus network layers` lists them)"
        )
    if reference_cut(card):
        try:
            return split_reference(network, int(card.split))  # type: ignore[arg-type]
        except ValueError as error:
            raise DataError(str(error)) from None
    return Traced(network, card.preprocess.height, card.preprocess.width).cut(card.split)


def reference_cut(card: NetworkCard) -> bool:
    """Whether the tail can be built from a reference network's name and a number, without its graph."""
    return not is_foreign(card.network) and str(card.split).isdecimal()


def preprocess_of(source: NetworkSpec) -> Preprocess:
    """How its pictures are prepared. Raises DataError."""
    known = published_preprocess(source.network)
    if source.size is not None:
        height, width = size_of(source.size)
        known |= {"height": height, "width": width, "resize": None}
    if not known:
        raise DataError(f"{source.network}: say the size of its pictures: --size HEIGHTxWIDTH")
    try:
        return Preprocess.model_validate(known)
    except ValidationError as error:
        raise DataError(f"--size {source.size}: {error.errors()[0]['msg']}") from None


def _task_of(name: str, output: tuple[int, ...]) -> NetworkTask:
    if len(output) == 1 or set(output[1:]) == {1}:
        return NetworkCard.model_fields["task"].default
    maps = ", ".join(kind.name for kind in KINDS.values() if kind.mapped)
    raise DataError(f"{name} gives {list(output)}: say what kind of map that is: {maps}", setting="task")


def _labels(
    source: NetworkSpec, task: NetworkTask, output: tuple[int, ...], given: tuple[str, ...]
) -> tuple[str, ...]:
    """A name an output. Raises DataError."""
    known = TRAINING_KINDS[task]
    if not KINDS[task].named:
        # A map's channels have the names of the labels that it learns from; a vector's numbers have none.
        labels: tuple[str, ...] = known.rooms.names if known.rooms is not None else ()
    else:
        labels = given or published_labels(source.network)
        if not given and len(labels) != output[0]:
            labels = tuple(f"class {i}" for i in range(output[0]))
    # A vector may have two axes of length 1 behind it, as a map of one pixel would.
    if (len(output) == 3) != (KINDS[task].mapped or set(output[1:]) == {1}):
        raise DataError(f"{source.network} gives {list(output)}, which is no {task}")
    if labels and len(labels) != output[0]:
        raise DataError(f"{source.network} has {output[0]} outputs for {len(labels)} labels")
    return labels


def label_names(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line. Raises DataError."""
    try:
        labels = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--labels {path}: {error}") from None
    if not labels:
        raise DataError(f"--labels {path} is empty; it holds the name of a class a line")
    return labels
