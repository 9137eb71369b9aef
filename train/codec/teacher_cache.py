"""What frozen networks give, computed once and kept for every step, and for other runs too."""

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
from train.loop.run import sha256_of
from train.networks.load import NetworkSpec
from train.networks.network_folder import WEIGHTS


def network_inputs(sources: Sequence[NetworkSpec], modules: Sequence[nn.Module]) -> dict[str, str]:
    """What a run starts from: the weights of networks. Raises OSError."""
    digests = {}
    for source, module in zip(sources, modules, strict=True):
        file = Path(source.network) / WEIGHTS
        digests[f"the network {source.network}"] = (
            sha256_of(file) if file.exists() else weights_digest(module)
        )
    return digests


def features_of(
    folder: Path, front: nn.Module, pictures: Dataset, preprocess: Preprocess, flips: bool
) -> CachedArrays:
    """A frozen front's features, (., C, H', W') float16, kept in `folder`."""
    front.eval()
    place = next((parameter.device for parameter in front.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.float16]:
        x = network_input(pictures.images(indices), preprocess, flip).to(place)
        return as_map(front(x)).cpu().numpy().astype(np.float16)

    layers = len(front) if isinstance(front, nn.Sequential) else getattr(front, "code", str(front))
    normalised = {"mean": list(preprocess.mean), "std": list(preprocess.std)}
    of = {"weights_sha256": weights_digest(front), "split": layers, **normalised}
    return cached_features(folder, compute, pictures, of, flips)


def answers_of(
    folder: Path, head: Head, features: CachedArrays, pictures: Dataset, flips: bool
) -> CachedArrays:
    """A frozen head's logits (., K) of features that are kept, kept in `folder` themselves."""
    head.eval()
    place = next((parameter.device for parameter in head.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def compute(indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.float32]:
        y = features.batch(indices + flip * len(pictures)).to(place)
        return head(y).float().cpu().numpy()

    sample = np.linspace(0, len(features) - 1, 16).astype(np.int64)
    given = hashlib.sha256(features.batch(sample).numpy().tobytes()).hexdigest()
    of = {"weights_sha256": weights_digest(head), "features_sample_sha256": given}
    return cached_features(folder, compute, pictures, of, flips)


class Known:
    """A teacher whose answers (B, K) for this batch are known."""

    def __init__(self, answers: Tensor) -> None:
        self._answers = answers

    def __call__(self, given: Tensor, *, light: bool) -> Tensor:
        return self._answers
