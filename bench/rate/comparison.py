"""The results of all contenders, and how they are read: metrics, curves, and bytes for a quality. Measures nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from bench.report.curves import Curve, Read
from bench.report.metrics import METRICS, HeadlineMetric
from bench.report.rate_results import ContenderResult, Setting
from shared.types import TaskKind


@dataclass(frozen=True)
class Comparison:
    """The results of all contenders, Isthmus and the uncompressed networks among them.

    labelled: tasks whose metrics are against labels; for the others they are agreement with the uncompressed network.
    default: name of the setting of the default quality. skipped: why a contender could not be measured, by name.
    metrics: what each kind is judged by.
    """

    results: Sequence[ContenderResult]
    kinds: Mapping[str, TaskKind]
    labelled: Collection[str]
    default: str
    skipped: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[TaskKind, HeadlineMetric] = field(default_factory=lambda: METRICS)

    def metric(self, task: str) -> HeadlineMetric:
        return self.metrics[self.kinds[task]]

    def metric_name(self, task: str) -> str:
        metric = self.metric(task)
        return f"{'' if task in self.labelled else 'agreement, '}{metric.name}{metric.unit}"

    def headline(self, setting: Setting, task: str) -> float:
        """The value of the task's headline metric."""
        return setting.metrics[task][self.metric(task).key]

    def goodness(self, setting: Setting, task: str) -> float:
        """The same, turned so that more is better."""
        return self.metric(task).goodness(self.headline(setting, task))

    def curve(self, result: ContenderResult, task: str) -> Curve | None:
        """More is better. None if the contender does not have the task."""
        points = [
            (setting.bytes[task], self.goodness(setting, task))
            for setting in result.settings
            if task in setting.metrics
        ]
        return Curve.of(points) if points else None

    def cost(self, result: ContenderResult, task: str, quality: float) -> Read | None:
        """Bytes for a quality, of which more is better."""
        curve = self.curve(result, task)
        if curve is None:
            return None
        read = curve.bytes_at(quality)
        # With one setting there is no curve to leave: what is better than needed costs what it costs.
        return Read(read.value) if len(result.settings) == 1 and read.side == "<" else read

    def own_cost(self, task: str) -> Read:
        """The fewest bytes for which Isthmus does this task as well as at its default quality, asked it alone."""
        read = self.cost(self.isthmus, task, self.goodness(self.default_setting, task))
        assert read is not None
        # The curve's own point is off by a rounding error, as it is read through logarithms.
        return Read(min(read.value, self.default_setting.bytes[task]), read.side)

    def near(self, task: str) -> float:
        """The metric's value for a task that has lost what a codec may cost."""
        metric = self.metric(task)
        return self.headline(self.uncompressed, task) - metric.better * metric.loss

    @property
    def isthmus(self) -> ContenderResult:
        return next(result for result in self.results if result.family == "isthmus")

    @property
    def default_setting(self) -> Setting:
        return self.isthmus.setting(self.default)

    @property
    def peers(self) -> list[ContenderResult]:
        return [result for result in self.results if result.family != "isthmus"]

    @property
    def uncompressed(self) -> Setting:
        (result,) = (result for result in self.results if result.family == "uncompressed")
        return result.settings[0]
