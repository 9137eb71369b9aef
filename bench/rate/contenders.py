"""Contenders: ways to bring an image's tasks to a server, each as bytes spent and what the networks then answer.

Those that need no trained codec are here: the image through an image codec, and each task's feature as numbers. Those
with a trained codec are in `codec_contenders`.

Legend: B images, a task's output (B, K), or a map (B, K or 3, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.rate.feature_codecs import Features, SentFeatures, send_hevc, send_raw
from bench.rate.image_codecs import HEVC_PRESET, ImageCodec
from bench.rate.networks import TaskNetworks
from bench.report.rate_results import Family
from train.codec.split_networks import as_map

Sizes = NDArray[np.number[Any]]
BITS, QPS = (8, 6, 4, 2), (10, 22, 29, 34, 39, 45)
HYBRID = "hybrid (feature as HEVC)"


class Coded(NamedTuple):
    """Some images at one setting: bytes of each (B,) and outputs, by task."""

    setting: str
    sizes: Mapping[str, Sizes]
    outputs: Mapping[str, Tensor]


class Contender(Protocol):
    """name: also names the file that keeps its results. about: what exactly is done, and which bytes count.

    together: what it sends serves all tasks at once.
    """

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def family(self) -> Family: ...

    @property
    def together(self) -> bool: ...

    def cache_key(self) -> dict[str, Any]:
        """Everything that its results depend on, besides images and networks."""

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        """Sends images (B, H, W, 3) at every setting."""


@dataclass
class ImageContender:
    """Sends the image through an image codec; the server runs the whole networks on what comes out."""

    codec: ImageCodec
    networks: TaskNetworks
    family: Family = "image"
    together: bool = True

    @property
    def name(self) -> str:
        return self.codec.name

    @property
    def about(self) -> str:
        return self.codec.about

    def cache_key(self) -> dict[str, Any]:
        return {"about": self.about, "ladder": self.codec.ladder}

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        for step in self.codec.ladder:
            sent = self.codec.send(pixels, step)
            outputs = self.networks.outputs(sent.pixels)
            setting = f"{self.codec.dial} {step}" if self.codec.dial else self.codec.about
            yield Coded(setting, dict.fromkeys(outputs, sent.sizes), outputs)


@dataclass
class FeatureContender:
    """Sends each task's own feature as numbers, coded in one way or another; the server runs the tails."""

    name: str
    about: str
    ladder: Mapping[str, Callable[[Features], SentFeatures]]
    networks: TaskNetworks
    family: Family = "feature"
    together: bool = False

    def cache_key(self) -> dict[str, Any]:
        cuts = {
            name: [network.task.split, network.task.feature]
            for name, network in self.networks.by_task.items()
        }
        return {"about": self.about, "ladder": list(self.ladder), "cuts": cuts}

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        x = self.networks.input(pixels)
        features = {
            name: as_map(network.front(x)).cpu().numpy() for name, network in self.networks.by_task.items()
        }
        for setting, send in self.ladder.items():
            sizes, outputs = {}, {}
            for name, network in self.networks.by_task.items():
                sizes[name], received = send(features[name])
                outputs[name] = network.head(torch.from_numpy(received).to(x.device))
            yield Coded(setting, sizes, outputs)


def hybrid_contender(
    networks: TaskNetworks,
    bits: Sequence[int] = BITS,
    qps: Sequence[int] = QPS,
) -> FeatureContender:
    """Features quantised and coded as HEVC frames."""
    ladder = {f"{n} bits, QP {qp}": partial(send_hevc, bits=n, qp=qp) for n in bits for qp in qps}
    about = (
        "each task's feature, min-max quantised, channels tiled into a grey frame, libx265 intra, "
        f"preset {HEVC_PRESET}, tune psnr; min and max counted, parameter sets not"
    )
    return FeatureContender(HYBRID, about, ladder, networks)


def raw_contender(networks: TaskNetworks) -> FeatureContender:
    """Features as float16 numbers, compressed without loss."""
    return FeatureContender("feature, zstd", "float16, zstd level 19", {"float16": send_raw}, networks)
