"""The metric that each kind of answer is judged by."""

from __future__ import annotations

from typing import NamedTuple

from shared.types import TaskKind
from train.kinds import TRAINING_KINDS
from train.kinds.training_kind import MainMetric


class HeadlineMetric(NamedTuple):
    """The one metric, of all that a kind of answer has, by which a bench judges it.

    key: its name among the measured metrics. name: its name in reports. better: 1 if more is better, -1 if less is.
    target: what the uncompressed network has to reach. loss: what the codec may cost at the default quality.
    form: format of a value. unit: with a leading space, or empty.
    """

    key: str
    name: str
    better: int
    target: float
    loss: float
    form: str
    unit: str

    def text(self, value: float) -> str:
        return self.form.format(value)

    def difference(self, value: float, plain: float) -> str:
        """value - plain, with its sign."""
        return self.form.replace(":", ":+").format(value - plain)

    def goodness(self, value: float) -> float:
        """The value, turned so that more is better."""
        return self.better * value


def _headline(metric: MainMetric) -> HeadlineMetric:
    better = 1 if metric.larger_is_better else -1
    return HeadlineMetric(
        metric.key, metric.name, better, metric.target, metric.tolerance, metric.form, metric.unit
    )


METRICS: dict[TaskKind, HeadlineMetric] = {
    kind: _headline(known.main) for kind, known in TRAINING_KINDS.items()
}
