"""What `isthmus bench latency` concludes from made-up measurements, impossible ones among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.latency.edge_process import EdgeReply
from bench.latency.latency_report import sections, write_latency
from bench.latency.results import (
    LOOPBACK,
    MIDDLE,
    SLOW,
    Approach,
    ApproachTimes,
    EdgeProcess,
    Latency,
    LinkTimes,
    Spread,
)
from bench.link import Reached, Shape
from bench.report.report import About
from bench.report.sections import targets

STAGES = ("decode image", "fronts", "transform", "extractor", "exact path", "range coder", "container")
QUIET = {"Isthmus": (100.0, 80.0), "JPEG 75": (310.0, 100.0), "AVIF 50": (140.0, 90.0), "local": (27.0, 27.0)}


def spread(ms: float) -> Spread:
    return Spread(median=ms, p95=2 * ms, count=3)


def latency(ms: dict[str, tuple[float, float]], edge_ms: float = 7.0, **stages: float) -> Latency:
    """Made up. ms: of each approach on SLOW and on MIDDLE. Every stage of the edge takes a seventh of edge_ms, but for
    those in stages (with _ for a space)."""
    forms = {"Isthmus": "isthmus", "local": "local"}
    approaches = tuple(
        Approach(name=name, form=forms.get(name, name.split()[0]), equal=name.endswith("50")) for name in ms
    )

    def on(which: int, shape: Shape | None) -> LinkTimes:
        answers = {
            name: ApproachTimes(ms=spread(one[which]), bytes=100.0, stages={}) for name, one in ms.items()
        }
        reached = shape and Reached(mbit=shape.mbit, round_trip_ms=2 * shape.delay_ms)
        return LinkTimes(name=str(shape or LOOPBACK), shape=shape, reached=reached, answers=answers)

    rest = ("exact path + coding, decoding", "reconstruction", "tails", "results")
    return Latency(
        about=About(command="isthmus bench latency", date="2026-01-02T03:04:05+00:00", images=3, machine={}),
        link="made up",
        approaches=approaches,
        stages={
            **{name: spread(edge_ms / 7) for name in STAGES},
            **{name: spread(1.0) for name in rest},
            **{name.replace("_", " "): spread(value) for name, value in stages.items()},
        },
        links=(on(0, None), on(0, SLOW), on(1, MIDDLE)),
        cold={name: spread(10.0) for name in ms if name != "local"},
        edge=EdgeProcess(start_s=spread(1.0), start_memory_mb=100, served_memory_mb=200),
    )


def reached(made: Latency) -> dict[str, tuple[str, bool | None]]:
    return {target.what: (target.reached, target.met) for target in targets(sections(made))}


def test_targets_are_ratios_of_medians() -> None:
    ms = {
        "Isthmus": (100.0, 80.0),
        "JPEG 75": (310.0, 100.0),
        "AVIF 50": (140.0, 90.0),
        "local": (27.0, 27.0),
    }
    got = reached(latency(ms))
    assert got[f"{SLOW}: against JPEG 75"] == ("3.10x", True)
    assert got[f"{SLOW}: against best image codec at equal task quality"] == ("1.40x", False)
    assert got[f"{MIDDLE}: against JPEG 75"] == ("1.25x", False)
    assert got["edge: all after the fronts"] == ("5.00", False)
    assert got["edge: resident memory"] == ("200 MB", True)


def test_the_map_says_who_wins_where_and_until_when_local_does() -> None:
    ms = {"Isthmus": (107.0, 80.0), "JPEG 75": (310.0, 60.0), "local": (27.0, 27.0)}
    choice = next(section for section in sections(latency(ms)) if section.title == "When to use what")
    assert [row[1:3] for row in choice.rows] == [("local", "Isthmus"), ("local", "JPEG 75")]
    # k * 7 + 100 on Isthmus's side, k * 27 on the other: equal at k = 5.
    assert choice.rows[0][3] == "5.0x"
    text = " ".join(choice.notes)
    assert "shorter than sending on all 2 links" in text
    assert f"Isthmus is the shortest on 1 of 2 links ({SLOW})" in text
    slower = sections(latency({**ms, "local": (200.0, 200.0)}))[2]
    assert [row[1] for row in slower.rows] == ["Isthmus", "JPEG 75"]
    assert slower.rows[0][3] == "never"
    assert "longer than sending on every link" in " ".join(slower.notes)


def test_an_answers_wire_is_what_the_cloud_did_not_take() -> None:
    times = {"send_ms": 50.0, "queue_ms": 2.0, "decode_ms": 3.0, "tails_ms": 20.0}
    times_of = ApproachTimes.of([EdgeReply(ms=60, bytes=300, times=times)] * 2)
    assert times_of.stages["wire"].median == 25.0
    assert times_of.ms.count == 2


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    write_latency(tmp_path, latency({"Isthmus": (100.0, 80.0), "JPEG 75": (310.0, 100.0)}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latency.png", "results.json", "results.md"]
    assert "| 0.25 Mbit/s, 20 ms | 100 / 200 | 310 / 620 (3.10x) |" in (tmp_path / "results.md").read_text()


def test_a_stage_below_zero_is_noise_and_meets_no_target() -> None:
    """What follows the fronts would be -1.0 of their time, and coding -210 ms: both "at most" what was wanted."""
    noisy = latency(QUIET, transform=-6.0, range_coder=-211.0)
    got = reached(noisy)
    assert got["edge: all after the fronts"][1] is None
    assert got["exact path + coding, encoding"][1] is None
    assert got["exact path + coding, decoding"] == ("1.0 ms", True)
    stages = sections(noisy)[0]
    assert {row[0]: row[2] for row in stages.rows}["range coder"] == "noise (-211.00)"
    assert any(note.startswith("noise: a stage") for note in stages.notes)
    assert not any(note.startswith("noise") for note in sections(latency(QUIET))[0].notes)


def test_an_answer_that_outran_its_link_decides_nothing() -> None:
    """20 ms there and 20 back: 39 ms cannot be, and would be 8 times shorter than JPEG."""
    fast = latency({**QUIET, "Isthmus": (39.0, 80.0)})
    got = reached(fast)
    assert got[f"{SLOW}: against JPEG 75"] == ("noise (7.95x)", None)
    assert got[f"{MIDDLE}: against JPEG 75"] == ("1.25x", False)
    answers, choice = sections(fast)[1:3]
    assert answers.rows[1][1] == "noise (39.0 / 78.0)"
    assert choice.rows[0][3] == "undetermined"
    without_local = {name: ms for name, ms in QUIET.items() if name != "local"}
    choice = sections(latency({**without_local, "Isthmus": (39.0, 80.0)}))[2]
    assert [row[2] for row in choice.rows] == ["undetermined", "Isthmus"]
    too_fast_a_peer = reached(latency({**QUIET, "JPEG 75": (39.0, 100.0)}))
    assert too_fast_a_peer[f"{SLOW}: against JPEG 75"][1] is None


def test_a_clock_that_jumped_starts_no_process_in_time() -> None:
    made = latency(QUIET)
    jumped = made.model_copy(update={"edge": made.edge.model_copy(update={"start_s": spread(-0.211)})})
    assert reached(jumped)["edge: import to first encode"] == ("noise (-0.21 s)", None)


@pytest.mark.parametrize(("mbit", "text"), [(0.24, "0.24"), (None, "undetermined"), (9.0, "noise (9.00)")])
def test_a_link_cannot_be_faster_than_it_was_made(mbit: float | None, text: str) -> None:
    made = latency(QUIET)
    link = made.links[1].model_copy(update={"reached": Reached(mbit=mbit, round_trip_ms=44.0)})
    links = sections(made.model_copy(update={"links": (made.links[0], link)}))[-1]
    assert links.rows[0][1] == text
