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
from shared.codec.frame import PACKET_BYTES, Frame, FrameType, Packet
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.encoder import Encoder, count_frame
from shared.errors import CorruptPayloadError, DataError
from shared.image import to_input
from shared.kinds.classification import Classification, ClassificationOptions
from shared.types import Frozen
from train.codec.evaluate_codec import BASE
from train.data.dataset import Dataset, in_order
from train.kinds import TRAINING_KINDS
from train.loop.scores import by_task
from train.loop.scoring import Scoring, Target, label_target, network_target
from train.networks.network_folder import load_network

# Scores by task and name, as `train.loop.scores.by_task` gives them.
Figures = dict[str, dict[str, float]]


class Rate(Frozen):
    """Bytes and scores at one quality.

    bytes: of whole bitstreams; v, z: means of their parts; base: of bitstreams that hold v alone, for the tasks that it
        answers, which are named with "-base".
    flips: for each task with classes, how many images are right at the next lower quality and wrong at this one, and
        the reverse.
    """

    bytes_mean: float
    bytes_median: float
    bytes_max: int
    bytes_v_mean: float
    bytes_z_mean: float
    bytes_base_mean: float | None = None
    decoded_exactly: int
    tasks: Figures
    flips: dict[str, tuple[int, int]] = Field(default_factory=dict)


class Evaluation(Frozen):
    """Results over `pictures` images; rates by quality."""

    pictures: int
    uncompressed: Figures
    rates: dict[int, Rate]


def bitstreams(encoder: Encoder, u: NDArray[np.float32], quality: int) -> tuple[list[Packet], list[Latent]]:
    """u (B, N, h, w) -> the images' bitstreams at a quality, and what they say."""
    v, z = encoder.latents(u, encoder.bundle.position(quality))
    grid = z.shape[2], z.shape[3]
    other = None if list(grid) == list(encoder.bundle.manifest.codec.get("grid", grid)) else grid
    latents = [Latent(one_v, one_z, grid, quality) for one_v, one_z in zip(v, z, strict=True)]
    payloads = (encoder.frames.encode(latent) for latent in latents)
    frames = (Frame(FrameType.I, quality, True, True, payload) for payload in payloads)
    return [Packet(encoder.bundle.fingerprint, frame, other) for frame in frames], latents


def decoded(codec: LatentCodec, packets: Sequence[Packet], grid: tuple[int, int]) -> list[Latent]:
    """What bitstreams of one grid say. Raises CorruptPayloadError."""
    coded = [Coded(packet.frame.payload, grid, packet.frame.quality) for packet in packets]
    out = []
    for latent in FrameCodec(codec).decode(coded):
        if isinstance(latent, CorruptPayloadError):
            raise latent
        out.append(latent)
    return out


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
        self._networks = {
            task: uncompressed_network(bundle, task, folder, tasks) for task, folder in networks.items()
        }
        self._temperatures = {
            task.name: ClassificationOptions.model_validate(task.options).temperature
            for task in bundle.tasks
            if task.kind == Classification.name
        }
        self._scoring = Scoring()
        self._sizes: dict[int, list[tuple[int, int, int]]] = {quality: [] for quality in qualities}
        self._base_sizes: dict[int, list[int]] = {}
        self._exact = dict.fromkeys(qualities, 0)
        self._right: dict[str, dict[int, list[NDArray[np.bool_]]]] = {}

    @torch.no_grad()
    def add(self, x: NDArray[np.float32], data: Mapping[str, Dataset], indices: NDArray[np.int64]) -> None:
        """Measures a batch of images, x (B, 3, H, W), at every quality."""
        targets = {task: self._targets(task, one, indices, x) for task, one in data.items()}
        u = self._encoder.features(x)
        for quality in self._qualities:
            made, latents = bitstreams(self._encoder, u, quality)
            received = []
            for packet, latent in zip(made, latents, strict=True):
                packed = packet.pack()
                received.append(Packet.unpack(packed))
                size = count_frame(packet.frame, latent, len(packed), self._encoder.frames, self._bundle)
                self._sizes[quality].append((size.total, size.b_v, size.b_z))
            back = decoded(self._model.codec, received, latents[0].grid)
            self._exact[quality] += sum(
                one.digest == two.digest for one, two in zip(back, latents, strict=True)
            )
            levels = [quality] * len(indices)
            z = np.stack([latent.z for latent in back if latent.z is not None])
            outputs = self._model.outputs(z, {task: range(len(indices)) for task in data}, levels)
            for task, out in outputs.items():
                self._count(task, quality, out / self._temperatures.get(task, 1.0), targets[task])
            self._count_base(quality, back, targets)

    def _count_base(
        self, quality: int, latents: Sequence[Latent], targets: Mapping[str, list[Target]]
    ) -> None:
        """Answers what v alone can, as the task's name with BASE."""
        v = np.stack([latent.v for latent in latents])
        for task in sorted(self._model.base_tasks & targets.keys()):
            out = self._model.base_output(task, v) / self._temperatures.get(task, 1.0)
            for target in targets[task]:
                self._scoring.count(task + BASE, quality, out, target)
            self._base_sizes.setdefault(quality, []).extend(
                len(self._encoder.frames.encode(latent.base)) + PACKET_BYTES for latent in latents
            )

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
            bytes_base_mean=float(np.mean(base)) if (base := self._base_sizes.get(quality)) else None,
            decoded_exactly=self._exact[quality],
            tasks=tasks,
            flips={} if lowest else {task: flips(hits, quality) for task, hits in self._right.items()},
        )


def uncompressed_network(bundle: Bundle, task: str, folder: Path, tasks: Sequence[str]) -> nn.Module:
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
