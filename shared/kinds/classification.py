"""One class of several for the whole image: the best ones, with softmax probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field

from shared.frozen import Frozen
from shared.kinds.kind import Kind, Result


class ClassificationOptions(Frozen):
    """temperature: outputs are divided by it before the softmax, so that scores are probabilities (`isthmus bundle
    calibrate`). ids: an id for each label, such as WordNet's of ImageNet's classes."""

    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    ids: tuple[str, ...] = ()


class ClassScore(Frozen):
    """A class with its probability."""

    label: str
    index: int = Field(ge=0, description="position in the task's label list")
    score: float = Field(ge=0, le=1, description="probability")


class ClassificationResult(Result):
    kind: Literal["classification"] = "classification"
    top: tuple[ClassScore, ...] = Field(description="the best classes, best first")


def write_scores(scores: Iterable[ClassScore], message: Any) -> None:
    """Fills a repeated ClassScore."""
    for score in scores:
        message.add(label=score.label, index=score.index, score=score.score)


def read_scores(message: Any) -> tuple[ClassScore, ...]:
    """Raises ValidationError."""
    return tuple(ClassScore(label=c.label, index=c.index, score=min(c.score, 1.0)) for c in message)


class Classification(Kind[ClassificationResult]):
    name = "classification"
    result = ClassificationResult
    options = ClassificationOptions
    named = True
    columns = ("class", "score")

    def write(self, result: ClassificationResult, message: Any) -> None:
        write_scores(result.top, message.top)

    def read(self, message: Any) -> ClassificationResult:
        return ClassificationResult(top=read_scores(message.top))

    def lines(self, result: ClassificationResult) -> list[str]:
        return [f"{best.label} {best.score:.3f}" for best in result.top]

    def cells(self, result: ClassificationResult) -> tuple[Sequence[str], ...]:
        best = result.top[0]
        return [best.label], [f"{best.score:.2f}"]

    def agreement(self, one: ClassificationResult, other: ClassificationResult) -> float:
        """Whether the best class is the same."""
        return float([best.label for best in one.top[:1]] == [best.label for best in other.top[:1]])

    def best(self, result: ClassificationResult) -> tuple[str, float]:
        return result.top[0].label, result.top[0].score
