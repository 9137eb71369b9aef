"""The parts of the comparison: the folders that deploy/train-rooms.sh makes, and what was measured of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from bench.report.metrics import METRICS
from shared.types import Frozen, TaskKind

# Folders, by what is in them.
NETWORKS: dict[str, TaskKind] = {
    "network": "classification",
    "normals": "normals",
    "segmentation": "segmentation",
}
SINGLE: dict[TaskKind, str] = {
    "classification": "only-classification",
    "normals": "only-normals",
    "segmentation": "only-segmentation",
}
ALONE = ("level-low", "level-middle", "level-high")
PRIORS = {"codebook": "codec", "factorised": "prior-factorised", "hyperprior": "prior-hyperprior"}
LONGER_PRIORS = {  # six times as many steps
    "codebook": "first",
    "factorised": "first-factorised",
    "hyperprior": "first-hyperprior",
}
SEEDS = (0, 1, 2)
CONTEXT_PRIORS = {  # with the same context, by seed
    seed: {prior: f"context-{prior}-{seed}" for prior in PRIORS} for seed in SEEDS
}
BUNDLE_CODEC = "bundle-codec"  # the codec that the bundle is built of; its training continues that of `first`
CODECS = (
    "codec",
    *SINGLE.values(),
    *ALONE,
    "prior-factorised",
    "prior-hyperprior",
    "with-segmentation",
    *LONGER_PRIORS.values(),
    *(folder for folders in CONTEXT_PRIORS.values() for folder in folders.values()),
    BUNDLE_CODEC,
)


class Level(Frozen):
    """One quality level. bytes: mean per image.

    metrics: by task, then by name; of a codec's run also its "distortion". flips: of a bundle, see
    `train.bundle.evaluate.Rate`.
    """

    quality: int
    bytes: float
    metrics: dict[str, dict[str, float]]
    flips: dict[str, tuple[int, int]] = Field(default_factory=dict)


class MeasuredPart(Frozen):
    """What a folder gave over `images` images.

    kinds: kind of answer, by task. seen: images in a codec's training, over all levels. scales: of lambda, one for each
    level; lambdas: by task, at scale 1. added: tasks that the bundle was taught later. streams: SHA-256 of its
    bitstreams by quality, without those tasks and with them.
    """

    what: Literal["network", "codec", "bundle"]
    images: int
    kinds: dict[str, TaskKind]
    uncompressed: dict[str, dict[str, float]]
    levels: tuple[Level, ...] = ()
    seen: int = 0
    scales: tuple[float, ...] = ()
    lambdas: dict[str, float] = Field(default_factory=dict)
    default_quality: int | None = None
    added: tuple[str, ...] = ()
    streams: tuple[dict[int, str], dict[int, str]] = ({}, {})

    def level(self, quality: int | None) -> Level:
        return next(level for level in self.levels if level.quality == quality)

    def headline(self, level: Level, task: str) -> float:
        """The metric by which the task is judged."""
        return level.metrics[task][METRICS[self.kinds[task]].key]

    def goodness(self, level: Level, task: str) -> float:
        """The same, turned so that more is better."""
        return METRICS[self.kinds[task]].goodness(self.headline(level, task))

    def task_of(self, kind: TaskKind) -> str | None:
        """The part's task of this kind."""
        return next((task for task, own in self.kinds.items() if own == kind), None)

    def label(self, quality: int) -> str:
        return f"{quality} (default)" if quality == self.default_quality else str(quality)


Parts = Mapping[str, MeasuredPart]


def uncompressed_headlines(parts: Parts) -> dict[TaskKind, float]:
    """The headline metric of each uncompressed network, by kind of answer."""
    return {
        kind: parts[folder].uncompressed[kind][METRICS[kind].key]
        for folder, kind in NETWORKS.items()
        if folder in parts
    }
