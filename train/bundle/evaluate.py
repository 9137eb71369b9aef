"""Measures a bundle on images that nobody trained on, by the bytes that it really makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from rich.progress import track
from torch import nn

from cloud.engine.bundle_model import CloudModel
from cloud.networks.networks import whole_output
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.encoder import Encoder
from shared.errors import DataError
from shared.image import to_input
from shared.types import Frozen
from train.data.dataset import Dataset, in_order
from train.kinds import TRAINING_KINDS
from train.loop.scores import by_task
from train.loop.scoring import Scoring, Target, label_target, network_target
from train.networks.network_folder import load_network

# Scores by task and name, as `train.loop.scores.by_task` gives them.
Figures = dict[str, dict[str, float]]


class Rate(Frozen):
    """Bytes and scores at one quality.

    bytes: of whole bitstreams; v, z: means of their parts.
    flips: for each task with classes, how many images are right at the next lower quality and wrong at this one, and
        the reverse.
    """

    bytes_mean: float
    bytes_median: float
    bytes_max: int
    bytes_v_mean: float
    bytes_z_mean: float
    decoded_exactly: int
    tasks: Figures
    flips: dict[str, tuple[int, int]] = Field(default_factory=dict)


class Evaluation(Frozen):
    """Results over `pictures` images; rates by quality."""

    pictures: int
    uncompressed: Figures
    rates: dict[int, Rate]


def bitstreams(
    encoder: Encoder, u: NDArray[np.float32], quality: int
) -> tuple[list[Bitstream], NDArray[np.int32]]:
    """u (B, N, h, w) -> the images' bitstreams at a quality, and the z (B, N, h, w) in them."""
    v, z = encoder.latents(u, encoder.bundle.position(quality))
    coded = (encoder.codec.encode(one_v, one_z, quality) for one_v, one_z in zip(v, z, strict=True))
    h, w = z.shape[2:]
    return [Bitstream(encoder.bundle.fingerprint, quality, h, w, b_v, b_z) for b_v, b_z in coded], z


def main_qualities(bundle: Bundle) -> list[int]:
    """The bundle's levels and its default, ascending."""
    return sorted({*bundle.levels.qualities, bundle.quality(None)})


def evaluate_bundle(
    bundle: Bundle,
    data: Mapping[str, Dataset],
    networks: Mapping[str, Path],
    qualities: Sequence[int] | None = None,
    batch: int = 32,
) -> Evaluation:
    """Encodes, packs, unpacks, decodes and answers every image, and compares with labels and uncompressed networks.

    data: the same images once for each task to measure, with labels, or without where there is a network.
    networks: folders of trained networks, by task.
    qualities: by default those of `main_qualities`.

    Raises IsthmusError.
    """
    measuring = _Measuring(bundle, networks, qualities or main_qualities(bundle), list(data))
    first = next(iter(data.values()))
    for indices in track(list(in_order(len(first), batch)), "evaluating"):
        measuring.add(to_input(first.images(indices), bundle.manifest.preprocess), data, indices)
    return measuring.evaluation(len(first))


class _Measuring:
    """Counts batch by batch, then sums up."""

    def __init__(
        self,
        bundle: Bundle,
        networks: Mapping[str, Path],
        qualities: Sequence[int],
        tasks: Sequence[str],
    ) -> None:
        self._bundle, self._qualities = bundle, qualities
        self._encoder, self._model = Encoder(bundle, threads=2), CloudModel(bundle)
        self._networks = {task: _network(bundle, task, folder, tasks) for task, folder in networks.items()}
        self._scoring = Scoring()
        self._sizes: dict[int, list[tuple[int, int, int]]] = {quality: [] for quality in qualities}
        self._exact = dict.fromkeys(qualities, 0)
        self._right: dict[str, dict[int, list[NDArray[np.bool_]]]] = {}

    @torch.no_grad()
    def add(self, x: NDArray[np.float32], data: Mapping[str, Dataset], indices: NDArray[np.int64]) -> None:
        """Measures a batch of images, x (B, 3, H, W), at every quality."""
        targets = {task: self._targets(task, one, indices, x) for task, one in data.items()}
        u = self._encoder.features(x)
        for quality in self._qualities:
            made, z = bitstreams(self._encoder, u, quality)
            streams = []
            for packed in (stream.pack() for stream in made):
                stream = Bitstream.unpack(packed)
                self._sizes[quality].append((len(packed), len(stream.b_v), len(stream.b_z)))
                streams.append((stream.b_v, stream.b_z))
            levels = [quality] * len(indices)
            h, w = z.shape[2:]
            decoded = self._model.codec.decode_batch(streams, h, w, levels)
            self._exact[quality] += int((decoded == z).all(axis=(1, 2, 3)).sum())
            outputs = self._model.outputs(decoded, {task: range(len(indices)) for task in data}, levels)
            for task, out in outputs.items():
                self._count(task, quality, out, targets[task])

    def _targets(
        self, task: str, data: Dataset, indices: NDArray[np.int64], x: NDArray[np.float32]
    ) -> list[Target]:
        """Everything that a task's answers are compared with; counts the uncompressed network's on the way."""
        kind = self._bundle.task(task).kind
        labels = label_target(kind, data, indices)
        targets = [labels] if labels else []
        if task in self._networks:
            plain = whole_output(self._networks[task], torch.from_numpy(x), kind)
            for target in targets:
                self._scoring.count(task, "uncompressed", plain, target)
            targets.append(network_target(kind, plain))
        return targets

    def _count(self, task: str, quality: int, out: torch.Tensor, targets: Sequence[Target]) -> None:
        for target in targets:
            self._scoring.count(task, quality, out, target)
            known = TRAINING_KINDS[target.kind]
            hits = known.right(out, target.labels) if target.against == "labels" else None
            if hits is not None:
                self._right.setdefault(task, {}).setdefault(quality, []).append(hits)

    def evaluation(self, images: int) -> Evaluation:
        scores = self._scoring.scores()
        return Evaluation(
            pictures=images,
            uncompressed=by_task(scores, "uncompressed"),
            rates={quality: self._rate(quality, by_task(scores, quality)) for quality in self._qualities},
        )

    def _rate(self, quality: int, tasks: Figures) -> Rate:
        sizes, v, z = zip(*self._sizes[quality], strict=True)
        lowest = quality == min(self._qualities)
        return Rate(
            bytes_mean=float(np.mean(sizes)),
            bytes_median=float(np.median(sizes)),
            bytes_max=max(sizes),
            bytes_v_mean=float(np.mean(v)),
            bytes_z_mean=float(np.mean(z)),
            decoded_exactly=self._exact[quality],
            tasks=tasks,
            flips={} if lowest else {task: flips(hits, quality) for task, hits in self._right.items()},
        )


def _network(bundle: Bundle, task: str, folder: Path, tasks: Sequence[str]) -> nn.Module:
    """An uncompressed network for one of `tasks`. Raises DataError."""
    network, card = load_network(folder)
    if task not in tasks:
        raise DataError(f"{folder}: the bundle has no task {task!r} to compare it with")
    kind = bundle.task(task).kind
    if card.task != kind:
        raise DataError(f"{folder} is a network for {card.task}; task {task!r} is {kind}")
    return network


def flips(right: Mapping[int, Sequence[NDArray[np.bool_]]], quality: int) -> tuple[int, int]:
    """Numbers of images that are right at the next lower quality and wrong at `quality`, and the reverse.

    right: by quality, for the same images in the same order.
    """
    below = np.concatenate(right[max(other for other in right if other < quality)])
    here = np.concatenate(right[quality])
    return int((below & ~here).sum()), int((here & ~below).sum())
