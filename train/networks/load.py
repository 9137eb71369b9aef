"""Loads a network as a `NetworkSpec` names it: from a folder that training wrote, or from elsewhere with what its name
does not say."""

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
from shared.placement import Fit
from shared.types import Frozen
from train.kinds import TRAINING_KINDS
from train.networks.cutting import Traced
from train.networks.external_networks import (
    NO_WEIGHTS,
    PUBLISHED_WEIGHTS,
    TORCHVISION,
    is_external,
    load_weights,
    make,
    published_labels,
    published_preprocess,
)
from train.networks.network_folder import DEFAULT_TASK, NetworkCard, NetworkTask, load_network


class NetworkSpec(Frozen):
    """A network by its name and, unless it is a folder of ours, what the name does not say.

    network: a folder, "torchvision:NAME" or "package.module:factory".
    weights: a file, "DEFAULT" or "none". For torchvision's networks there is no default.
    task: the meaning of its output; by default classification where that is a vector.
    size: HxW of its images, where they differ from torchvision's own.
    fit: how images of other shapes become that size; None: as the network says, or cropped.
    labels: a file with the names of the classes, one a line.
    split: layer after which it is cut.
    options: settings of its kind of task.
    """

    network: str
    split: int | str | None = None
    weights: str | None = None
    task: NetworkTask | None = None
    size: str | None = Field(None, description="HxW")
    fit: Fit | None = None
    labels: str | None = None
    options: dict[str, Any] = Field(default_factory=dict, description="of the kind of task")


def load_network_spec(spec: NetworkSpec, seed: int = 0) -> tuple[nn.Module, NetworkCard]:
    """The network, in evaluation mode, and its card. Raises DataError.

    seed: draws the weights of a network that has none, so that a run can be resumed with the same ones.
    """
    return _load_external(spec, seed) if is_external(spec.network) else _load_folder(spec)


def _load_folder(spec: NetworkSpec) -> tuple[nn.Module, NetworkCard]:
    for setting in ("weights", "task", "size", "fit", "labels"):
        allowed = setting == "task" and learns_without_labels(spec.task)
        if getattr(spec, setting) is not None and not allowed:
            raise DataError(
                f"{spec.network} is the folder of a trained network, which says its {setting} itself",
                setting=setting,
            )
    network, card = load_network(Path(spec.network))
    if spec.task is not None:
        network, card = without_last_layer(network, card, spec.task, spec.options)
    return network, card if spec.split is None else card.model_copy(update={"split": spec.split})


def _load_external(spec: NetworkSpec, seed: int) -> tuple[nn.Module, NetworkCard]:
    of_torchvision = spec.network.startswith(TORCHVISION)
    labels = label_names(Path(spec.labels)) if spec.labels else ()
    config: dict[str, Any] = {"classes": len(labels)} if labels and of_torchvision else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(spec.network, config).eval()
    if spec.weights is None and of_torchvision:
        raise DataError(
            f"{spec.network}: choose its weights: a file, {PUBLISHED_WEIGHTS} or {NO_WEIGHTS}",
            setting="weights",
        )
    load_weights(network, spec.network, spec.weights or NO_WEIGHTS)
    preprocess = preprocess_of(spec, network)
    output = Traced(network, preprocess.height, preprocess.width).layers[-1].shape
    task = spec.task or _task_of(spec.network, network, output)
    return network, NetworkCard(
        network=spec.network,
        task=task,
        config=config,
        split=spec.split,
        labels=_labels(spec, task, output, labels or published_labels(spec.network, network)),
        preprocess=preprocess,
        recipe=spec.model_dump(mode="json"),
        figures={},
        options=getattr(network, "options", {}) | spec.options,
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
    """Front and tail of a network, cut after its card's layer. Raises DataError.

    A reference network is cut between the modules it consists of, so that its tail can be built again from a name and
    a number.
    """
    if card.split is None:
        raise DataError(
            f"{card.network}: choose the layer after which it is cut; `isthmus network layers` lists them",
            setting="split",
        )
    if reference_cut(card):
        try:
            return split_reference(network, int(card.split))  # type: ignore[arg-type]
        except ValueError as error:
            raise DataError(str(error), setting="split") from None
    return Traced(network, card.preprocess.height, card.preprocess.width).cut(card.split)


def reference_cut(card: NetworkCard) -> bool:
    """Whether the tail can be built from a reference network's name and a number, without its graph."""
    return not is_external(card.network) and str(card.split).isdecimal()


def preprocess_of(spec: NetworkSpec, network: nn.Module) -> Preprocess:
    """How a network's images are prepared. Raises DataError."""
    known = published_preprocess(spec.network, network)
    if spec.size is not None:
        height, width = size_of(spec.size)
        known |= {"height": height, "width": width, "resize": None}
    if spec.fit is not None:
        known |= {"fit": spec.fit, "resize": None}
    if not {"height", "width"} <= known.keys():
        raise DataError(f"{spec.network}: give the size of its images, HEIGHTxWIDTH", setting="size")
    try:
        preprocess = Preprocess.model_validate(known)
    except ValidationError as error:
        raise DataError(f"{spec.network}: {error.errors()[0]['msg']}", setting="size") from None
    multiple = getattr(network, "multiple_of", 1)
    if preprocess.height % multiple or preprocess.width % multiple:
        raise DataError(
            f"{spec.network} takes images whose height and width are multiples of {multiple}, "
            f"not {preprocess.height}x{preprocess.width}",
            setting="size",
        )
    return preprocess


def _task_of(name: str, network: nn.Module, output: tuple[int, ...]) -> NetworkTask:
    own = getattr(network, "task", None)
    if own in KINDS:
        return str(own)
    if _is_vector(output):
        return DEFAULT_TASK
    maps = ", ".join(kind.name for kind in KINDS.values() if kind.mapped)
    raise DataError(
        f"{name} returns {list(output)}; choose the kind of map that it is: {maps}", setting="task"
    )


def _labels(
    spec: NetworkSpec,
    task: NetworkTask,
    output: tuple[int, ...],
    given: tuple[str, ...],
) -> tuple[str, ...]:
    """A name for each output; none for a vector's numbers. given: those that the user or the network names. Raises
    DataError."""
    # A vector may have two axes of length 1 behind it, as a map of one pixel would.
    fits = len(output) == 3 if KINDS[task].mapped else _is_vector(output)
    if not fits:
        raise DataError(f"{spec.network} returns {list(output)}, which is no {task}", setting="task")
    known = TRAINING_KINDS[task]
    if not KINDS[task].named:
        labels: tuple[str, ...] = known.rooms.names if known.rooms is not None else ()
    else:
        labels = given
        if len(labels) != output[0] and not spec.labels:
            labels = tuple(f"class {i}" for i in range(output[0]))
    if labels and len(labels) != output[0]:
        raise DataError(f"{spec.network} has {output[0]} outputs for {len(labels)} labels", setting="labels")
    return labels


def _is_vector(output: tuple[int, ...]) -> bool:
    """(K,), or (K, 1, 1) as a convolution at the end returns it."""
    return len(output) == 1 or set(output[1:]) == {1}


def label_names(path: Path) -> tuple[str, ...]:
    """Names of classes from a file, one a line. Raises DataError."""
    try:
        labels = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", setting="labels") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: {error}", setting="labels") from None
    if not labels:
        raise DataError(f"{path} is empty; it holds the names of the classes, one a line", setting="labels")
    return labels
