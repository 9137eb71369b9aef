"""The cloud half of a bundle: z -> reconstruction -> tail of every requested task. Knows no bytes and no requests.

A task that was added later has a reconstruction of its own: z -> that -> its tail.

Legend: B images, N latent channels, h x w latent grid.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from cloud.engine.compiled_reader import CompiledReader
from cloud.engine.crew import TORCH_THREADS, Crew, keep_numpy_to_one_thread
from cloud.engine.exact_torch import TorchBackend
from cloud.engine.kinds import POSTPROCESS
from cloud.engine.onnx_tail import OnnxTail
from cloud.networks.networks import as_feature, build_network, feature_shape, split
from cloud.networks.sizes import CodecConfig, common_grid, spatial
from cloud.networks.transforms import (
    FeatureReconstruction,
    FeatureSeparation,
    Scaling,
    base_network,
    interpolated,
)
from shared.bundle import CLOUD, ONNX, TAIL, TASK, TASKS, WEIGHTS, AddedTask, Bundle, Task, tail_file
from shared.codec.latent_codec import LatentCodec
from shared.errors import BundleDamagedError, RequestError, UnknownTaskError
from shared.types import TaskQuery, TaskResult


class AddedBranch(nn.Module):
    """An added task: z (B, N, h, w) float -> the feature of its own network -> the output of that network's tail.

    files: those of its folder, by name. grid: h, w of the bundle. image: rows and columns that its networks see.
    Raises BundleDamagedError, also if weights that load do not make what task.json says. Sizes of what is not ONNX
    are checked on torch's meta device, before they take memory.
    """

    tail: nn.Module

    def __init__(
        self,
        added: AddedTask,
        files: Mapping[str, bytes],
        latent_channels: int,
        grid: tuple[int, int],
        image: tuple[int, int],
    ) -> None:
        super().__init__()
        task = self.task = added.task
        try:
            tensors = load_safetensors(files[WEIGHTS])
            config = CodecConfig.model_validate(added.codec)
            with torch.device("meta"):
                self.reconstruction = FeatureReconstruction(task.feature[0], config)
                self.scaling = Scaling(task.feature[0]) if config.scaled else None
                if task.network != ONNX:
                    front, self.tail = split(
                        build_network(task.network, task.network_config), _number(task.split)
                    )
                    self.eval()
                    feature = feature_shape(front, *image)
                    if feature != task.feature:
                        raise ValueError(f"the feature is {list(feature)}, not {list(task.feature)}")
                    self._check_output(self(torch.zeros(1, latent_channels, *grid)), image)
            _load(self.reconstruction, tensors, "reconstruction.", assign=True)
            if self.scaling:
                _load(self.scaling, tensors, "scaling.", assign=True)
            if task.network == ONNX:
                self.tail = OnnxTail(files[TAIL])
            else:
                _load(self.tail, tensors, "tail.", assign=True)
            self.eval()
            with torch.inference_mode():
                self._check_output(self(torch.zeros(1, latent_channels, *grid)), image)
        except (SafetensorError, ValidationError, ValueError, TypeError, LookupError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # torch lists missing tensors on lines of their own
            which = TAIL if task.network == ONNX else WEIGHTS
            raise BundleDamagedError(f"task {task.name!r}: {which} does not fit {TASK}: {reason}") from None

    def _check_output(self, output: Tensor, image: tuple[int, int]) -> None:
        """Raises ValueError if a task of this kind and these labels cannot output this."""
        POSTPROCESS[self.task.kind].check_output(output.shape[1:], self.task.labels, image)

    def _feature(self, z: Tensor) -> Tensor:
        feature = self.task.feature
        y_hat = self.reconstruction(z, spatial(feature))
        return as_feature(self.scaling.back(y_hat) if self.scaling else y_hat, feature)

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.tail(self._feature(z))
        return output


class Trunk(nn.Module):
    """The bundle's own tasks: z x inverse gain -> reconstruction -> separation -> tails. Raises what torch raises.

    tails: the ONNX models of those whose network is not a reference network, by task.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        config: CodecConfig,
        tensors: dict[str, Tensor],
        tails: Mapping[str, bytes],
    ) -> None:
        super().__init__()
        features = [task.feature for task in tasks]
        self.grid = common_grid(features)
        self.reconstruction = FeatureReconstruction(sum(feature[0] for feature in features), config)
        self.separation = FeatureSeparation(features, config)
        self.features = {task.name: (which, task.feature) for which, task in enumerate(tasks)}
        self.tails = nn.ModuleDict()
        for task in tasks:
            if task.network == ONNX:
                self.tails[task.name] = OnnxTail(tails[task.name])
                continue
            network = build_network(task.network, task.network_config)
            _, self.tails[task.name] = split(network, _number(task.split))
            _load(self.tails[task.name], tensors, f"tails.{task.name}.")
        _load(self.reconstruction, tensors, "reconstruction.")
        _load(self.separation, tensors, "separation.")

    def reconstruct(self, z: Tensor) -> Tensor:
        """z (B, N, h, w) -> the joint feature."""
        y_hat: Tensor = self.reconstruction(z, self.grid)
        return y_hat

    def forward(self, name: str, y_hat: Tensor) -> Tensor:
        """The output of one task."""
        which, feature = self.features[name]
        output: Tensor = self.tails[name](as_feature(self.separation(y_hat, which), feature))
        return output


