"""The uncompressed networks of a bundle's tasks: what every contender is compared with, and what most of them run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud.networks.networks import feature_shape, whole_output
from shared.bundle import Bundle, Task
from shared.errors import DataError
from shared.types import TaskKind
from train.codec.split_networks import Head, as_map
from train.data.dataset import network_input
from train.data.feature_cache import weights_digest
from train.networks.load import NetworkSpec, cut, load_network_spec
from train.networks.network_folder import NetworkCard


class TaskNetwork(NamedTuple):
    """The whole network of a task, and its two parts where the bundle cuts it."""

    task: Task
    whole: nn.Module
    front: nn.Module
    head: Head


class TaskNetworks:
    """One network for each task of a bundle. Raises DataError if one is missing or is for another kind of answer."""

    def __init__(self, bundle: Bundle, folders: Sequence[str], device: torch.device) -> None:
        self.preprocess, self._device = bundle.manifest.preprocess, device
        left = {folder: load_network_spec(NetworkSpec(network=folder)) for folder in folders}
        self.by_task: dict[str, TaskNetwork] = {}
        for task in bundle.tasks:
            alike = [folder for folder, (_, card) in left.items() if card.task == task.kind]
            # Of several for one kind, the one with the task's own labels.
            alike.sort(key=lambda folder: left[folder][1].labels != task.labels)
            folder = alike[0] if alike else None
            if folder is None:
                raise DataError(
                    f"no network is for {task.name} ({task.kind}); name one for each task of {bundle.path}",
                    setting="network",
                )
            self.by_task[task.name] = self._cut(task, folder, *left.pop(folder))
        if left:
            folder, (_, card) = next(iter(left.items()))
            raise DataError(f"{folder}: {bundle.path} has no further task of {card.task}", setting="network")

    def _cut(self, task: Task, folder: str, whole: nn.Module, card: NetworkCard) -> TaskNetwork:
        if card.preprocess != self.preprocess:
            raise DataError(
                f"{folder}: it takes other images ({card.preprocess}) than the bundle", setting="network"
            )
        front, tail = cut(whole, card.model_copy(update={"split": task.split}))
        head = Head(tail, task.kind, feature_shape(front, card.preprocess.height, card.preprocess.width))
        for part in (whole, front, head):
            part.to(self._device).eval()
        return TaskNetwork(task, whole, front, head)

    @property
    def kinds(self) -> dict[str, TaskKind]:
        return {name: network.task.kind for name, network in self.by_task.items()}

    @functools.cached_property
    def same_fronts(self) -> tuple[tuple[str, ...], ...]:
        """Every task, in groups whose fronts have the same layers and weights, so that they share one feature."""
        groups: list[list[str]] = []
        for name, network in self.by_task.items():
            same = (one for one in groups if _same(self.by_task[one[0]].front, network.front))
            group = next(same, None)
            if group is None:
                groups.append([name])
            else:
                group.append(name)
        return tuple(map(tuple, groups))

    def cache_key(self) -> dict[str, Any]:
        return {name: weights_digest(network.whole) for name, network in self.by_task.items()}

    def input(self, pixels: NDArray[np.uint8]) -> Tensor:
        return network_input(pixels, self.preprocess).to(self._device)

    def outputs(self, pixels: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Outputs of the uncompressed networks for images (B, H, W, 3), by task. A front that they share runs once."""
        x, out = self.input(pixels), {}
        for tasks in self.same_fronts:
            first = self.by_task[tasks[0]]
            if len(tasks) == 1:
                out[tasks[0]] = whole_output(first.whole, x, first.task.kind)
                continue
            y = as_map(first.front(x))
            out |= {name: self.by_task[name].head(y) for name in tasks}
        return {name: out[name] for name in self.by_task}


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two fronts compute the same: layers of the same kinds in the same order, with equal weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    return (
        str(one) == str(other)
        and ours.keys() == theirs.keys()
        and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    )
