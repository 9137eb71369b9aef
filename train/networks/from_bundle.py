"""Recovers the networks of a bundle from its own files (`isthmus network recover`).

Someone who has a bundle but not the trainings behind it can compare it with its uncompressed networks, train codecs and
tasks for them, or start a new task's network from layers that cameras run already. The export folds each batch
normalisation into the convolution before it. A recovered network computes the same, and its normalisations are only
biases.

    edge.onnx -> the front of each network that was coded together
    cloud.safetensors, tasks/NAME/task.safetensors -> the tails
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from cloud.networks.networks import build_network, split
from shared.bundle import CLOUD, EDGE, ONNX, TASKS, WEIGHTS, Bundle, Task
from shared.errors import DataError
from train.kinds import TRAINING_KINDS
from train.networks.network_folder import NetworkCard


class Convolution(NamedTuple):
    """weight (O, I, k, k), bias (O,)."""

    weight: Tensor
    bias: Tensor


class Recovered(NamedTuple):
    """A task's network, in evaluation mode."""

    name: str
    network: nn.Module
    card: NetworkCard


class NotRecovered(NamedTuple):
    """A task whose network is not in the bundle's files. why: a sentence's end, as in "NAME: ..."."""

    name: str
    why: str


def recovered_networks(bundle: Bundle) -> Iterator[Recovered | NotRecovered]:
    """The networks of the bundle's tasks. Raises DataError, BundleError.

    No file of the bundle holds the front of an added task. Where the recipes say that it is another network's front,
    unchanged by either training, that one is used.
    """
    manifest = bundle.manifest
    recipes = manifest.training.get("networks", {})
    edge = _Edge(bundle)
    tensors = load_tensors(bundle.read(CLOUD))
    for which, task in enumerate(manifest.tasks):
        if task.network == ONNX:
            network = task.network_config.get("of", "its network")
            yield NotRecovered(task.name, f"{network} is not one of the reference networks; import it again")
            continue
        tail = _with_prefix(tensors, f"tails.{task.name}.")
        yield _network(bundle, task, edge.front(which), tail, recipes.get(task.name, {}))
    for added in bundle.added:
        recipe = added.training.get("network", {})
        same = [
            which
            for which, task in enumerate(manifest.tasks)
            if same_front(added.task, recipe, task, recipes.get(task.name, {}))
        ]
        if added.task.network == ONNX or not same:
            yield NotRecovered(
                added.task.name, "it was added later, and no file of the bundle holds its front"
            )
            continue
        tail = _with_prefix(load_tensors(added.read(bundle.path / TASKS / added.task.name)[WEIGHTS]), "tail.")
        yield _network(bundle, added.task, edge.front(same[0]), tail, recipe)


def same_front(added: Task, recipe: Mapping[str, Any], task: Task, other: Mapping[str, Any]) -> bool:
    """Whether both networks started from the same network and froze all layers of their fronts."""
    kept = recipe.get("freeze", 0) >= int(added.split or 0) and other.get("freeze", 0) >= int(task.split or 0)
    return task.network != ONNX and kept and recipe.get("init") == other.get("init")


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _network(
    bundle: Bundle,
    task: Task,
    front: list[Convolution],
    tail: dict[str, Tensor],
    recipe: Mapping[str, Any],
) -> Recovered:
    network = build_network(task.network, task.network_config).eval()
    own_front, own_tail = split(network, int(task.split or 0))
    try:
        own_tail.load_state_dict(tail)
        _load_front(own_front, front)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{task.name}: the bundle's files do not fit its network: {reason}") from None
    card = NetworkCard(
        network=task.network,
        task=task.kind,
        config=task.network_config,
        split=task.split,
        labels=task.labels,
        preprocess=bundle.manifest.preprocess,
        recipe=dict(recipe),
        figures={},
        ignored=TRAINING_KINDS[task.kind].ignored,
        options=task.options,
    )
    return Recovered(task.name, network, card)


@torch.no_grad()
def _load_front(own: nn.Module, front: list[Convolution]) -> None:
    """Copies the exported convolutions into a reference network's front. Raises ValueError, RuntimeError."""
    convolutions = [module for module in own.modules() if isinstance(module, nn.Conv2d)]
    norms = iter([module for module in own.modules() if isinstance(module, nn.BatchNorm2d)])
    for convolution, (weight, bias) in zip(convolutions, front, strict=True):
        convolution.weight.copy_(weight)
        if convolution.bias is not None:
            convolution.bias.copy_(bias)
            continue
        norm = next(norms)
        norm.weight.fill_((1 + norm.eps) ** 0.5)  # its variance is 1, so that it only adds its bias
        norm.bias.copy_(bias)


class _Edge:
    """The contents of edge.onnx."""

    def __init__(self, bundle: Bundle) -> None:
        import onnx
        from onnx import numpy_helper

        graph = onnx.load_from_string(bundle.read(EDGE)).graph
        self._nodes = list(graph.node)
        self._values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}

    def front(self, which: int) -> list[Convolution]:
        """The convolutions of a reference network's front, in order.

        Found on the way back from where the codec takes the network's feature. Fronts may share their first ones.
        """
        first = next(
            node
            for part in (f"fusion.subnets.{which}.", "transform.")
            for node in self._nodes
            if any(name.startswith(part) for name in node.input)
        )
        found: list[Convolution] = []
        at = first.input[0]
        while at in self._makers:
            node = self._makers[at]
            if node.op_type == "Conv":
                weight, *bias = (self._values[name] for name in node.input[1:])
                found.insert(0, Convolution(weight, bias[0] if bias else torch.zeros(len(weight))))
            at = node.input[0]
        return found
