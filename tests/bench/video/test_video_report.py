"""How results of `isthmus bench video` are read: a minute, frames I alone, and others at equal quality."""

from __future__ import annotations

import pytest

from bench.report.report import About
from bench.video.comparison import Comparison, ratio_of
from bench.video.results import FootageResult, Name, Video, VideoResult, VideoSetting
from bench.video.video_report import sections

KINDS = {"classification": "classification", "normals": "normals"}


def setting(name: Name, mean: float, top1: float, degrees: float, **kinds: int) -> VideoSetting:
    metrics = {"classification": {"top1": top1}, "normals": {"mean_deg": degrees}}
    return VideoSetting(name=name, mean=mean, first=10 * mean, rest=mean / 2, kinds=kinds, metrics=metrics)


def footage(
    name: str = "clip", kind: str = "clip", motion: str = "", judged: float = 40, top1: float = 0.94
) -> FootageResult:
    own = (
        setting(Name.isthmus(96, None), 400, 0.95, 3.0, I=10),
        setting(Name.isthmus(96, 0.3), judged, top1, 3.2, I=1, P=5, S=4),
    )
    video = tuple(
        setting(Name.step(f"QP {qp}"), mean, top1, degrees)
        for qp, mean, top1, degrees in ((22, 800, 0.99, 1.0), (37, 200, 0.94, 3.1), (51, 50, 0.5, 9.0))
    )
    feature = (setting(Name.step("QP 16"), 300, 0.93, 4.0), setting(Name.step("QP 51"), 30, 0.2, 20.0))
    image = (setting(Name.step("quality 1"), 900, 0.96, 2.0),)
    families = {"isthmus": own, "video": video, "feature": feature, "image": image}
    return FootageResult(
        name=name,
        kind=kind,
        motion=motion,
        fps=5,
        sequences=1,
        frames=10,
        labelled=(),
        plain={"classification": {"top1": 1.0}, "normals": {"mean_deg": 0.0}},
        results=tuple(
            VideoResult(name=family, family=family, about="", settings=settings)
            for family, settings in families.items()
        ),
    )


def comparison(**given: object) -> Comparison:
    return Comparison(footage(**given), KINDS, 96, 0.3)


def test_bytes_of_a_minute_begin_with_the_first_frame() -> None:
    one = setting(Name.step("x"), 40, 1, 1)
    assert one.a_minute(5) == pytest.approx((400 + 299 * 20) / 300)
    assert comparison(kind="clip").bytes_of(one) == 40
    assert comparison(kind="rooms").bytes_of(one) == one.a_minute(5)


def test_against_frames_alone() -> None:
    one = comparison()
    assert one.against_alone == 10
    assert one.loss(one.judged, one.alone, "classification") == pytest.approx(0.01)
    assert one.loss(one.judged, one.alone, "normals") == pytest.approx(0.2)


def test_others_cost_what_the_task_costs_that_needs_most() -> None:
    one = comparison()
    read = one.cost("video", one.judged)
    assert (read.value, read.side) == (pytest.approx(200), "")  # classification; normals need less
    assert one.against("video", one.judged).text == "5.0x"
    assert one.against("feature", one.judged).text == "at least 7.5x"  # never as good
    assert one.against("image", one.judged).text == "at most 22.5x"  # always better
    assert one.against("feature", one.judged).met(5) is True
    assert one.against("feature", one.judged).met(8) is None
    assert one.against("image", one.judged).met(5) is None
    assert one.against("image", one.judged).met(30) is False


def test_bytes_of_several_footages_are_added_up() -> None:
    ratio = ratio_of([comparison(judged=40), comparison(judged=60)], "video")
    assert ratio.value == pytest.approx(400 / 100)


def test_targets_are_of_the_footage_that_they_name() -> None:
    about = About(command="", date="2026-01-01", images=10, machine={})
    video = Video(
        about=about,
        bundle="rooms",
        kinds=KINDS,
        quality=96,
        hold=0.3,
        sticky=True,
        predicts=True,
        footage=(
            footage("still", "rooms", "static"),
            footage("knocks", "rooms", "knocked"),
            footage(judged=39),
            footage("better", judged=39, top1=0.96),
        ),
    )
    targets = {one.what: one for section in sections(video) for one in section.targets}
    assert targets["still: bytes a frame, all tasks"].met  # (400 + 299 * 20) / 300
    assert targets["still: bytes a frame, all tasks"].reached == "21.3"
    assert targets["clips: fewer bytes than frames I alone"].met
    lost = "clips: most agreement lost to frames I alone,"
    assert targets[f"{lost} of any clip and task"].reached == "1.00"
    assert targets[f"{lost} mean of the clips, of any task"].reached == "0.20"  # normals; the class gains
    assert targets["clips: fewer bytes than x265 of the picture at equal agreement"].met
    assert len(targets) == 5