def _inverse_gains(tensors: dict[str, Tensor], levels: int, channels: int) -> Tensor | None:
    """(L, N), or None for one level. Raises ValueError."""
    log_inverse = tensors.get("gains.log_inverse")
    if levels > 1 and (log_inverse is None or log_inverse.shape != (levels, channels)):
        raise ValueError(f"no inverse gains of {levels} levels by {channels} channels")
    return log_inverse.float() if log_inverse is not None and levels > 1 else None


class CloudModel:
    """A bundle's reconstructions and tails, loaded. Several threads may use it at once. Raises BundleError.

    device: torch's name for it. threads: of torch on a CPU; None leaves torch's own choice.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        keep_numpy_to_one_thread()
        self.bundle = bundle
        self._spent = threading.local()
        try:
            self.device = torch.device(device)
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:  # torch raises either if there is no such device
            raise RequestError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
        backend = None if self.device.type == "cpu" else TorchBackend(device)
        self.crew = Crew((threads or TORCH_THREADS) if self.device.type == "cpu" else 1)
        self.codec = LatentCodec(bundle.entropy(), backend, CompiledReader)
        manifest = bundle.manifest
        try:
            tensors = load_safetensors(bundle.read(CLOUD))
            config = CodecConfig.model_validate(manifest.codec)
            self._log_inverse = _inverse_gains(tensors, len(manifest.qualities), config.latent_channels)
            tails = {t.name: bundle.read(tail_file(t.name)) for t in manifest.tasks if t.network == ONNX}
            self._trunk = Trunk(manifest.tasks, config, tensors, tails)
            self._bases = {name: _base(bundle.task(name), config, tensors) for name in manifest.base}
        except (SafetensorError, ValidationError, ValueError, RuntimeError) as error:
            raise BundleDamagedError(f"{bundle.path}: {CLOUD} does not fit the manifest: {error}") from None
        self._trunk.to(self.device).eval()
        for base in self._bases.values():
            base.to(self.device).eval()
        if self._log_inverse is not None:
            self._log_inverse = self._log_inverse.to(self.device)
        self._added = {added.task.name: self._branch(added) for added in bundle.added}

    def with_added(self, added: AddedTask) -> CloudModel:
        """A model that answers one task more, or another one of that name; this one stays as it is.

        Everything else is shared between both. The new part has run once when it is returned. May be called while
        another thread uses this model. Raises BundleDamagedError.
        """
        more = copy.copy(self)
        more._added = self._added | {added.task.name: self._branch(added)}
        more.bundle = self.bundle.with_added(added)
        return more

    def without_added(self, name: str) -> CloudModel:
        """A model that answers one added task less; this one stays as it is."""
        less = copy.copy(self)
        less._added = {n: branch for n, branch in self._added.items() if n != name}
        less.bundle = self.bundle.without_added(name)
        return less

    def _branch(self, added: AddedTask) -> AddedBranch:
        branch = load_branch(self.bundle, added, self.bundle.path / TASKS / added.task.name).to(self.device)
        if self.device.type != "cpu":
            config = CodecConfig.model_validate(self.bundle.manifest.codec)
            with torch.inference_mode():
                branch(torch.zeros(1, config.latent_channels, *config.grid, device=self.device))
        return branch

    @torch.inference_mode()
    def answer(
        self, z: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]], qualities: Sequence[int] = ()
    ) -> list[dict[str, TaskResult]]:
        """The results of each image of a batch, by task.

        z: (B, N, h, w) int32. queries: what each image is asked. qualities: of the images' streams; not needed if
        the bundle has one level. A tail runs once, on those images of the batch that ask for it. Raises
        UnknownTaskError.
        """
        for image in queries:
            for query in image:
                self.bundle.task(query.name)
        asked = {
            task.name: [(i, q) for i, image in enumerate(queries) for q in image if q.name == task.name]
            for task in self.bundle.tasks
        }
        wanted = {name: [i for i, _ in pairs] for name, pairs in asked.items() if pairs}
        outputs = self.outputs(z, wanted, qualities)
        answers: list[dict[str, TaskResult]] = [{} for _ in queries]
        for name, output in outputs.items():
            results = self._results(name, output, [query for _, query in asked[name]])
            for (i, _), result in zip(asked[name], results, strict=True):
                answers[i][name] = result
        return answers

    def _results(self, name: str, output: Tensor, queries: Sequence[TaskQuery]) -> Sequence[TaskResult]:
        """A task's results from its output, one a query."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(
                self.device
            )  # the forward pass is still running; its time is no part of this
        started, task = time.perf_counter(), self.bundle.task(name)
        results = POSTPROCESS[task.kind].results(output, task.labels, queries, task.options)
        self._spent.s = self.postprocess_s + time.perf_counter() - started
        return results

    @property
    def postprocess_s(self) -> float:
        """Spent so far on making results of outputs, by the calling thread."""
        return float(getattr(self._spent, "s", 0.0))

    @property
    def base_tasks(self) -> frozenset[str]:
        """The tasks that `answer_base` answers."""
        return frozenset(self._bases)

    @torch.inference_mode()
    def answer_base(
        self, v: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]], qualities: Sequence[int] = ()
    ) -> list[dict[str, TaskResult]]:
        """The results of frames of which v (B, V) int32 alone is known, by task; see `answer`.

        v is not scaled by a gain, so the qualities play no part. Raises UnknownTaskError.
        """
        answers: list[dict[str, TaskResult]] = [{} for _ in queries]
        for name in sorted({query.name for image in queries for query in image}):
            if name not in self._bases:
                raise UnknownTaskError(name, sorted(self._bases))
            asked = [(i, query) for i, image in enumerate(queries) for query in image if query.name == name]
            rows = [i for i, _ in asked]
            results = self._results(name, self.base_output(name, v[rows]), [query for _, query in asked])
            for i, result in zip(rows, results, strict=True):
                answers[i][name] = result
        return answers

    @torch.inference_mode()
    def base_output(self, name: str, v: NDArray[np.int32]) -> Tensor:
        """A base task's output (B, K) for v (B, V)."""
        output: Tensor = self._bases[name](torch.from_numpy(v).to(self.device, torch.float32))
        return output

    @torch.inference_mode()
    def outputs(
        self, z: NDArray[np.int32], wanted: Mapping[str, Sequence[int]], qualities: Sequence[int] = ()
    ) -> dict[str, Tensor]:
        """The tails' outputs for the R rows of z that are wanted: vectors (R, K), or maps (R, C, H, W)."""
        latent = torch.from_numpy(z).to(self.device, torch.float32)
        if self._log_inverse is not None:
            at = [self.bundle.position(quality) for quality in qualities]
            latent = latent * interpolated(self._log_inverse, torch.tensor(at, device=self.device))
        own = {name for name in wanted if name not in self._added}
        y_hat = self._trunk.reconstruct(latent) if own else None
        out = {}
        for name, rows in wanted.items():
            given = y_hat if name in own else latent
            assert given is not None
            given = given[list(rows)] if len(rows) < len(z) else given
            out[name] = self._trunk(name, given) if name in own else self._added[name](given)
        return out

    def warm_up(self) -> None:
        """Runs images of zeros through everything, so that the first requests do not pay for it."""
        config = CodecConfig.model_validate(self.bundle.manifest.codec)
        z = np.zeros((1, config.latent_channels, *config.grid), np.int32)
        v = np.zeros(self.codec.path.v_size, np.int32)
        quality = self.bundle.quality(None)
        streams = [self.codec.encode(v, z[0], quality)]
        queries = [TaskQuery(name=task.name) for task in self.bundle.tasks]
        latent = self.codec.decode_batch(streams, *config.grid, [quality])

        def answer(images: Sequence[int]) -> Sequence[int]:
            count = len(images)
            self.answer(np.repeat(latent, count, 0), [queries] * count, [quality] * count)
            return images

        answer([0])
        self.crew.run(answer, range(self.crew.threads))  # in each thread of a batch


