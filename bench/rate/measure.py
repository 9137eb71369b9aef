"""Measures a contender: every image at every setting, its bytes and the metrics of every task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rich.progress import track

from bench.rate.contenders import Contender
from bench.rate.networks import TaskNetworks
from bench.report.rate_results import ContenderResult, Setting
from train.data.dataset import Dataset, in_order
from train.kinds import TRAINING_KINDS
from train.kinds.training_kind import Metric
from train.loop.scoring import target_of

BATCH = 32


@torch.inference_mode()
def measure_contender(
    contender: Contender,
    networks: TaskNetworks,
    datasets: Mapping[str, Dataset],
) -> ContenderResult:
    """Sends all images. datasets: of the same images, by task; where a task has no labels, the answer of its
    uncompressed network counts as the truth."""
    first = next(iter(datasets.values()))
    complete = all(data.form is not None for data in datasets.values())
    metrics: dict[tuple[str, str], Metric] = {}
    sums: dict[tuple[str, str], float] = {}
    for indices in track(list(in_order(len(first), BATCH)), contender.name):
        pixels = first.images(indices)
        plain = {} if complete else networks.outputs(pixels)
        targets = {
            name: target_of(networks.kinds[name], data, indices, plain.get(name))
            for name, data in datasets.items()
        }
        for setting, sizes, outputs in contender.coded(pixels):
            for name, out in outputs.items():
                target, key = targets[name], (setting, name)
                known = TRAINING_KINDS[target.kind]
                metric = metrics.setdefault(key, known.metric(target.classes))
                metric.add(known.answers(out), target.labels)
                sums[key] = sums.get(key, 0.0) + float(sizes[name].sum())
    return ContenderResult(
        name=contender.name,
        family=contender.family,
        about=contender.about,
        together=contender.together,
        images=len(first),
        settings=tuple(
            Setting(
                name=setting,
                bytes={task: total / len(first) for (s, task), total in sums.items() if s == setting},
                metrics={task: metric.values() for (s, task), metric in metrics.items() if s == setting},
            )
            for setting in dict.fromkeys(setting for setting, _ in metrics)
        ),
    )
