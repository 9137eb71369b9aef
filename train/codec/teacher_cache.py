"""The features and answers of frozen networks, computed once and kept for every step, and for other runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.bundle import Preprocess
from train.codec.sensitivity import answer_gradients
from train.codec.split_networks import Head, SplitNetworks, as_map
from train.data.dataset import Dataset, First, network_input
from train.data.feature_cache import CachedArrays, cached_features, weights_digest
from train.echo import progress_bar
from train.loop.run import sha256_of
from train.networks.load import NetworkSpec
from train.networks.network_folder import WEIGHTS


def network_inputs(specs: Sequence[NetworkSpec], modules: Sequence[nn.Module]) -> dict[str, str]:
    """Digests of the networks' weights, for a run's `inputs`. Raises OSError."""
    digests = {}
    for spec, module in zip(specs, modules, strict=True):
        file = Path(spec.network) / WEIGHTS
        digests[f"the network {spec.network}"] = sha256_of(file) if file.exists() else weights_digest(module)
    return digests


def features_of(
    folder: Path, front: nn.Module, data: Dataset, preprocess: Preprocess, flips: bool
) -> CachedArrays:
    """A frozen front's features (M, C, H', W') float16 of all images, kept in `folder`."""
    front.eval()
    device = _device_of(front)

    @torch.no_grad()
    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.float16]:
        x = network_input(data.images(indices), preprocess, flip).to(device)
        # On a CPU, depthwise convolutions take half the time with the channels last.
        x = x.contiguous(memory_format=torch.channels_last)
        y: NDArray[np.float16] = as_map(front(x)).contiguous().cpu().numpy().astype(np.float16)
        return y

    layers = len(front) if isinstance(front, nn.Sequential) else getattr(front, "code", str(front))
    normalised = {"mean": list(preprocess.mean), "std": list(preprocess.std)}
    key = {"weights_sha256": weights_digest(front), "split": layers, **normalised}
    return cached_features(folder, compute, data, key, flips, progress_bar)


def gradients_of(folder: Path, head: Head, features: CachedArrays, data: Dataset, count: int) -> CachedArrays:
    """`answer_gradients` of the cached features of the first `count` images, kept in `folder`."""
    head.eval()
    device = _device_of(head)

    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.float32]:
        torch.manual_seed(int(indices[0]))
        g: NDArray[np.float32] = answer_gradients(head, features.batch(indices).to(device)).cpu().numpy()
        return g

    key = {"weights_sha256": weights_digest(head), "features_sample_sha256": _sample_digest([features])}
    return cached_features(folder, compute, First(data, count), key, False, progress_bar)


def latents_of(
    folder: Path, model: SplitNetworks, features: Sequence[CachedArrays], data: Dataset, flips: bool
) -> CachedArrays:
    """u (M, N, h, w) float16, what a codec makes of cached features, kept in `folder`."""
    fusion, transform = model.codec.fusion, model.codec.core.transform
    device = _device_of(transform)

    @torch.no_grad()
    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.float16]:
        ys = [one.batch(indices + flip * len(data)).to(device) for one in features]
        u: NDArray[np.float16] = transform(fusion(ys)).cpu().numpy().astype(np.float16)
        return u

    key = {
        "weights_sha256": weights_digest(fusion, transform),
        "features_sample_sha256": _sample_digest(features),
    }
    return cached_features(folder, compute, data, key, flips, progress_bar)


def answers_of(folder: Path, head: Head, features: CachedArrays, data: Dataset, flips: bool) -> CachedArrays:
    """A frozen head's logits (M, K) of cached features, kept in `folder`."""
    head.eval()
    device = _device_of(head)

    @torch.no_grad()
    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.float32]:
        y = features.batch(indices + flip * len(data)).to(device)
        answers: NDArray[np.float32] = head(y).float().cpu().numpy()
        return answers

    key = {"weights_sha256": weights_digest(head), "features_sample_sha256": _sample_digest([features])}
    return cached_features(folder, compute, data, key, flips, progress_bar)


def _sample_digest(features: Sequence[CachedArrays]) -> str:
    sample = np.linspace(0, len(features[0]) - 1, 16).astype(np.int64)
    return hashlib.sha256(b"".join(one.batch(sample).numpy().tobytes() for one in features)).hexdigest()


def _device_of(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


class CachedTeacher:
    """A teacher whose answers (B, K) for a batch are in the cache."""

    def __init__(self, answers: Tensor) -> None:
        self._answers = answers

    def __call__(self, given: Tensor, *, light: bool) -> Tensor:
        return self._answers
