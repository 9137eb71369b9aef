"""What a bundle does on pictures that nobody trained on, measured on the bytes that it really makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from rich.progress import track

from cloud.engine.bundle_model import CloudModel
from cloud.networks.networks import whole_output
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.encoder import Encoder
from shared.errors import DataError
from shared.image import to_input
from shared.types import Frozen
from train.data.dataset import Dataset, in_order
from train.loop.scoring import Tally, Target, answers, labelled
from train.networks.network_folder import load_network

# By task: those of train.loop.metrics against labels, and with AGREEMENT before them against the network.
Figures = dict[str, dict[str, float]]


class Rate(Frozen):
    """What one quality costs and gives. bytes: of whole bitstreams; v, z: of their parts, means.

    flips: by task with classes, how many pictures are right at the next lower quality and wrong at this one, and the
    reverse.
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
    """Over `pictures` pictures; rates by quality."""

    pictures: int
    uncompressed: Figures
    rates: dict[int, Rate]


def bitstreams(
    encoder: Encoder, u: NDArray[np.float32], quality: int
) -> tuple[list[Bitstream], NDArray[np.int32]]:
    """u (B, N, h, w) -> the pictures' bitstreams at a quality, and the z (B, N, h, w) in them."""
    v, z = encoder.latents(u, encoder.bundle.position(quality))
    coded = (encoder.codec.encode(one_v, one_z, quality) for one_v, one_z in zip(v, z, strict=True))
    return [Bitstream(encoder.bundle.fingerprint, quality, *z.shape[2:], b_v, b_z) for b_v, b_z in coded], z


def main_qualities(bundle: Bundle) -> list[int]:
    """The bundle's levels and its default, ascending."""
    return sorted({*bundle.levels.qualities, bundle.quality(None)})


@torch.no_grad()
def evaluate_bundle(
    bundle: Bundle,
    views: Mapping[str, Dataset],
    networks: Mapping[str, Path],
    qualities: Sequence[int] | None = None,
    batch: int = 32,
) -> Evaluation:
    """Encode, pack, unpack, decode and answer every picture, beside the uncompressed networks.

    views: of the same pictures, one a task that is to be measured, with labels or, where there is a network, without.
    networks: trained ones by task, for the figures without compression. qualities: by default those of
    `main_qualities`. Raises IsthmusError.
    """
    encoder, model = Encoder(bundle, threads=2), CloudModel(bundle)
    qualities = qualities or main_qualities(bundle)
    tally = Tally()
    whole = {}
    for task, folder in networks.items():
        whole[task], card = load_network(folder)
        if task not in views:
            raise DataError(f"{folder}: the bundle has no task {task!r} that it could be compared with")
        if card.task != bundle.task(task).kind:
            raise DataError(
                f"{folder} is a network for {card.task}; task {task!r} is {bundle.task(task).kind}"
            )
    sizes: dict[int, list[tuple[int, int, int]]] = {quality: [] for quality in qualities}
    exact = dict.fromkeys(qualities, 0)
    right: dict[str, dict[int, list[NDArray[np.bool_]]]] = {}
    first = next(iter(views.values()))
    for indices in track(list(in_order(len(first), batch)), "evaluating"):
        x = to_input(first.images(indices), bundle.manifest.preprocess)
        targets: dict[str, list[Target]] = {task: [] for task in views}
        for task, view in views.items():
            kind = bundle.task(task).kind
            if labelled(view):
                truth = view.labels(indices)
                targets[task].append(Target(kind, truth, len(view.names), True))
            if task in whole:
                plain = whole_output(whole[task], torch.from_numpy(x), kind)
                for target in targets[task]:
                    tally.count(f"{task}/", "uncompressed", plain, target)
                targets[task].append(Target(kind, answers(plain, kind), plain.shape[1], False))
        u = encoder.features(x)
        for quality in qualities:
            made, z = bitstreams(encoder, u, quality)
            streams = []
            for data in (stream.pack() for stream in made):
                stream = Bitstream.unpack(data)
                sizes[quality].append((len(data), len(stream.b_v), len(stream.b_z)))
                streams.append((stream.b_v, stream.b_z))
            levels = [quality] * len(indices)
            decoded = model.codec.decode_batch(streams, *z.shape[2:], levels)
            exact[quality] += int((decoded == z).all(axis=(1, 2, 3)).sum())
            outputs = model.outputs(decoded, {task: range(len(indices)) for task in views}, levels)
            for task, out in outputs.items():
                for target in targets[task]:
                    tally.count(f"{task}/", str(quality), out, target)
                    if target.task == "classification" and target.labelled:
                        hits = answers(out, target.task) == target.truth
                        right.setdefault(task, {}).setdefault(quality, []).append(hits)
    figures = tally.figures()

    def at(where: str) -> Figures:
        found: Figures = {}
        for key, value in figures.items():
            task, name = key.removesuffix(f"@{where}").split("/")
            if key.endswith(f"@{where}"):
                found.setdefault(task, {})[name] = value
        return found

    return Evaluation(
        pictures=len(first),
        uncompressed=at("uncompressed"),
        rates={
            quality: Rate(
                bytes_mean=float(np.mean([total for total, _, _ in sizes[quality]])),
                bytes_median=float(np.median([total for total, _, _ in sizes[quality]])),
                bytes_max=max(total for total, _, _ in sizes[quality]),
                bytes_v_mean=float(np.mean([b_v for _, b_v, _ in sizes[quality]])),
                bytes_z_mean=float(np.mean([b_z for _, _, b_z in sizes[quality]])),
                decoded_exactly=exact[quality],
                tasks=at(str(quality)),
                flips={
                    task: flips(hits, quality) for task, hits in right.items() if quality > min(qualities)
                },
            )
            for quality in qualities
        },
    )


def flips(right: Mapping[int, Sequence[NDArray[np.bool_]]], quality: int) -> tuple[int, int]:
    """Pictures that are right at the next lower quality and wrong at `quality`, and the reverse. right: by quality, of
    the same pictures in the same order."""
    below = np.concatenate(right[max(other for other in right if other < quality)])
    here = np.concatenate(right[quality])
    return int((below & ~here).sum()), int((here & ~below).sum())
