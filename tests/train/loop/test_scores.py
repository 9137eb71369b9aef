"""Scores and their names on disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.loop.scores import Score, Scores, by_task, from_json, to_json

TASKS = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
SCORE = st.builds(
    Score,
    metric=st.sampled_from(["top1", "mean_deg", "within_11.25", "miou", "bytes", "distortion", "loss"]),
    value=st.floats(allow_nan=False),
    task=st.one_of(st.just(""), TASKS),
    quality=st.one_of(st.none(), st.just("uncompressed"), st.integers(0, 100)),
    against=st.sampled_from(["labels", "network"]),
)


@given(st.lists(SCORE))
def test_json_gives_the_same_scores_in_the_same_order(scores: list[Score]) -> None:
    whole = Scores(scores)
    back = from_json(to_json(whole))
    assert back == whole
    assert list(back) == list(whole)


def test_names_are_those_of_files_on_disk() -> None:
    scores = [
        Score("mean_deg", 12.5, "normals", 50),
        Score("miou", 0.5, "segmentation", 100, "network"),
        Score("top1", 0.75, "classification", "uncompressed"),
        Score("bytes", 300.0, quality=0),
        Score("miou", 0.25, quality=50, against="network"),
        Score("top1", 0.5),
    ]
    assert list(to_json(scores)) == [
        "normals/mean_deg@50",
        "segmentation/agreement_miou@100",
        "classification/top1@uncompressed",
        "bytes@0",
        "agreement_miou@50",
        "top1",
    ]


@pytest.mark.parametrize("name", ["", "a/b/c", "top1@", "top1@best", "/top1", "a@1@2"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a score"):
        from_json({name: 1.0})


def test_scores_of_a_quality_are_sorted_by_task() -> None:
    scores = from_json(
        {"a/top1@50": 0.5, "a/agreement_top1@50": 0.75, "a/top1@5": 0.1, "b/miou@50": 0.25, "bytes@50": 99.0}
    )
    assert by_task(scores, 50) == {"a": {"top1": 0.5, "agreement_top1": 0.75}, "b": {"miou": 0.25}}
    assert by_task(scores, "uncompressed") == {}


def test_of_two_scores_with_one_name_the_later_counts() -> None:
    first, second = Scores([Score("loss", 1.0), Score("bytes", 2.0)]), Scores([Score("loss", 3.0)])
    assert to_json(first + second) == {"loss": 3.0, "bytes": 2.0}
    with pytest.raises(KeyError):
        first.value("top1")
