"""`isthmus bench privacy`: what of the scene the bytes give away to somebody who learns to draw it from them.

    BUNDLE and two sets of images -> u once, z at each quality -> attackers learn from pairs of the first set
        -> draw the second set -> PSNR, SSIM, and what networks still recognise in the drawings -> report

"u" is the latent before it is rounded: all that the edge's network keeps. The mean image is what can be drawn without
any bytes, and the original at the drawings' size is what a perfect attacker would draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from bench.networks import TaskNetworks
from bench.privacy.attackers import Attacker, ConvolutionalAttacker, LinearAttacker, MeanAttacker
from bench.privacy.privacy_report import Drawing, Privacy, sections, write_privacy
from bench.privacy.similarity import psnr, ssim
from bench.report.metrics import METRICS
from bench.report.report import About
from bench.report.sections import Section
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import DataError
from shared.image import to_input
from train.bundle.evaluate import bitstreams
from train.data.dataset import Dataset, in_order
from train.data.open_dataset import open_datasets
from train.kinds import TRAINING_KINDS
from train.loop.distributed import training_device
from train.loop.scoring import network_target

BATCH = 32
SHOWN = 6  # images in the sheet


@dataclass(frozen=True)
class PrivacyPlan:
    """What is measured.

    data: the attackers' own images. test: images that they have not seen. networks: folders of uncompressed networks,
    one for each task, or none: then nothing is recognised. side: of the drawings, in pixels. steps: of the
    convolutional attacker's training; 0 leaves it out.
    """

    bundle: Path
    data: str
    test: str
    networks: Sequence[str]
    out: Path
    qualities: Sequence[int] = ()
    count: int | None = None
    test_count: int | None = None
    side: int = 64
    steps: int = 1500


@dataclass(frozen=True)
class _Pairs:
    """Images of a set, with what is known of each.

    pixels: (M, H, W, 3) as the network takes them. images: (M, 3, S, S) in 0..1. latents: (M, N, h, w), by source.
    bytes: mean size of a bitstream, by source; "u" has none.
    """

    pixels: NDArray[np.uint8]
    images: Tensor
    latents: dict[str, Tensor]
    bytes: dict[str, float]


def bench_privacy(plan: PrivacyPlan, command: str) -> list[Section]:
    """Measures, and writes the report to `plan.out`. Raises IsthmusError."""
    bundle = Bundle.open(plan.bundle)
    networks = TaskNetworks(bundle, plan.networks, training_device("cpu")) if plan.networks else None
    encoder = Encoder(bundle, threads=torch.get_num_threads())
    _check_side(plan.side, encoder)
    qualities = sorted({*plan.qualities} or {*bundle.levels.qualities, bundle.quality(None)})
    known = _pairs(encoder, _open(plan.data, bundle, plan.count), qualities, plan.side)
    unseen = _pairs(encoder, _open(plan.test, bundle, plan.test_count), qualities, plan.side)
    drawings, sheet = [], [unseen.images[:SHOWN]]
    for name, source, drawn in _drawn(plan, known, unseen):
        scores = _recognised(networks, unseen.pixels, drawn) if networks else {}
        drawings.append(_scored(name, source, unseen, drawn, scores))
        sheet.append(drawn[:SHOWN])
    privacy = Privacy(
        bundle=bundle.manifest.name,
        fingerprint=bundle.fingerprint.hex(),
        learnt_from=len(known.images),
        side=plan.side,
        kinds=networks.kinds if networks else {},
        drawings=tuple(drawings),
        about=About.now(command, len(unseen.images)),
    )
    write_privacy(plan.out, privacy, torch.stack(sheet).numpy())
    return sections(privacy)


def _open(data: str, bundle: Bundle, count: int | None) -> Dataset:
    """The images of a set, without labels. Raises DataError."""
    kind = bundle.tasks[0].kind
    (images,) = open_datasets(data, [kind], 0, count, [False], preprocess=bundle.manifest.preprocess)
    return images


def _pairs(encoder: Encoder, data: Dataset, qualities: Sequence[int], side: int) -> _Pairs:
    pixels, images = [], []
    latents: dict[str, list[NDArray[np.float32]]] = {}
    sizes: dict[str, list[int]] = {}
    for indices in track(list(in_order(len(data), BATCH)), "latents"):
        pixels.append(data.images(indices))
        x = to_input(pixels[-1], encoder.bundle.manifest.preprocess)
        u = encoder.features(x)
        images.append(_shrunk(pixels[-1], side))
        latents.setdefault("u", []).append(u)
        for quality in qualities:
            made, found = bitstreams(encoder, u, quality)
            name = f"quality {quality}"
            z = [latent.z for latent in found if latent.z is not None]
            latents.setdefault(name, []).append(np.stack(z).astype(np.float32))
            sizes.setdefault(name, []).extend(len(packet.pack()) for packet in made)
    return _Pairs(
        np.concatenate(pixels),
        torch.cat(images),
        {name: torch.from_numpy(np.concatenate(parts)) for name, parts in latents.items()},
        {name: float(np.mean(one)) for name, one in sizes.items()},
    )


def _check_side(side: int, encoder: Encoder) -> None:
    """Raises DataError where a drawing's side does not suit the latent."""
    taken = encoder.bundle.manifest.preprocess
    h, w = encoder.features(np.zeros((1, 3, taken.height, taken.width), np.float32)).shape[2:]
    if h != w or side % h or (side // h) & (side // h - 1):
        raise DataError(
            f"a drawing of {side} pixels does not suit a latent of {h} x {w}: its side is {h} times a power of two, "
            "and the latent is square",
            setting="side",
        )


def _shrunk(pixels: NDArray[np.uint8], side: int) -> Tensor:
    """(B, H, W, 3) -> (B, 3, S, S) in 0..1, each pixel a mean of those that it covers."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return functional.interpolate(x, (side, side), mode="area")


def _drawn(plan: PrivacyPlan, known: _Pairs, unseen: _Pairs) -> Iterator[tuple[str, str, Tensor]]:
    """What each attacker draws of the unseen images: attacker, source, images (M, 3, S, S)."""
    yield "original, smaller", "", unseen.images
    for source, latents in known.latents.items():
        attackers: list[Attacker] = [LinearAttacker()]
        if source == "u":
            attackers.insert(0, MeanAttacker())
        if plan.steps:
            attackers.append(ConvolutionalAttacker(plan.steps))
        for attacker in attackers:
            attacker.fit(latents, known.images)
            where = "" if isinstance(attacker, MeanAttacker) else source
            yield attacker.name, where, attacker.draw(unseen.latents[source])


@torch.inference_mode()
def _recognised(networks: TaskNetworks, pixels: NDArray[np.uint8], drawn: Tensor) -> dict[str, float]:
    """The headline metric of each task's network on the drawings; its answers on the originals are the truth."""
    metrics = {}
    height, width = pixels.shape[1:3]
    for start in range(0, len(pixels), BATCH):
        part = slice(start, start + BATCH)
        plain = networks.outputs(pixels[part])
        larger = functional.interpolate(drawn[part], (height, width), mode="bicubic", align_corners=False)
        bytes_of = (larger.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for task, out in networks.outputs(bytes_of).items():
            kind = networks.kinds[task]
            target, trained = network_target(kind, plain[task]), TRAINING_KINDS[kind]
            metric = metrics.setdefault(task, trained.metric(target.classes))
            metric.add(trained.answers(out), target.labels)
    return {task: metric.values()[METRICS[networks.kinds[task]].key] for task, metric in metrics.items()}


def _scored(
    attacker: str,
    source: str,
    unseen: _Pairs,
    drawn: Tensor,
    recognised: dict[str, float],
) -> Drawing:
    pairs = list(zip(unseen.images.numpy(), drawn.numpy(), strict=True))
    return Drawing(
        attacker=attacker,
        source=source,
        bytes=unseen.bytes.get(source),
        psnr_db=float(np.mean([psnr(*pair) for pair in pairs])),
        ssim=float(np.mean([ssim(*pair) for pair in pairs])),
        recognised=recognised,
    )
