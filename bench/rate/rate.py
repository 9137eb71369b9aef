"""`isthmus bench rate`: bytes against every task's quality, for Isthmus and for what people would use instead.

BUNDLE, its uncompressed networks and a data set -> contenders -> measure -> findings -> report. Each contender's
results are kept in OUT/parts, so that an interrupted run goes on with the next contender.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.codecs.image_codecs import IMAGE_CODECS, LOSSLESS
from bench.networks import TaskNetworks
from bench.rate.codec_contenders import IsthmusContender, LearnedContender
from bench.rate.comparison import Comparison
from bench.rate.contenders import (
    QPS,
    VVC_QPS,
    Contender,
    ImageContender,
    hybrid_contender,
    hybrid_vvc_contender,
    raw_contender,
)
from bench.rate.findings import findings
from bench.rate.measure import measure_contender
from bench.rate.rate_report import write_report
from bench.report.cache import cached
from bench.report.rate_results import ContenderResult
from bench.report.report import About
from bench.report.sections import Section
from shared.bundle import Bundle
from shared.errors import DataError
from train.data.dataset import Dataset, Unlabelled, identity, labels_digest
from train.data.open_dataset import open_datasets
from train.loop.distributed import training_device

T = TypeVar("T")


@dataclass(frozen=True)
class RatePlan:
    """What is measured.

    networks: folders, one for each task. peers: NAME=RUN of other codecs. count: the first images only. quick: only a
    few settings of each contender. agreement: compare with the uncompressed networks, even where there are labels.
    """

    bundle: Path
    networks: Sequence[str]
    data: str
    out: Path
    peers: Sequence[str] = ()
    count: int | None = None
    quick: bool = False
    agreement: bool = False
    device: str = "auto"


def bench_rate(plan: RatePlan, command: str) -> list[Section]:
    """Measures, and writes the report to `plan.out`. Raises IsthmusError."""
    bundle = Bundle.open(plan.bundle)
    device = training_device(plan.device)
    networks = TaskNetworks(bundle, plan.networks, device)
    datasets = _datasets(plan, bundle, networks)
    images = next(iter(datasets.values()))
    with_labels = {name for name, data in datasets.items() if data.form is not None}
    key = {
        "networks": networks.cache_key(),
        "labels": {name: labels_digest(datasets[name]) for name in sorted(with_labels)},
        **identity(images),
    }
    # All of them before the first is measured, so that a mistake in the last does not cost hours.
    contenders = list(all_contenders(plan, bundle, networks, device))
    skipped = {contender.name: contender.missing for contender in contenders if contender.missing}
    results = [
        result
        for contender in contenders
        if not contender.missing
        for result in _measured(contender, plan.out, key, networks, datasets).counted()
    ]
    default = f"quality {bundle.quality(None)}"
    comparison = Comparison(results, networks.kinds, with_labels, default, skipped=skipped)
    sections = findings(comparison)
    write_report(plan.out, comparison, sections, About.now(command, len(images)))
    return sections


def _datasets(plan: RatePlan, bundle: Bundle, networks: TaskNetworks) -> dict[str, Dataset]:
    """The same images for each task, with its labels unless agreement is asked for."""
    kinds = networks.kinds
    opened = open_datasets(
        plan.data,
        list(kinds.values()),
        0,
        plan.count,
        [False] * len(kinds),
        preprocess=networks.preprocess,
        labels=[bundle.task(name).labels for name in kinds],
    )
    datasets: dict[str, Dataset] = dict(zip(kinds, opened, strict=True))
    return {name: Unlabelled(data) for name, data in datasets.items()} if plan.agreement else datasets


def _measured(
    contender: Contender,
    out: Path,
    key: Mapping[str, Any],
    networks: TaskNetworks,
    datasets: Mapping[str, Dataset],
) -> ContenderResult:
    return cached(
        out / "parts" / f"{re.sub(r'[^A-Za-z0-9]+', '-', contender.name)}.json",
        {**key, "name": contender.name, "contender": contender.cache_key()},
        ContenderResult,
        lambda: measure_contender(contender, networks, datasets),
    )


def all_contenders(
    plan: RatePlan,
    bundle: Bundle,
    networks: TaskNetworks,
    device: torch.device,
) -> Iterator[Contender]:
    """All contenders, in the order in which they are measured. Raises DataError."""
    learned = [LearnedContender(name, run, bundle, device) for name, run in map(_peer, plan.peers)]
    taken = {IsthmusContender.name, *(codec.name for codec in IMAGE_CODECS)}
    for one in learned:
        if one.name in taken:
            raise DataError(f"the name {one.name} is taken; choose another", setting="peer")
        taken.add(one.name)
    yield ImageContender(LOSSLESS, networks, family="uncompressed")
    yield IsthmusContender(bundle, str(device), plan.quick)
    yield from learned
    yield raw_contender(networks)
    yield hybrid_contender(networks, _few(QPS) if plan.quick else QPS)
    yield hybrid_vvc_contender(networks, _few(VVC_QPS) if plan.quick else VVC_QPS)
    for codec in IMAGE_CODECS:
        yield ImageContender(replace(codec, ladder=_few(codec.ladder)) if plan.quick else codec, networks)


def _peer(given: str) -> tuple[str, Path]:
    """NAME=RUN, parsed. Raises DataError."""
    name, equals, run = given.partition("=")
    if not (name and equals and run):
        raise DataError(f"{given!r} is not NAME=RUN, as in hyperprior=runs/hyperprior", setting="peer")
    return name, Path(run)


def _few(ladder: Sequence[T]) -> tuple[T, ...]:
    """Its first, middle and last step."""
    return ladder[0], ladder[len(ladder) // 2], ladder[-1]
