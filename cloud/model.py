"""The cloud half of a bundle: z -> reconstruction -> tail of every task asked for. Knows no bytes and no requests.

A task that was added later has a reconstruction of its own: z -> that -> its tail.

Legend: B pictures, N latent channels, h x w latent grid.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from cloud.exact_torch import TorchBackend
from cloud.models.codec import CodecConfig, FeatureReconstruction
from cloud.models.networks import as_feature, build_network, split
from cloud.results import results_of
from shared.bundle import CLOUD, TASK, TASKS, WEIGHTS, AddedTask, Bundle
from shared.codec.codec import LatentCodec
from shared.errors import BundleDamagedError, RequestError
from shared.types import TaskQuery, TaskResult


class AddedHead(nn.Module):
    """An added task: z (B, N, h, w) float -> the feature of its own network -> the output of that network's tail.

    weights: bytes of its task.safetensors. grid: h, w of the bundle. Raises BundleDamagedError, also where weights
    that load do not make what task.json says.
    """

    def __init__(self, added: AddedTask, weights: bytes, latent_channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        task = self.task = added.task
        try:
            tensors = load_safetensors(weights)
            config = CodecConfig.model_validate(added.codec)
            self.reconstruction = FeatureReconstruction(task.feature[0], config)
            _, self.tail = split(build_network(task.network, task.network_config), task.split)
            _load(self.reconstruction, tensors, "reconstruction.")
            _load(self.tail, tensors, "tail.")
            self.eval()
            with torch.inference_mode():
                y_hat = self._feature(torch.zeros(1, latent_channels, *grid))
                if tuple(y_hat.shape[1:]) != task.feature:
                    raise ValueError(f"the feature is {list(y_hat.shape[1:])}, not {list(task.feature)}")
                outputs = self.tail(y_hat).shape[1]
                if task.labels and outputs != len(task.labels):
                    raise ValueError(f"{outputs} outputs for {len(task.labels)} labels")
        except (SafetensorError, ValidationError, ValueError, TypeError, LookupError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # torch tells missing tensors on lines of their own
            raise BundleDamagedError(f"task {task.name!r}: {WEIGHTS} does not fit {TASK}: {reason}") from None

    def _feature(self, z: Tensor) -> Tensor:
        feature = self.task.feature
        return as_feature(self.reconstruction(z, _grid_of(feature)), feature)

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.tail(self._feature(z))
        return output


class CloudModel:
    """Loads reconstruction and tails. Not for use from several threads at once. Raises BundleError.

    device: torch's name of it. threads: of torch on a CPU; None leaves torch's own choice.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.bundle = bundle
        try:
            self.device = torch.device(device)
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:  # what torch raises where the device is not there
            raise RequestError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
        backend = None if self.device.type == "cpu" else TorchBackend(device)
        self.codec = LatentCodec(bundle.entropy(), backend)
        manifest = bundle.manifest
        try:
            tensors = load_safetensors(bundle.read(CLOUD))
            config = CodecConfig.model_validate(manifest.codec)
            self._feature = manifest.tasks[0].feature
            self._reconstruction = FeatureReconstruction(self._feature[0], config)
            self._tails = nn.ModuleDict()
            for task in manifest.tasks:
                _, self._tails[task.name] = split(
                    build_network(task.network, task.network_config), task.split
                )
            _load(self._reconstruction, tensors, "reconstruction.")
            for name, tail in self._tails.items():
                _load(tail, tensors, f"tails.{name}.")
        except (SafetensorError, ValidationError, ValueError, RuntimeError) as error:
            raise BundleDamagedError(f"{bundle.path}: {CLOUD} does not fit the manifest: {error}") from None
        self._reconstruction.to(self.device).eval()
        self._tails.to(self.device).eval()
        self._added = {added.task.name: self._head(added) for added in bundle.added}

    def with_added(self, added: AddedTask) -> CloudModel:
        """A model that answers one task more, or another one of that name; this one stays as it is.

        Everything else is shared between both. The new part has run once when it is given back. May be called while
        another thread uses this model. Raises BundleDamagedError.
        """
        more = copy.copy(self)
        more._added = self._added | {added.task.name: self._head(added)}
        more.bundle = self.bundle.with_added(added)
        return more

    def without_added(self, name: str) -> CloudModel:
        """A model that answers one added task less; this one stays as it is."""
        less = copy.copy(self)
        less._added = {n: head for n, head in self._added.items() if n != name}
        less.bundle = self.bundle.without_added(name)
        return less

    def _head(self, added: AddedTask) -> AddedHead:
        head = load_head(self.bundle, added, self.bundle.path / TASKS / added.task.name).to(self.device)
        if self.device.type != "cpu":
            config = CodecConfig.model_validate(self.bundle.manifest.codec)
            with torch.inference_mode():
                head(torch.zeros(1, config.latent_channels, *config.grid, device=self.device))
        return head

    @torch.inference_mode()
    def answer(
        self, z: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]]
    ) -> list[dict[str, TaskResult]]:
        """z (B, N, h, w) int32, and for each picture the tasks that it asks for -> one answer a task, by its name.

        A tail runs once, on those pictures of the batch that ask for it. Raises UnknownTaskError.
        """
        for picture in queries:
            for query in picture:
                self.bundle.task(query.name)
        latent = torch.from_numpy(z).to(self.device, torch.float32)
        y_hat = None
        if any(query.name in self._tails for picture in queries for query in picture):
            y_hat = as_feature(self._reconstruction(latent, _grid_of(self._feature)), self._feature)
        answers: list[dict[str, TaskResult]] = [{} for _ in queries]
        for task in self.bundle.tasks:
            name = task.name
            asked = [(i, q) for i, picture in enumerate(queries) for q in picture if q.name == name]
            if not asked:
                continue
            if name in self._added:
                head, given = self._added[name], latent
            else:
                head, given = self._tails[name], y_hat
            rows = given[[i for i, _ in asked]] if len(asked) < len(z) else given
            results = results_of(task.kind, head(rows), task.labels, [query for _, query in asked])
            for (i, _), result in zip(asked, results, strict=True):
                answers[i][name] = result
        return answers

    def warm_up(self) -> None:
        """One picture of zeros through everything, so that the first request does not pay for it."""
        config = CodecConfig.model_validate(self.bundle.manifest.codec)
        z = np.zeros((1, config.latent_channels, *config.grid), np.int32)
        v = np.zeros(self.codec.path.v_size, np.int32)
        streams = [self.codec.encode(v, z[0])]
        queries = [TaskQuery(name=task.name) for task in self.bundle.tasks]
        self.answer(self.codec.decode_batch(streams, *config.grid), [queries])


def load_head(bundle: Bundle, added: AddedTask, folder: Path) -> AddedHead:
    """A task of this bundle, or for it, whose weights lie in `folder`. Raises BundleDamagedError."""
    config = CodecConfig.model_validate(bundle.manifest.codec)
    return AddedHead(added, added.read_weights(folder), config.latent_channels, config.grid)


def _grid_of(feature: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a feature; one that is a vector has a single cell."""
    return (feature[1], feature[2]) if len(feature) == 3 else (1, 1)


def _load(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    module.load_state_dict(own)
