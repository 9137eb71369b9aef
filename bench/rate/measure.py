"""Measures a contender: every image at every setting, its bytes and the metrics of every task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rich.progress import track

from bench.networks import TaskNetworks
from bench.rate.contenders import Contender
from bench.report.rate_results import ContenderResult, Setting
from train.data.dataset import Dataset, in_order
from train.kinds import TRAINING_KINDS
from train.kinds.training_kind import Metric
from train.loop.scoring import label_target, target_of

BATCH = 32
LABELS = "labels_"
_PLAIN = ""  # the way in which a contender's own bytes are counted


@torch.inference_mode()
def measure_contender(
    contender: Contender,
    networks: TaskNetworks,
    datasets: Mapping[str, Dataset],
    also: Mapping[str, Dataset] | None = None,
) -> ContenderResult:
    """Sends all images. datasets: of the same images, by task; where a task has no labels, the answer of its
    uncompressed network counts as the truth. also: the same with labels, whose metrics are added under names that begin
    with LABELS."""
    first = next(iter(datasets.values()))
    complete = all(data.form is not None for data in datasets.values())
    metrics: dict[str, dict[str, Metric]] = {}  # by setting and task
    labelled: dict[str, dict[str, Metric]] = {}
    sums: dict[str, dict[str, dict[str, float]]] = {}  # by setting, way to count and task
    for indices in track(list(in_order(len(first), BATCH)), contender.name):
        pixels = first.images(indices)
        plain = {} if complete else networks.outputs(pixels)
        targets = {
            name: target_of(networks.kinds[name], data, indices, plain.get(name))
            for name, data in datasets.items()
        }
        for setting, sizes, outputs, counts in contender.coded(pixels):
            for name, out in outputs.items():
                target, known = targets[name], TRAINING_KINDS[targets[name].kind]
                metric = metrics.setdefault(setting, {}).setdefault(name, known.metric(target.classes))
                metric.add(known.answers(out), target.labels)
                extra = label_target(target.kind, also[name], indices) if also and name in also else None
                if extra is not None:
                    metric = labelled.setdefault(setting, {}).setdefault(name, known.metric(extra.classes))
                    metric.add(known.answers(out), extra.labels)
            for way, counted in ({_PLAIN: sizes} | dict(counts)).items():
                sum_of = sums.setdefault(setting, {}).setdefault(way, {})
                for name, of_each in counted.items():
                    sum_of[name] = sum_of.get(name, 0.0) + float(of_each.sum())
    return ContenderResult(
        name=contender.name,
        family=contender.family,
        about=contender.about,
        together=contender.together,
        images=len(first),
        shared=contender.shared,
        settings=tuple(
            _setting(name, sums[name], _values(by_task, labelled.get(name, {})), len(first))
            for name, by_task in metrics.items()
        ),
    )


def _values(metrics: Mapping[str, Metric], labelled: Mapping[str, Metric]) -> dict[str, dict[str, float]]:
    """By task, then by name."""
    values = {task: metric.values() for task, metric in metrics.items()}
    for task, metric in labelled.items():
        values[task] |= {f"{LABELS}{name}": value for name, value in metric.values().items()}
    return values


def _setting(
    name: str,
    sums: Mapping[str, Mapping[str, float]],
    metrics: dict[str, dict[str, float]],
    images: int,
) -> Setting:
    means = {way: {task: total / images for task, total in by_task.items()} for way, by_task in sums.items()}
    return Setting(name=name, bytes=means.pop(_PLAIN), metrics=metrics, counts=means)
