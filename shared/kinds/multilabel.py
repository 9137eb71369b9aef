"""Several labels that hold independently of each other, each with a probability of its own (a sigmoid).

`top_k` bounds how many come back, best first, as for a classification, and each has its score: what counts as "holds"
is the caller's to decide, label by label. Where one line has to do, those of at least PRESENT are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from shared.kinds.classification import ClassScore, read_scores, write_scores
from shared.kinds.kind import Kind, Result

PRESENT = 0.5
SHOWN_MAX = 3


class MultilabelResult(Result):
    kind: Literal["multilabel"] = "multilabel"
    top: tuple[ClassScore, ...] = Field(
        description="the likeliest labels, best first; scores are independent"
    )


class Multilabel(Kind[MultilabelResult]):
    name = "multilabel"
    result = MultilabelResult
    named = True
    columns = ("labels",)
    caption = f"labels: the likeliest of at least {PRESENT:.0%}"

    def write(self, result: MultilabelResult, message: Any) -> None:
        write_scores(result.top, message.top)

    def read(self, message: Any) -> MultilabelResult:
        return MultilabelResult(top=read_scores(message.top))

    def lines(self, result: MultilabelResult) -> list[str]:
        return [f"{one.label} {one.score:.3f}" for one in result.top]

    def cells(self, result: MultilabelResult) -> tuple[Sequence[str], ...]:
        present = [one for one in result.top if one.score >= PRESENT][:SHOWN_MAX]
        return ([f"{one.label} {one.score:.2f}" for one in present] or ["none"],)

    def agreement(self, one: MultilabelResult, other: MultilabelResult) -> float:
        """The labels that both show, of those that one of them shows."""
        first, second = (
            {score.label for score in given.top if score.score >= PRESENT} for given in (one, other)
        )
        return len(first & second) / len(first | second) if first | second else 1.0
