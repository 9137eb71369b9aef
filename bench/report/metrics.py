"""The metric that each kind of answer is judged by. The only place where a bench knows kinds apart."""

from __future__ import annotations

from typing import NamedTuple

from shared.types import TaskKind


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


METRICS: dict[TaskKind, HeadlineMetric] = {
    "classification": HeadlineMetric("top1", "top-1", 1, 0.90, 0.01, "{:.1%}", ""),
    "normals": HeadlineMetric("mean_deg", "mean error", -1, 12.0, 1.0, "{:.2f}", " degrees"),
    "segmentation": HeadlineMetric("miou", "mIoU", 1, 0.60, 0.02, "{:.3f}", ""),
}
