"""What a bench reports: sections with tables, targets, and the metric by which each kind of task is judged."""

from __future__ import annotations

from typing import NamedTuple

from shared.types import Frozen, TaskKind


class Metric(NamedTuple):
    """The figure by which a kind of task is judged. better: 1 where more is better, -1 where less is.

    target: of the network itself; loss: what the codec may cost at the default quality. scale, unit: as it is told.
    """

    key: str
    name: str
    better: int
    target: float
    loss: float
    form: str
    unit: str

    def told(self, value: float) -> str:
        return self.form.format(value)

    def difference(self, value: float, plain: float) -> str:
        return f"{self.form.replace(':', ':+').format(value - plain)}"


METRICS: dict[TaskKind, Metric] = {
    "classification": Metric("top1", "top-1", 1, 0.90, 0.01, "{:.1%}", ""),
    "normals": Metric("mean_deg", "mean error", -1, 12.0, 1.0, "{:.2f}", " degrees"),
    "segmentation": Metric("miou", "mIoU", 1, 0.60, 0.02, "{:.3f}", ""),
}


class Target(Frozen):
    """met: None where it cannot be told."""

    what: str
    target: str
    reached: str
    met: bool | None


class Section(Frozen):
    """One claim. rows: of the table, as many cells each as there are columns."""

    title: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
