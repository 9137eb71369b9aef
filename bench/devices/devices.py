"""Decodes and answers the same bitstreams on several devices: all integers must be equal, and each has its own speed.

Streams are made once, by the edge half on this machine's CPU. No service is measured here: no queue, no result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report.report import About
from bench.report.sections import Section, Target
from cloud.engine.bundle_model import CloudModel
from shared.bundle import Bundle
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.encoder import Encoded, Encoder
from shared.errors import RequestError
from shared.types import Frozen

IMAGES = (".jpg", ".jpeg", ".png", ".webp")


class DevicesPlan(Frozen):
    """What is measured. batches: sizes. seconds: of each measurement."""

    bundle: Path
    images: Path
    devices: tuple[str, ...]
    count: int
    batches: tuple[int, ...]
    seconds: float


class Speed(Frozen):
    """Images a second of one device: bitstreams to integers, integers to the outputs of all tasks."""

    device: str
    batch: int
    decoded: float
    answered: float


class Devices(Frozen):
    """equal: by device, how many streams of `streams` x batch sizes decoded to the integers that were encoded.

    differs: by device, the largest difference of any output from the first device's, of that output's largest value.
    """

    about: About
    streams: int
    equal: dict[str, int]
    compared: int
    differs: dict[str, float]
    speeds: tuple[Speed, ...]


def bench_devices(plan: DevicesPlan, command: str) -> Devices:
    """Raises BundleError, ImageError, RequestError."""
    bundle = Bundle.open(plan.bundle)
    files = _images(plan.images)[: plan.count]
    encoder = Encoder(bundle)
    levels = [one.quality for one in bundle.manifest.qualities] or [None]
    streams = [encoder.encode(file, quality) for file, quality in zip(files, cycle(levels), strict=False)]
    equal, differs, speeds = {}, {}, []
    first: dict[str, NDArray[Any]] = {}
    for device in plan.devices:
        model = CloudModel(bundle, device)
        equal[device] = sum(_equal(model, streams, batch) for batch in plan.batches)
        outputs = {name: out.float().cpu().numpy() for name, out in _outputs(model, streams).items()}
        first = first or outputs
        differs[device] = max(
            float(np.abs(out - first[name]).max() / np.abs(first[name]).max())
            for name, out in outputs.items()
        )
        speeds += [_speed(model, streams, batch, plan.seconds) for batch in plan.batches]
    return Devices(
        about=About.now(command, len(files)),
        streams=len(streams),
        equal=equal,
        compared=len(streams) * len(plan.batches),
        differs=differs,
        speeds=tuple(speeds),
    )


def _images(folder: Path) -> list[Path]:
    """The folder's images, by name. Raises RequestError."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGES)
    except OSError as error:
        raise RequestError(f"{folder} is no folder of images: {error.strerror}") from None
    if not files:
        raise RequestError(f"{folder} has no image ({', '.join(IMAGES)})")
    return files


def _equal(model: CloudModel, streams: Sequence[Encoded], batch: int) -> int:
    """How many streams decode to what was encoded, in batches of this size."""
    codec = FrameCodec(model.codec)
    decoded = [
        one
        for start in range(0, len(streams), batch)
        for one in codec.decode(_coded(streams[start : start + batch]))
    ]
    return sum(
        isinstance(one, Latent) and np.array_equal(one.v, sent.latent.v) and _same(one.z, sent.latent.z)
        for one, sent in zip(decoded, streams, strict=True)
    )


def _same(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


def _speed(model: CloudModel, streams: Sequence[Encoded], batch: int, seconds: float) -> Speed:
    some = list(islice(cycle(streams), batch))
    coded, codec = _coded(some), FrameCodec(model.codec)
    return Speed(
        device=str(model.device),
        batch=batch,
        decoded=batch * _rate(lambda: codec.decode(coded), seconds),
        answered=batch * _rate(lambda: _outputs(model, some), seconds),
    )


def _rate(run: Callable[[], object], seconds: float) -> float:
    """Runs a second, after two that warm up; a GPU's work is waited for."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    run(), run()
    wait()
    times, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds or not times:
        run()
        wait()
        times += 1
    return times / taken


def _outputs(model: CloudModel, streams: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    z = np.stack([one.latent.z for one in streams if one.latent.z is not None])
    rows = {task.name: range(len(z)) for task in model.bundle.tasks}
    with torch.inference_mode():
        return model.outputs(z, rows, [one.quality for one in streams])


def _coded(streams: Sequence[Encoded]) -> list[Coded]:
    return [Coded(one.packet.frame.payload, one.latent.grid, one.quality) for one in streams]


def sections(measured: Devices) -> list[Section]:
    """The integers, and the speeds."""
    exact = tuple(
        Target(
            what=f"integers decoded on {device}",
            target="those encoded",
            reached=f"{equal} of {measured.compared}; outputs within {measured.differs[device]:.1e}",
            met=equal == measured.compared,
        )
        for device, equal in measured.equal.items()
    )
    rows = tuple(
        (one.device, str(one.batch), f"{one.decoded:,.0f}", f"{one.answered:,.0f}") for one in measured.speeds
    )
    columns = ("device", "batch", "decoded, images/s", "all tasks from integers, images/s")
    return [Section(title="Devices", columns=columns, rows=rows, targets=exact)]
