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
from train.codec.split_networks import Head, as_map
from train.data.dataset import Dataset, network_input
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
        return as_map(front(x)).cpu().numpy().astype(np.float16)

    layers = len(front) if isinstance(front, nn.Sequential) else getattr(front, "code", str(front))
    normalised = {"mean": list(preprocess.mean), "std": list(preprocess.std)}
    key = {"weights_sha256": weights_digest(front), "split": layers, **normalised}
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

    sample = np.linspace(0, len(features) - 1, 16).astype(np.int64)
    digest = hashlib.sha256(features.batch(sample).numpy().tobytes()).hexdigest()
    key = {"weights_sha256": weights_digest(head), "features_sample_sha256": digest}
    return cached_features(folder, compute, data, key, flips, progress_bar)


def _device_of(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


class CachedTeacher:
    """A teacher whose answers (B, K) for a batch are in the cache."""

    def __init__(self, answers: Tensor) -> None:
        self._answers = answers

    def __call__(self, given: Tensor, *, light: bool) -> Tensor:
        return self._answers
