"""What `isthmus bench rate` concludes from made-up curves."""

from __future__ import annotations

import pytest

from bench.rate.findings import Comparison, all_tasks, equal_quality, goals, saved
from bench.report.curves import Read
from bench.report.rate_results import ContenderResult, Setting


def result(name, family, settings, together=True) -> ContenderResult:
    """settings: by name, {task: (bytes, headline metric)}."""
    keys = {"classification": "top1", "normals": "mean_deg"}
    return ContenderResult(
        name=name,
        family=family,
        about="",
        together=together,
        images=9,
        settings=tuple(
            Setting(
                name=setting,
                bytes={task: size for task, (size, _) in tasks.items()},
                metrics={task: {keys[task]: value} for task, (_, value) in tasks.items()},
            )
            for setting, tasks in settings.items()
        ),
    )


def comparison() -> Comparison:
    both = {"classification": "classification", "normals": "normals"}
    plain = result("PNG", "uncompressed", {"": {"classification": (9e4, 0.9), "normals": (9e4, 9.5)}})
    ours = result(
        "Isthmus",
        "isthmus",
        {
            "quality 0": {"classification": (50, 0.7), "normals": (50, 14.0)},
            "quality 50": {"classification": (100, 0.8), "normals": (100, 12.0)},
            "quality 100": {"classification": (200, 0.9), "normals": (200, 10.5)},
        },
    )
    jpeg = result(
        "JPEG",
        "image",
        {
            "quality 1": {"classification": (500, 0.7), "normals": (500, 14.0)},
            "quality 50": {"classification": (1000, 0.8), "normals": (1000, 12.0)},
            "quality 90": {"classification": (2000, 0.9), "normals": (2000, 10.5)},
        },
    )
    avif = result(
        "AVIF",
        "image",
        {
            "quality 1": {"classification": (300, 0.75), "normals": (300, 13.0)},
            "quality 90": {"classification": (400, 0.79), "normals": (400, 11.0)},
        },
    )
    hybrid = result(
        "hybrid (feature as HEVC)",
        "feature",
        {"8 bits": {"classification": (150, 0.8), "normals": (190, 12.0)}},
        together=False,
    )
    return Comparison([plain, ours, jpeg, avif, hybrid], both, both, "quality 50")


def test_bytes_at_equal_quality_and_bd_rate():
    rows = {row[0]: row[1:] for row in equal_quality(comparison(), "normals").rows}
    assert rows["Isthmus"] == ("200", "", "100", "", "")
    assert rows["JPEG"] == ("2000", "90.0%", "1000", "90.0%", "+900%")
    assert rows["hybrid (feature as HEVC)"] == ("> 190", "at least -5.3%", "190", "47.4%", "no common range")
    avif = {row[0]: row[1:] for row in equal_quality(comparison(), "classification").rows}["AVIF"]
    assert avif[2:4] == ("> 400", "at least 75.0%")


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (Read(100, ""), Read(400, ""), "75.0%"),
        (Read(100, "<"), Read(400, ""), "at least 75.0%"),
        (Read(100, "<"), Read(400, ">"), "at least 75.0%"),
        (Read(100, "<"), Read(400, "<"), "undetermined"),
        (Read(100, ""), Read(400, "<"), "at most 75.0%"),
        (Read(100, ">"), Read(400, ""), "not reached by Isthmus"),
    ],
)
def test_a_saving_is_stated_as_far_as_the_curves_reach(ours, theirs, text):
    assert saved(ours, theirs) == text


def test_one_image_serves_all_tasks_and_features_are_sent_for_each():
    rows = {row[0]: row[1:] for row in all_tasks(comparison()).rows}
    assert rows["JPEG"] == ("1000", "90.0%")
    assert rows["hybrid (feature as HEVC)"] == ("150 + 190", "70.6%")
    assert rows["AVIF"] == ("> 400", "at least 75.0%")


def test_targets_are_judged_by_the_cheapest_contender_that_gets_there():
    got = {target.what: (target.reached, target.met) for target in goals(comparison()).targets}
    assert got["normals: against JPEG, of either size"] == ("90.0%", True)
    assert got["normals: against the best image codec"][1] is False, "AVIF has it at less than 400 bytes"
    assert got["classification: against the best image codec"] == ("90.0%", True), "AVIF never gets there"
    assert got["classification: against the hybrid"] == ("33.3%", False)
    assert got["all tasks: against the hybrid"] == ("70.6%", True)
