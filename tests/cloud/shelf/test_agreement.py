"""How far two bundles answer alike: frames of one camera either side of a switch, against frames in a row before it."""

from __future__ import annotations

import pytest

from cloud.rollout_commands import _format
from cloud.shelf.agreement import NEXT_S, Agreement, TaskAgreement
from cloud.shelf.rollout import Rollout
from shared.kinds import KINDS
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.kinds.depth import DepthResult
from shared.kinds.embedding import EmbeddingResult
from shared.kinds.kind import Result
from shared.kinds.multilabel import MultilabelResult
from shared.kinds.normals import Facing, NormalsResult
from shared.kinds.segmentation import ClassArea, SegmentationResult

OLD, NEW = "0a" * 32, "1b" * 32


def scores(*named: tuple[str, float]) -> tuple[ClassScore, ...]:
    return tuple(ClassScore(label=label, index=i, score=score) for i, (label, score) in enumerate(named))


def label(name: str) -> dict[str, Result]:
    return {"classification": ClassificationResult(top=scores((name, 0.9)))}


def areas(**shares: float) -> SegmentationResult:
    return SegmentationResult(
        areas=tuple(ClassArea(label=n, index=i, share=s) for i, (n, s) in enumerate(shares.items()))
    )


def facing(up: float, left: float) -> NormalsResult:
    ways = Facing(left=left, right=0, up=up, down=0, towards=0, away=0)
    return NormalsResult(mean=(0, 0, 0), facing=ways)


def depth(median: float) -> DepthResult:
    return DepthResult(min_m=0, median_m=median, max_m=9, known=1)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (label("a")["classification"], label("a")["classification"], 1.0),
        (label("a")["classification"], label("b")["classification"], 0.0),
        (areas(floor=0.5, wall=0.5), areas(floor=0.25, wall=0.5, door=0.25), 0.75),
        (facing(0.75, 0.25), facing(0.25, 0.75), 0.5),
        (depth(2.0), depth(1.0), 0.5),
        (depth(0.0), depth(0.0), 1.0),
        (
            MultilabelResult(top=scores(("a", 0.9), ("b", 0.6), ("c", 0.4))),
            MultilabelResult(top=scores(("a", 0.9), ("c", 0.3))),
            0.5,
        ),
        (MultilabelResult(top=()), MultilabelResult(top=()), 1.0),
        (
            EmbeddingResult(normalised=False, vector=(1.0,)),
            EmbeddingResult(normalised=False, vector=(1.0,)),
            None,
        ),
    ],
)
def test_two_results(one: Result, other: Result, alike: float | None) -> None:
    kind = KINDS[one.kind]
    assert kind.agreement(one, other) == alike
    assert kind.agreement(other, one) == alike


class Clock:
    at = 0.0

    def __call__(self) -> float:
        return self.at


def test_frames_in_a_row_count_and_others_do_not() -> None:
    clock = Clock()
    agreement = Agreement(2, clock)
    for name, is_new, answer in (
        ("door", False, "a"),
        ("door", False, "a"),
        ("door", False, "b"),
        ("door", True, "b"),  # the switch
        ("door", True, "c"),  # of the new bundle alone: says nothing about two
        ("door", False, "d"),  # and back
        ("hall", False, "a"),  # another camera
    ):
        clock.at += 1
        agreement.note(name, is_new, label(answer))
    [found] = agreement.state()
    assert found == TaskAgreement(task="classification", switches=2, across=0.5, pairs=2, before=0.5)
    clock.at += NEXT_S / 2 + 1
    agreement.note("hall", False, None)  # as before, which is an answer too
    clock.at += NEXT_S / 2 + 1
    agreement.note("hall", True, label("a"))
    assert agreement.state()[0].switches == 3
    clock.at += NEXT_S + 1
    agreement.note("hall", False, label("a"))  # too long after
    assert agreement.state()[0].switches == 3
    agreement.note("yard", False, label("a"))
    agreement.note("gate", False, label("a"))  # one more than are remembered
    agreement.note("hall", True, label("a"))
    assert agreement.state()[0].switches == 3
    agreement.clear()
    assert agreement.state() == ()


def test_the_command_shows_it() -> None:
    rollout = Rollout()
    rollout.begin(NEW, OLD, "all", 0.05, 10)
    for mark, answer in ((OLD, "a"), (OLD, "a"), (NEW, "b")):
        rollout.note("door", bytes.fromhex(mark)[:4], 40, 2.0, failed=False, results=label(answer))
    shown = _format(rollout.state())
    assert "classification: frames in a row agree by 0.0% across 1 switches, by 100.0% within" in shown


def test_what_is_still_to_change() -> None:
    rollout = Rollout()
    assert rollout.pending("door", OLD[:8]) == ""
    rollout.begin(NEW, OLD, "door", 0.05, 10)
    assert rollout.pending("door", OLD[:8]) == NEW[:8]
    assert rollout.pending("door", NEW[:8]) == ""
    assert rollout.pending("hall", OLD[:8]) == ""
    assert rollout.pending("hall", NEW[:8]) == OLD[:8]
    assert rollout.pending("door", "") == ""  # nothing is known of it
