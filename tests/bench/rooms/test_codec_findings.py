"""What `isthmus bench rooms` concludes about codecs from made-up measurements."""

from __future__ import annotations

from bench.report.report import About, markdown
from bench.rooms.codec_findings import joint_against_separate, levels_alone, priors
from bench.rooms.findings import findings
from bench.rooms.parts import CONTEXT_PRIORS, MeasuredPart
from support.measured_parts import codec, reached

NEEDED = ("codec", "bundle", "bundle-codec", "only-classification", "only-normals", "with-segmentation")
WITH_CONTEXT = tuple(folders["codebook"] for folders in CONTEXT_PRIORS.values())


def test_a_joint_stream_is_compared_at_the_quality_that_it_has():
    joint = codec([(50, 120.0, {"classification": (0.9, 0.1), "normals": (10.0, 0.2)})])
    only_cls = codec(
        [(0, 50.0, {"classification": (0.8, 0.2)}), (100, 100.0, {"classification": (0.9, 0.1)})]
    )
    only_normals = codec([(0, 60.0, {"normals": (12.0, 0.3)}), (100, 100.0, {"normals": (10.0, 0.25)})])
    parts = {"codec": joint, "only-classification": only_cls, "only-normals": only_normals}
    made = joint_against_separate(parts)
    assert made.rows == (
        ("50 (default)", "120.0", "100.0 + 100.0", "40.0%", "100.0 + > 100.0", "at least 40.0%"),
    )
    assert [met for _, met in reached(made).values()] == [True, True]


def test_a_saving_that_the_curves_do_not_reach_is_not_made_up():
    joint = codec([(50, 90.0, {"classification": (0.7, 0.3), "normals": (9.0, 0.1)})])
    parts = {
        "codec": joint,
        "only-classification": codec([(0, 50.0, {"classification": (0.8, 0.2)})]),
        "only-normals": codec([(0, 60.0, {"normals": (12.0, 0.3)})]),
    }
    assert reached(joint_against_separate(parts)) == {
        "2 tasks, joint against separate at the default quality, equal metric": ("undetermined", None),
        "2 tasks, joint against separate at the default quality, equal distortion": ("undetermined", None),
    }


def test_three_tasks_are_held_against_three_codecs():
    joint = codec([(50, 120.0, {"classification": (0.9, 0.1), "segmentation": (0.7, 0.2)})])
    parts = {
        "with-segmentation": joint,
        "only-classification": codec([(0, 50.0, {"classification": (0.9, 0.1)})]),
        "only-segmentation": codec([(0, 100.0, {"segmentation": (0.7, 0.2)})]),
    }
    missing = {"only-normals": "only-normals is missing"}
    missing |= dict.fromkeys(("codec", "bundle", "first", "bundle-codec", *WITH_CONTEXT), "no")
    by_title = {one.title: one for one in findings(parts, missing)}
    made = by_title["Joint against separate, with segmentation"]
    assert made.notes == ("not measured: only-normals is missing",)
    made = joint_against_separate(parts, "with-segmentation")
    assert made.rows == (("50 (default)", "120.0", "50.0 + 100.0", "20.0%", "50.0 + 100.0", "20.0%"),)