def _base(task: Task, config: CodecConfig, tensors: dict[str, Tensor]) -> nn.Module:
    """What answers a task from v. Raises what torch raises, or ValueError."""
    own = {n.removeprefix("base."): t for n, t in tensors.items() if n.startswith("base.")}
    last = max((n for n in own if n.endswith(".bias")), default=None)
    if last is None:
        raise ValueError(f"nothing answers the base task {task.name}")
    network = base_network(config, len(own[last]))
    network.load_state_dict(own)
    return network


def load_branch(bundle: Bundle, added: AddedTask, folder: Path) -> AddedBranch:
    """Loads a task of this bundle, or for it, from its folder. Raises BundleDamagedError."""
    config = CodecConfig.model_validate(bundle.manifest.codec)
    image = bundle.manifest.preprocess.height, bundle.manifest.preprocess.width
    return AddedBranch(added, added.read(folder), config.latent_channels, config.grid, image)


def _number(layer: int | str) -> int:
    """The layer at which a reference network is cut. Raises ValueError."""
    if not isinstance(layer, int):
        raise ValueError(f"a reference network is cut at a number, not at {layer!r}")
    return layer


def _load(module: nn.Module, tensors: dict[str, Tensor], prefix: str, assign: bool = False) -> None:
    """Tensors are stored in 16 bits where these hold all values; no module computes in them."""
    own = {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}
    own = {n: tensor.float() if tensor.dtype == torch.float16 else tensor for n, tensor in own.items()}
    module.load_state_dict(own, assign=assign)
