"""`isthmus bench photos`: what a bundle keeps of its networks' answers to photographs, and what that costs.

    each set of photographs -> every contender of `isthmus bench rate` -> agreement with the uncompressed networks, and
                               the labels' own metrics where the set has labels
    clips                   -> `isthmus bench video`
    a fresh edge process    -> ms and memory of encoding, and of running every whole network instead
    all -> `photos_report`

Results of a contender on a set are kept in OUT/parts, so that an interrupted run goes on with the next.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.latency.edge_process import LocalNetwork
from bench.link import module
from bench.networks import TaskNetworks
from bench.photos.results import EdgeCost, Photos, PhotoSet
from bench.rate.contenders import Contender
from bench.rate.measure import measure_contender
from bench.rate.rate import RatePlan, all_contenders
from bench.report.cache import cached
from bench.report.rate_results import ContenderResult
from bench.report.report import About
from bench.video.video import VideoPlan, bench_video
from shared.bundle import Bundle
from shared.kinds import KINDS
from shared.process.child_process import ROOT, server
from train.bundle.export import export
from train.data.dataset import Dataset, Unlabelled, identity, labels_digest
from train.data.open_dataset import open_datasets
from train.loop.distributed import training_device

EDGE_IMAGES = 8


@dataclass(frozen=True)
class PhotosPlan:
    """What is measured.

    networks: folders, one for each task. data: sets of photographs. clips: see `VideoPlan`. count: only the first
    images of each set. frames: of a clip, at most. rounds: of timing the edge. quick: few settings of each contender.
    """

    bundle: Path
    networks: Sequence[str]
    data: Sequence[str]
    out: Path
    clips: Sequence[Path] = ()
    count: int | None = None
    frames: int = 150
    rounds: int = 5
    quick: bool = False
    device: str = "auto"


def bench_photos(plan: PhotosPlan, command: str) -> Photos:
    """Measures; writes nothing but what it keeps for the next run. Raises IsthmusError."""
    bundle = Bundle.open(plan.bundle)
    device = training_device(plan.device)
    networks = TaskNetworks(bundle, plan.networks, device)
    # All of it before the first is measured, so that a mistake in the last does not cost hours.
    sets = [(spec, _datasets(plan, spec, bundle, networks)) for spec in plan.data]
    rate = RatePlan(plan.bundle, plan.networks, plan.data[0], plan.out, quick=plan.quick)
    contenders = list(all_contenders(rate, bundle, networks, device))
    measured = [_set(plan, number, *each, networks, contenders) for number, each in enumerate(sets)]
    clips = None
    if plan.clips:
        video = VideoPlan(
            plan.bundle,
            plan.networks,
            plan.clips,
            plan.out / "clips",
            frames=plan.frames,
            quick=plan.quick,
            device=plan.device,
        )
        clips = bench_video(video, command)
    return Photos(
        about=About.now(command, sum(one.images for one in measured)),
        bundle=bundle.manifest.name,
        kinds=networks.kinds,
        default=f"quality {bundle.quality(None)}",
        sets=tuple(measured),
        clips=clips,
        edge=edge_cost(plan, networks, next(iter(sets[0][1].values()))),
        skipped={one.name: one.missing for one in contenders if one.missing},
    )


def _datasets(plan: PhotosPlan, spec: str, bundle: Bundle, networks: TaskNetworks) -> dict[str, Dataset]:
    """The same images for each task, with its labels where the set has labels of just its classes."""
    kinds = networks.kinds
    opened = open_datasets(
        spec,
        list(kinds.values()),
        0,
        plan.count,
        [False] * len(kinds),
        preprocess=networks.preprocess,
        labels=[bundle.task(name).labels for name in kinds],
    )
    return dict(zip(kinds, opened, strict=True))


def _set(
    plan: PhotosPlan,
    number: int,
    spec: str,
    datasets: dict[str, Dataset],
    networks: TaskNetworks,
    contenders: Sequence[Contender],
) -> PhotoSet:
    images = next(iter(datasets.values()))
    labelled = {name: data for name, data in datasets.items() if data.form is not None}
    plain = {name: Unlabelled(data) for name, data in datasets.items()}
    key = {
        "networks": networks.cache_key(),
        "labels": {name: labels_digest(data) for name, data in labelled.items()},
        **identity(images),
    }

    def one(contender: Contender) -> ContenderResult:
        file = re.sub(r"[^A-Za-z0-9]+", "-", f"{number} {contender.name}")
        return cached(
            plan.out / "parts" / f"{file}.json",
            {**key, "name": contender.name, "contender": contender.cache_key()},
            ContenderResult,
            lambda: measure_contender(contender, networks, plain, labelled),
        )

    return PhotoSet(
        name=name_of(spec),
        images=len(images),
        labelled=tuple(labelled),
        results=tuple(one(contender) for contender in contenders if not contender.missing),
    )


def name_of(spec: str) -> str:
    """A set's name in reports: the last folder, or a file's, and the part of it."""
    path, hash_, part = spec.rpartition(":")[2].partition("#")
    place = Path(path)
    name = place.parent.name if place.suffix else place.name
    if name in ("train", "val", "test"):
        name = f"{place.parent.name}/{name}"
    return f"{name or spec}{f' {part}' if hash_ else ''}"


def edge_cost(plan: PhotosPlan, networks: TaskNetworks, images: Dataset) -> EdgeCost:
    """What one core of an edge spends on a photograph, encoding it or answering it alone. Raises IsthmusError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        for i in range(min(EDGE_IMAGES, len(images))):
            paths.append(str(folder / f"{i}.jpg"))
            Image.fromarray(images.images(np.array([i]))[0]).save(paths[-1], quality=92)
        local = folder / "networks.json"
        local.write_text(json.dumps([one.model_dump(mode="json") for one in _whole(networks, folder)]))
        encode_ms, encode_mb = _timed("encode", str(plan.bundle.resolve()), plan.rounds, paths)
        local_ms, local_mb = _timed("local", str(local), plan.rounds, paths)
    return EdgeCost(encode_ms=encode_ms, encode_mb=encode_mb, local_ms=local_ms, local_mb=local_mb)


def _timed(role: str, what: str, rounds: int, paths: Sequence[str]) -> tuple[float, float]:
    """Median ms of an image, and the process's MB."""
    command = module("bench.photos.edge_cost", role, what, str(rounds), *paths)
    with server("edge", command, ROOT) as process:
        event = process.wait_for("timed")
    return statistics.median(event["ms"]), event["memory_mb"]


def _whole(networks: TaskNetworks, folder: Path) -> list[LocalNetwork]:
    """Every task's whole network as an ONNX file."""
    height, width = networks.preprocess.height, networks.preprocess.width
    written = []
    for name, network in networks.by_task.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(export(network.whole.cpu(), {"x": torch.zeros(2, 3, height, width)}, ["y"]))
        named = KINDS[network.task.kind].named
        written.append(LocalNetwork(path=str(path), preprocess=networks.preprocess, named=named))
    return written
