"""Labels that hold independently, as text."""

from __future__ import annotations

from shared.kinds.classification import ClassScore
from shared.kinds.multilabel import Multilabel, MultilabelResult


def labels(*scores: float) -> MultilabelResult:
    return MultilabelResult(
        top=tuple(ClassScore(label=f"l{i}", index=i, score=s) for i, s in enumerate(scores))
    )


def test_cells_hold_the_labels_that_are_likely_and_lines_all() -> None:
    kind = Multilabel()
    assert kind.cells(labels(0.9, 0.6, 0.4)) == (["l0 0.90", "l1 0.60"],)
    assert kind.cells(labels(0.9, 0.8, 0.7, 0.6)) == (["l0 0.90", "l1 0.80", "l2 0.70"],)
    assert kind.cells(labels(0.4)) == (["none"],)
    assert kind.lines(labels(0.9, 0.1)) == ["l0 0.900", "l1 0.100"]
    assert kind.best(labels(0.9)) is None
