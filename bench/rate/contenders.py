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

from bench.codecs.feature_codecs import Features, SentFeatures, send_hevc, send_raw, send_vvc
from bench.codecs.hevc import HEVC_PRESET
from bench.codecs.image_codecs import ImageCodec
from bench.codecs.vvc import VVC_PRESET, vvc_missing
from bench.networks import TaskNetworks
from bench.report.rate_results import Family
from train.codec.split_networks import as_map

Sizes = NDArray[np.number[Any]]
# Fewer bits give the same curve, or a worse one: docs/LOG.md.
BITS, QPS = 8, (10, 22, 27, 32, 35, 37, 39, 41, 43, 45, 47, 49, 51)
VVC_QPS = (24, 32, 37, 41, 44, 47, 49, 51, 54)
HYBRID, HYBRID_VVC = "hybrid (feature as HEVC)", "hybrid (feature as VVC)"
# Other ways to count, as they stand behind a contender's name.
SETS_SENT, SETS_AGREED = "parameter sets sent", "parameter sets agreed"


class Coded(NamedTuple):
    """Some images at one setting: bytes of each (B,) and outputs, by task; a setting may lack tasks.

    counts: other ways to count the same bytes, by name and task.
    """

    setting: str
    sizes: Mapping[str, Sizes]
    outputs: Mapping[str, Tensor]
    counts: Mapping[str, Mapping[str, Sizes]] = {}


class Contender(Protocol):
    """name: also names the file that keeps its results. about: what exactly is done, and which bytes count.

    together: what it sends serves all tasks at once. shared: groups of tasks for which it sends one and the same thing,
    where it sends each task its own. missing: why it cannot be measured here, empty if it can.
    """

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def family(self) -> Family: ...

    @property
    def together(self) -> bool: ...

    @property
    def shared(self) -> tuple[tuple[str, ...], ...]: ...

    @property
    def missing(self) -> str: ...

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
    shared: tuple[tuple[str, ...], ...] = ()

    @property
    def missing(self) -> str:
        return self.codec.missing()

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
            counts = {} if sent.agreed is None else {SETS_AGREED: dict.fromkeys(outputs, sent.agreed)}
            yield Coded(setting, dict.fromkeys(outputs, sent.sizes), outputs, counts)


@dataclass
class FeatureContender:
    """Sends each task's own feature as numbers, coded in one way or another; the server runs the tails.

    A feature that several tasks share is computed and coded once. Its bytes count for each of them, and `shared` says
    that they may be counted once.
    """

    name: str
    about: str
    ladder: Mapping[str, Callable[[Features], SentFeatures]]
    networks: TaskNetworks
    missing: str = ""
    family: Family = "feature"
    together: bool = False

    @property
    def shared(self) -> tuple[tuple[str, ...], ...]:
        return self.networks.same_fronts

    def cache_key(self) -> dict[str, Any]:
        cuts = {
            name: [network.task.split, network.task.feature]
            for name, network in self.networks.by_task.items()
        }
        return {"about": self.about, "ladder": list(self.ladder), "cuts": cuts, "shared": self.shared}

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        x, by_task = self.networks.input(pixels), self.networks.by_task
        features = {tasks: as_map(by_task[tasks[0]].front(x)).cpu().numpy() for tasks in self.shared}
        for setting, send in self.ladder.items():
            sizes, alone, outputs = {}, {}, {}
            for tasks, feature in features.items():
                sent = send(feature)
                received = torch.from_numpy(sent.features).to(x.device)
                for name in tasks:
                    sizes[name], outputs[name] = sent.sizes, by_task[name].head(received)
                    if sent.alone is not None:
                        alone[name] = sent.alone
            yield Coded(setting, sizes, outputs, {SETS_SENT: alone} if alone else {})


_HYBRID = (
    f"each task's feature, quantised to {BITS} bits between min and max (float16 each, counted), channels tiled into a "
    "grey frame, {codec}, constant QP as coded; parameter sets not counted"
)


def hybrid_contender(networks: TaskNetworks, qps: Sequence[int] = QPS) -> FeatureContender:
    """Features quantised and coded as HEVC frames."""
    about = _HYBRID.format(codec=f"libx265 intra, preset {HEVC_PRESET}, tune psnr")
    return FeatureContender(HYBRID, about, _ladder(send_hevc, qps), networks)


def hybrid_vvc_contender(networks: TaskNetworks, qps: Sequence[int] = VVC_QPS) -> FeatureContender:
    """Features quantised and coded as VVC frames."""
    about = _HYBRID.format(codec=f"libvvenc intra, preset {VVC_PRESET}")
    return FeatureContender(HYBRID_VVC, about, _ladder(send_vvc, qps), networks, vvc_missing())


def _ladder(
    send: Callable[..., SentFeatures],
    qps: Sequence[int],
) -> dict[str, Callable[[Features], SentFeatures]]:
    return {f"QP {qp}": partial(send, bits=BITS, qp=qp) for qp in qps}


def raw_contender(networks: TaskNetworks) -> FeatureContender:
    """Features as float16 numbers, compressed without loss."""
    return FeatureContender("feature, zstd", "float16, zstd level 19", {"float16": send_raw}, networks)
