"""What `isthmus bench rate` concludes from made-up curves."""

from __future__ import annotations

import pytest

from bench.rate.comparison import Comparison
from bench.rate.findings import all_tasks, contenders, each_alone, equal_quality, goals, levels, saved
from bench.report.curves import Read
from bench.report.rate_results import ContenderResult, Setting


def result(name, family, settings, together=True, shared=()) -> ContenderResult:
    """settings: by name, {task: (bytes, headline metric)}."""
    keys = {"classification": "top1", "normals": "mean_deg"}
    return ContenderResult(
        name=name,
        family=family,
        about="",
        together=together,
        images=9,
        shared=shared,
        settings=tuple(
            Setting(
                name=setting,
                bytes={task: size for task, (size, _) in tasks.items()},
                metrics={task: {keys[task]: value} for task, (_, value) in tasks.items()},
            )
            for setting, tasks in settings.items()
        ),
    )


def comparison(shared=(), more=None) -> Comparison:
    """shared: of the hybrid's tasks. more: further settings of Isthmus."""
    both = {"classification": "classification", "normals": "normals"}
    plain = result("PNG", "uncompressed", {"": {"classification": (9e4, 0.9), "normals": (9e4, 9.5)}})
    ours = result(
        "Isthmus",
        "isthmus",
        {
            "quality 0": {"classification": (50, 0.7), "normals": (50, 14.0)},
            "quality 50": {"classification": (100, 0.8), "normals": (100, 12.0)},
            "quality 100": {"classification": (200, 0.9), "normals": (200, 10.5)},
            **(more or {}),
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
        shared=shared,
    )
    skipped = {"JPEG XL": "it is not installed"}
    return Comparison([plain, ours, jpeg, avif, hybrid], both, both, "quality 50", skipped)


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
    assert rows["Isthmus"] == ("100", "", "100", "")
    assert rows["JPEG"] == ("1000", "90.0%") * 2
    assert rows["hybrid (feature as HEVC)"] == ("150 + 190", "70.6%") * 2, "nothing is known to be shared"
    assert rows["AVIF"] == ("> 400", "at least 75.0%") * 2


@pytest.mark.parametrize(
    ("shared", "once"),
    [
        ([("classification", "normals")], ("190", "47.4%")),
        ([("classification",), ("normals",)], ("150 + 190", "70.6%")),
    ],
)
def test_a_feature_that_tasks_share_may_be_sent_once(shared, once):
    rows = {row[0]: row[1:] for row in all_tasks(comparison(shared)).rows}
    assert rows["hybrid (feature as HEVC)"] == ("150 + 190", "70.6%", *once)
    got = {target.what: target.reached for target in goals(comparison(shared)).targets}
    assert got["all tasks: against the best feature codec"] == once[1]


def test_targets_are_judged_by_the_cheapest_contender_that_gets_there():
    got = {target.what: (target.reached, target.met) for target in goals(comparison()).targets}
    assert got["normals: against JPEG, of either size"] == ("90.0%", True)
    assert got["normals: against the best image codec"][1] is False, "AVIF has it at less than 400 bytes"
    assert got["classification: against the best image codec"] == ("90.0%", True), "AVIF never gets there"
    assert got["classification: against the best feature codec"] == ("33.3%", False)
    assert got["all tasks: against the best feature codec"] == ("70.6%", True)


BASE = {"base": {"classification": (30, 0.8)}}


def test_a_setting_that_answers_one_task_counts_for_that_task_alone():
    partial = comparison(more=BASE)
    table = {row[0]: row[1:] for row in levels(partial).rows}
    assert table["base"] == ("30.0", "80.0% (-10.0%)", "not answered")
    rows = {row[0]: row[1:] for row in equal_quality(partial, "classification").rows}
    assert rows["Isthmus"][2] == "30"
    assert rows["JPEG"][2:4] == ("1000", "97.0%")
    assert {row[0]: row[1:] for row in equal_quality(partial, "normals").rows}["Isthmus"][2] == "100"
    got = {target.what: (target.reached, target.met) for target in goals(partial).targets}
    assert got["classification: against the best feature codec"] == ("80.0%", True)
    assert got["normals: against the best feature codec"] == ("47.4%", False)
    assert got["all tasks: against JPEG, of either size"] == ("90.0%", True), "the base does not serve all"
    assert {row[0]: row[1:] for row in all_tasks(partial).rows}["Isthmus"][0] == "100"


def test_each_task_alone_names_the_setting_and_the_cheapest_rivals():
    section = each_alone(comparison(more=BASE))
    rows = {row[0]: row[1:] for row in section.rows}
    assert section.columns[3:] == (
        "the best image codec: bytes",
        "Isthmus saves",
        "the best feature codec: bytes",
        "Isthmus saves",
    )
    row = rows["classification: 80.0%, as at the default"]
    assert row == ("30", "base", "1000 (JPEG)", "97.0%", "150 (hybrid (feature as HEVC))", "80.0%")
    assert rows["normals: 12.00, as at the default"][:2] == ("100", "quality 50")
    assert rows["normals: 10.50, near uncompressed"][:2] == ("200", "quality 100")


def test_what_could_not_be_measured_says_why():
    assert ("JPEG XL", "0", "not measured: it is not installed") in contenders(comparison()).rows


def test_another_way_to_count_is_a_result_of_its_own():
    settings = (
        Setting(
            name="QP 1", bytes={"a": 9.0}, metrics={"a": {"top1": 1.0}}, counts={"sets sent": {"a": 20.0}}
        ),
        Setting(name="QP 2", bytes={"a": 8.0}, metrics={"a": {"top1": 0.9}}),
    )
    one = ContenderResult(name="x", family="feature", about="y", together=False, images=1, settings=settings)
    plain, sent = one.counted()
    assert [setting.bytes["a"] for setting in plain.settings] == [9.0, 8.0]
    assert (sent.name, sent.about) == ("x, sets sent", "the same, sets sent")
    assert [setting.bytes["a"] for setting in sent.settings] == [20.0, 8.0]
    assert sent.settings[0].metrics == settings[0].metrics
    assert not any(setting.counts for result in (plain, sent) for setting in result.settings)
