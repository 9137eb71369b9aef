"""Measures contenders on a footage: bytes of every frame, and the metrics of every task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat

import torch

from bench.networks import TaskNetworks
from bench.video.contenders import BATCH, Contender, Outputs
from bench.video.footage import Footage, FrameIndices, Pixels, batches
from bench.video.results import Name, VideoResult, VideoSetting
from train.kinds import TRAINING_KINDS
from train.kinds.training_kind import Metric
from train.loop.scoring import Target, target_of

Targets = list[dict[str, Target]]


@dataclass
class _Sum:
    """A setting's bytes and scores so far."""

    name: Name
    first: list[int] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def count(self, outputs: Iterable[Outputs], targets: Targets) -> None:
        for out, wanted in zip(outputs, targets, strict=True):
            for task, target in wanted.items():
                known = TRAINING_KINDS[target.kind]
                if task not in self.metrics:
                    self.metrics[task] = known.metric(target.classes)
                self.metrics[task].add(known.answers(out[task]), target.labels)

    def setting(self) -> VideoSetting:
        sizes = [*self.first, *self.rest]
        first = sum(self.first) / len(self.first)
        return VideoSetting(
            name=self.name,
            mean=sum(sizes) / len(sizes),
            first=first,
            rest=sum(self.rest) / len(self.rest) if self.rest else first,
            kinds=dict(sorted(self.kinds.items())),
            metrics={task: metric.values() for task, metric in self.metrics.items()},
        )


@torch.inference_mode()
def measure(contender: Contender, networks: TaskNetworks, footage: Footage) -> VideoResult:
    """Sends every sequence at every setting."""
    sums: dict[str, _Sum] = {}
    for sequence in footage.sequences:
        pixels = footage.pixels(sequence)
        targets = targets_of(networks, footage, sequence, pixels)
        for coded in contender.coded(pixels, footage.fps):
            total = sums.setdefault(coded.setting.text, _Sum(coded.setting))
            first, *rest = coded.sizes
            total.first.append(first)
            total.rest += rest
            total.kinds.update(coded.kinds)
            total.count(coded.outputs, targets)
    return VideoResult(
        name=contender.name,
        family=contender.family,
        about=contender.about,
        settings=tuple(total.setting() for total in sums.values()),
    )


@torch.inference_mode()
def measure_plain(networks: TaskNetworks, footage: Footage) -> dict[str, dict[str, float]]:
    """Scores of the uncompressed networks."""
    total = _Sum(Name.step("uncompressed"))
    for sequence in footage.sequences:
        pixels = footage.pixels(sequence)
        total.count(_outputs(networks, pixels), targets_of(networks, footage, sequence, pixels))
    return {task: metric.values() for task, metric in total.metrics.items()}


def targets_of(networks: TaskNetworks, footage: Footage, sequence: FrameIndices, pixels: Pixels) -> Targets:
    """What each batch's outputs are compared with, by task."""
    complete = footage.labelled == set(footage.datasets)
    parts = list(batches(len(sequence), BATCH))
    plain: Iterable[Outputs] = repeat({}) if complete else _outputs(networks, pixels)
    return [
        {
            name: target_of(networks.kinds[name], data, sequence[part], out.get(name))
            for name, data in footage.datasets.items()
        }
        for part, out in zip(parts, plain, strict=False)
    ]


def _outputs(networks: TaskNetworks, pixels: Pixels) -> Iterator[Outputs]:
    return (networks.outputs(pixels[part]) for part in batches(len(pixels), BATCH))
