"""How results are read: what is judged, against frames I alone and others at equal quality. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report.curves import Curve, Read
from bench.report.metrics import METRICS, HeadlineMetric
from bench.video.results import Family, FootageResult, VideoSetting
from shared.types import TaskKind


@dataclass(frozen=True)
class Ratio:
    """A ratio of bytes. bound: "", or "at least" or "at most" where a curve ends before the quality is reached."""

    value: float
    bound: str = ""

    @property
    def text(self) -> str:
        return f"{self.bound} {self.value:.1f}x".lstrip()

    def met(self, least: float) -> bool | None:
        """Whether the ratio is at least this; None where it is undetermined."""
        if self.bound == "at least":
            return True if self.value >= least else None
        if self.bound == "at most":
            return False if self.value < least else None
        return None if self.bound else self.value >= least


@dataclass(frozen=True)
class Comparison:
    """One footage. kinds: of each task. quality, hold: the setting that is judged."""

    footage: FootageResult
    kinds: Mapping[str, TaskKind]
    quality: int
    hold: float

    @property
    def judged(self) -> VideoSetting:
        return self.setting(self.quality, self.hold)

    @property
    def alone(self) -> VideoSetting:
        """Frames I alone at the judged quality."""
        return self.setting(self.quality, None)

    def setting(self, quality: int, hold: float | None) -> VideoSetting:
        settings = self.footage.result("isthmus").settings
        return next(one for one in settings if (one.name.quality, one.name.hold) == (quality, hold))

    def metric(self, task: str) -> HeadlineMetric:
        return METRICS[self.kinds[task]]

    def score(self, setting: VideoSetting, task: str) -> float:
        return setting.metrics[task][self.metric(task).key]

    def loss(self, setting: VideoSetting, other: VideoSetting, task: str) -> float:
        """How much worse the headline metric is than in the other setting; negative: better."""
        metric = self.metric(task)
        return metric.goodness(self.score(other, task)) - metric.goodness(self.score(setting, task))

    def bytes_of(self, setting: VideoSetting) -> float:
        return self.footage.bytes_of(setting)

    @property
    def against_alone(self) -> float:
        """How many times fewer bytes the judged setting takes than frames I alone."""
        return self.bytes_of(self.alone) / self.bytes_of(self.judged)

    def cost(self, family: Family, setting: VideoSetting) -> Read:
        """Bytes a frame at which another contender is as good in every task: those of the task that needs most."""
        settings = self.footage.result(family).settings
        reads = []
        for task in self.kinds:
            metric = self.metric(task)
            points = [(self.bytes_of(one), metric.goodness(self.score(one, task))) for one in settings]
            reads.append(Curve.of(points).bytes_at(metric.goodness(self.score(setting, task))))
        # A task that no setting is good enough for costs more than any; one that all are good enough for decides last.
        return max(reads, key=lambda read: ({">": 2, "": 1, "<": 0}[read.side], read.value))

    def against(self, family: Family, setting: VideoSetting) -> Ratio:
        """How many times fewer bytes a setting takes than another contender at equal quality."""
        return _ratio([self.cost(family, setting)], self.bytes_of(setting))


def ratio_of(comparisons: Sequence[Comparison], family: Family) -> Ratio:
    """The same for the judged settings of several footages, bytes added up."""
    reads = [one.cost(family, one.judged) for one in comparisons]
    return _ratio(reads, sum(one.bytes_of(one.judged) for one in comparisons))


def _ratio(reads: Sequence[Read], own: float) -> Ratio:
    sides = {read.side for read in reads} - {""}
    bound = {frozenset(): "", frozenset(">"): "at least", frozenset("<"): "at most"}
    return Ratio(sum(read.value for read in reads) / own, bound.get(frozenset(sides), "about"))
