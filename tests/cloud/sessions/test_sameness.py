"""What the reply policy "changes" calls the same."""

from __future__ import annotations

from cloud.sessions.sameness import essence
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.kinds.depth import DepthResult
from shared.kinds.embedding import EmbeddingResult
from shared.kinds.segmentation import ClassArea, SegmentationResult
from shared.maps import MapPng
from shared.session_packets import Answered
from shared.types import TaskResult


def room(*scores: float, order: tuple[int, ...] = ()) -> ClassificationResult:
    indices = order or tuple(range(len(scores)))
    return ClassificationResult(
        top=tuple(ClassScore(label=f"c{i}", index=i, score=s) for i, s in zip(indices, scores, strict=True))
    )


def things(*shares: float, png: bytes | None = None) -> SegmentationResult:
    areas = tuple(ClassArea(label=f"t{i}", index=i, share=share) for i, share in enumerate(shares))
    return SegmentationResult(areas=areas, map=MapPng.of(png) if png else None)


def same(one: TaskResult, other: TaskResult) -> bool:
    return essence(Answered({"task": one})) == essence(Answered({"task": other}))


def test_scores_count_in_hundredths() -> None:
    assert same(room(0.901, 0.1), room(0.899, 0.1))
    assert not same(room(0.91, 0.1), room(0.89, 0.1))


def test_shares_count_in_fiftieths() -> None:
    assert same(things(0.601, 0.399), things(0.604, 0.396))
    assert not same(things(0.60, 0.40), things(0.64, 0.36))


def test_what_is_unlikely_comes_and_goes_unnoticed() -> None:
    assert same(room(0.99, 0.004, 0.003, order=(4, 1, 2)), room(0.99, 0.003, 0.002, order=(4, 7, 1)))
    assert not same(room(0.99, 0.006, order=(4, 1)), room(0.99, 0.006, order=(4, 2)))


def test_the_best_class_counts_also_where_scores_are_alike() -> None:
    assert not same(room(0.501, 0.499, order=(0, 1)), room(0.501, 0.499, order=(1, 0)))
    assert same(room(0.8, 0.101, 0.099, order=(0, 1, 2)), room(0.8, 0.101, 0.099, order=(0, 2, 1)))


def test_maps_are_not_compared() -> None:
    assert same(things(1.0, png=b"one"), things(1.0, png=b"other"))


def test_numbers_of_other_kinds_count_too() -> None:
    depth = DepthResult(min_m=1.0, median_m=2.0, max_m=3.0, known=1.0)
    assert same(depth, depth.model_copy(update={"median_m": 2.004}))
    assert not same(depth, depth.model_copy(update={"median_m": 2.1}))
    vector = EmbeddingResult(normalised=False, vector=(0.5, 1.0))
    assert same(vector, vector.model_copy(update={"vector": (0.501, 1.0)}))
    assert not same(vector, vector.model_copy(update={"vector": (1.0, 0.5)}))


def test_names_of_tasks_and_what_is_missing_count() -> None:
    one = Answered({"a": room(1.0), "b": room(1.0)})
    assert essence(one) == essence(Answered({"b": room(1.0), "a": room(1.0)}))
    assert essence(one) != essence(Answered({"a": room(1.0), "c": room(1.0)}))
    assert essence(Answered({"a": room(1.0)})) != essence(Answered({"a": room(1.0)}, ("b",)))
