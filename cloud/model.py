"""The cloud half of a bundle: z -> reconstruction -> tail of every task asked for. Knows no bytes and no requests.

Legend: B pictures, N latent channels, h x w latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from cloud.exact_torch import TorchBackend
from cloud.models.codec import CodecConfig, FeatureReconstruction
from cloud.models.networks import as_feature, build_network, logits, split
from shared.bundle import CLOUD, Bundle
from shared.codec.codec import LatentCodec
from shared.errors import BundleDamagedError, RequestError
from shared.types import ClassificationResult, ClassScore, TaskQuery


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
        self._tasks = {task.name: task for task in manifest.tasks}
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

    @torch.inference_mode()
    def answer(
        self, z: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]]
    ) -> list[dict[str, ClassificationResult]]:
        """z (B, N, h, w) int32, and for each picture the tasks that it asks for -> one answer a task, by its name.

        A tail runs once, on those pictures of the batch that ask for it. Raises UnknownTaskError.
        """
        for picture in queries:
            for query in picture:
                self.bundle.task(query.name)
        size = (self._feature[1], self._feature[2]) if len(self._feature) == 3 else (1, 1)
        y_hat = self._reconstruction(torch.from_numpy(z).to(self.device, torch.float32), size)
        y_hat = as_feature(y_hat, self._feature)
        answers: list[dict[str, ClassificationResult]] = [{} for _ in queries]
        for name, tail in self._tails.items():
            asked = [(i, q) for i, picture in enumerate(queries) for q in picture if q.name == name]
            if not asked:
                continue
            rows = y_hat[[i for i, _ in asked]] if len(asked) < len(z) else y_hat
            scores = torch.softmax(logits(tail, rows), 1).cpu()
            for (i, query), row in zip(asked, scores, strict=True):
                answers[i][name] = _best(row, query.top_k, self._tasks[name].labels)
        return answers

    def warm_up(self) -> None:
        """One picture of zeros through everything, so that the first request does not pay for it."""
        config = CodecConfig.model_validate(self.bundle.manifest.codec)
        z = np.zeros((1, config.latent_channels, *config.grid), np.int32)
        v = np.zeros(self.codec.path.v_size, np.int32)
        streams = [self.codec.encode(v, z[0])]
        self.answer(
            self.codec.decode_batch(streams, *config.grid), [[TaskQuery(name=n) for n in self._tasks]]
        )


def _best(scores: Tensor, top_k: int, labels: tuple[str, ...]) -> ClassificationResult:
    values, indices = scores.topk(min(top_k, len(labels)))
    return ClassificationResult(
        top=tuple(
            ClassScore(label=labels[i], index=i, score=min(1.0, max(0.0, v)))
            for v, i in zip(values.tolist(), indices.tolist(), strict=True)
        )
    )


def _load(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    module.load_state_dict(own)