def test_a_level_is_held_against_the_codec_of_its_own_lambda():
    joint = codec(
        [
            (0, 50.0, {"normals": (9, 0.4)}),
            (50, 80.0, {"normals": (9, 0.2)}),
            (100, 100.0, {"normals": (9, 0.1)}),
        ],
        {"normals": 1000.0},
        (0.1, 0.4, 1.0),
    )
    low = codec([(50, 48.0, {"normals": (9, 0.4)})], {"normals": 100.0})
    high = codec([(50, 90.0, {"normals": (9, 0.1)})], {"normals": 1000.0})
    middle = codec([(50, 78.0, {"normals": (9, 0.2)})], {"normals": 400.0})
    made = levels_alone({"codec": joint, "level-low": low, "level-middle": middle, "level-high": high})
    # bits + lambda d: 400 + 40 against 384 + 40, 640 + 80 against 624 + 80, and 800 + 100 against 720 + 100
    assert [row[2:] for row in made.rows] == [
        ("50.0 at quality 0", "+3.8%", "50.0", "+4.2%"),
        ("80.0 at quality 50", "+2.3%", "80.0", "+2.6%"),
        ("100.0 at quality 100", "+9.8%", "100.0", "+11.1%"),
    ]
    assert reached(made) == {"levels of codec within 5 % of a codec of their lambda alone": ("2 of 3", True)}
    made = levels_alone({"codec": joint, "level-low": low, "level-high": high})
    assert reached(made) == {"levels of codec within 5 % of a codec of their lambda alone": ("1 of 2", False)}
    other = codec([(50, 48.0, {"normals": (9, 0.4)})], {"normals": 55.0})
    assert (
        "level-low: codec has no level of its lambda"
        in levels_alone({"codec": joint, "level-low": other}).notes
    )


def test_the_bundle_codecs_longer_training_is_reported():
    joint = codec(
        [(0, 50.0, {"normals": (9, 0.4)}), (100, 100.0, {"normals": (9, 0.1)})],
        {"normals": 1000.0},
        (0.1, 1.0),
    ).model_copy(update={"seen": 8000})
    low = codec([(50, 48.0, {"normals": (9, 0.4)})], {"normals": 100.0}).model_copy(update={"seen": 4000})
    made = levels_alone({"bundle-codec": joint, "level-low": low}, "bundle-codec")
    assert [row[0] for row in made.rows] == ["level-low (lambda 100)"]
    assert (
        "Images seen in training: level-low 4,000; bundle-codec 8,000, for each of its 2 levels 4,000"
        in made.notes
    )


def test_priors_are_compared_at_equal_distortion():
    def curve(factor: float) -> MeasuredPart:
        return codec([(q, factor * 50 * 2**q, {"normals": (9, 0.4 / 2**q)}) for q in (0, 1, 2)], default=1)

    longer = {"first": curve(1.0), "first-factorised": curve(1.1)}
    with_context = {"context-codebook-1": curve(1.0), "context-hyperprior-1": curve(1.05)}
    missing = dict.fromkeys((*NEEDED, "context-codebook-0", "context-codebook-2"), "no")
    by_title = {one.title: one for one in findings(longer | with_context, missing)}
    again = by_title["Codebook against other priors, all with the same context, seed 1"]
    assert again.rows[-1] == ("mean (BD-rate)", "", "0 %", "+5.0%")
    section = by_title["Codebook hyperprior against other priors, trained longer"]
    assert section.columns == ("quality", "sum of lambda d", "codebook bytes", "factorised bytes")
    assert section.rows[-1][-1] == "+10.0%"
    made = priors({"codec": curve(1.0), "prior-hyperprior": curve(1.2)})
    assert made.columns == ("quality", "sum of lambda d", "codebook bytes", "hyperprior bytes")
    assert made.rows[1] == ("1 (default)", "200", "100.0", "120.0")
    assert made.rows[-1] == ("mean (BD-rate)", "", "0 %", "+20.0%")


def test_a_report_is_markdown_of_every_section():
    sections = findings(
        {"codec": codec([(50, 1.0, {"normals": (9, 0.1)})])},
        {"bundle": "bundle is missing"}
        | dict.fromkeys(
            (
                "network",
                "normals",
                "segmentation",
                "only-classification",
                "only-normals",
                "level-low",
                "level-high",
                "first",
                "bundle-codec",
                *WITH_CONTEXT,
            ),
            "x is missing",
        ),
    )
    about = About(
        command="isthmus bench rooms w", date="2026-01-02T03:04:05+00:00", images=9, machine={"cores": "2"}
    )
    text = markdown(sections, about)
    assert text.startswith(
        "## Rooms, 2026-01-02\n\n`isthmus bench rooms w`, 2026-01-02T03:04:05+00:00, on 9 test rooms"
    )
    assert text.count("- not measured: bundle is missing") == 3
