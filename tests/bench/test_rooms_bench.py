"""`isthmus bench rooms` on a folder of small random models; what it concludes, on made-up measurements."""

from __future__ import annotations

import csv
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.report.report import About, markdown
from bench.rooms import measure as measure_module
from bench.rooms.findings import (
    Section,
    findings,
    joint_against_separate,
    levels_alone,
    priors,
    rate_span,
    third_flow,
    through_the_codec,
    uncompressed,
)
from bench.rooms.measure import Measured, Point
from cloud.task_folders import add_task
from shared.errors import DataError
from support.tasks import write_task
from support.untrained import SCALES, SIZE, random_network, random_run
from train.bundle.build import build
from train.bundle.evaluate import flips
from train.data.room_set import RoomSet
from train.rooms import write_rooms


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Everything but level-high; only-normals is a training that has not ended."""
    work = tmp_path_factory.mktemp("work")
    layers = ("image", "category", "normals", "semantic")
    write_rooms(work / "test", range(10**9, 10**9 + 6), height=SIZE, width=SIZE, layers=layers, shard_size=6)
    cls = random_network(work / "network", "classification")
    normals = random_network(work / "normals", "normals")
    segmentation = random_network(work / "segmentation", "segmentation")
    random_run(work / "codec", [cls, normals])
    random_run(work / "only-classification", [cls])
    (random_run(work / "only-normals", [normals]) / "figures.json").unlink()
    random_run(work / "level-low", [cls, normals], scales=(1.0,), lambda_=25.0)
    random_run(work / "prior-factorised", [cls, normals], prior="factorised")
    random_run(work / "prior-hyperprior", [cls, normals], prior="hyperprior")
    random_run(work / "with-segmentation", [cls, normals, segmentation])
    build(work / "codec", work / "bundle", "rooms", RoomSet(work / "test"))
    folder = write_task(work / "bundle", work / "added", "segmentation", kind="segmentation")
    add_task(work / "bundle", folder)
    return work


def bench(work: Path, *flags: str):
    from isthmus import app

    return CliRunner().invoke(app, ["bench", "rooms", str(work), *flags])


@pytest.fixture(scope="module")
def results(work) -> dict:
    done = bench(work)
    assert done.exit_code == 0, done.output
    assert "Targets" in done.output
    return json.loads((work / "bench" / "results.json").read_text())


def section(results: dict, title: str) -> dict:
    return next(one for one in results["sections"] if one["title"] == title)


def test_all_that_is_there_is_measured_and_the_rest_is_named(work, results):
    assert results["pictures"] == 6
    assert {"bundle", "codec", "network", "prior-hyperprior"} <= results["parts"].keys()
    separate = section(results, "Joint against separate")
    assert separate["rows"] == []
    assert separate["notes"] == ["not measured: only-normals is not trained to its end"]
    levels = section(results, "A level against a codec of its lambda alone")
    assert [row[0] for row in levels["rows"]] == ["level-low (lambda 25, 25)"]
    assert "not measured: level-high is missing" in levels["notes"]
    trained = json.loads((work / "codec" / "recipe.json").read_text())["recipe"]
    assert results["parts"]["codec"]["seen"] == trained["steps"] * trained["batch"]
    assert len(section(results, "Codebook hyperprior against other priors")["rows"]) == len(SCALES) + 1


def test_the_bundle_is_measured_on_true_bytes_and_its_streams_do_not_change(results):
    bundle, codec = results["parts"]["bundle"], results["parts"]["codec"]
    for written, ideal in zip(bundle["points"], codec["points"], strict=True):
        assert 0 < written["bytes"] - ideal["bytes"] < 25, "container, and less than a byte a stream"
        assert written["tasks"]["classification"]["top1"] == ideal["tasks"]["classification"]["top1"]
    for low, high in pairwise(bundle["points"]):
        lost, won = high["flips"]["classification"]
        gained = high["tasks"]["classification"]["top1"] - low["tasks"]["classification"]["top1"]
        assert (won - lost) / results["pictures"] == pytest.approx(gained)
    before, after = bundle["streams"]
    assert before == after
    assert len(set(after.values())) == len(SCALES)
    rows = section(results, "A task added later")["rows"]
    assert all(row[2].startswith("the same ") for row in rows)


def test_distortions_are_those_of_whole_maps_against_the_network(work):
    from train.codec.distortion import distortion
    from train.codec.split_networks import load_run
    from train.codec.train_codec import evaluate
    from train.data.open_dataset import open_datasets

    model, recipe, cards = load_run(work / "codec")
    views = open_datasets(work / "test", [card.task for card in cards])
    figures = evaluate(model, recipe, views, cards[0].preprocess, model, distances=True)
    assert "normals/distortion@0" not in evaluate(model, recipe, views, cards[0].preprocess, model)
    from train.data.dataset import network_input

    x = network_input(views[0].images(torch.arange(6).numpy()), cards[0].preprocess)
    with torch.no_grad():
        given = model.features(x)
        made, _ = model.codec(given, torch.full((6,), 2.0))
        d = distortion("distill", model.heads[1], model.heads[1], made[1], given[1], None, None)
    assert figures["normals/distortion@100"] == pytest.approx(float(d.mean()), rel=1e-4)


def test_files_are_written(work, results):
    out = work / "bench"
    lines = list(csv.DictReader(io.StringIO((out / "curves.csv").read_text())))
    assert {line["bytes_are"] for line in lines} == {"uncompressed", "written", "float model's"}
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "results.md").read_text()
    assert "### The bundle at its levels" in text
    assert "cores" in results["machine"]
    assert results["command"] in text


def test_what_was_measured_is_not_measured_again_but_for_other_weights(work, results, monkeypatch, tmp_path):
    shutil.copytree(work, tmp_path / "work")
    for name in ("bundle", "with-segmentation", "prior-factorised", "prior-hyperprior"):
        shutil.rmtree(tmp_path / "work" / name)
    measured = []
    plain = measure_module.evaluate
    monkeypatch.setattr(
        measure_module, "evaluate", lambda *a, **k: (measured.append(k["bar"]), plain(*a, **k))[1]
    )
    assert bench(tmp_path / "work").exit_code == 0
    assert measured == []
    checkpoint = tmp_path / "work" / "level-low" / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    next(iter(state["model"].values())).add_(0.01)
    torch.save(state, checkpoint)
    assert bench(tmp_path / "work").exit_code == 0
    assert measured == ["level-low"]
    assert bench(tmp_path / "work", "--count", "3").exit_code == 0
    assert measured[1:] == ["codec", "only-classification", "level-low"]


def test_a_folder_without_rooms_is_one_clear_line(tmp_path):
    done = bench(tmp_path)
    assert isinstance(done.exception, DataError)
    assert "has no test rooms (test/)" in str(done.exception)
    (tmp_path / "test").mkdir()
    done = bench(tmp_path)
    assert "holds nothing to measure" in str(done.exception)
    assert not (tmp_path / "bench").exists()


def codec(rows, lambdas=None, scales=(), default=50) -> Measured:
    """rows: quality, bytes, {task: (figure, distortion)}."""
    keys = {"classification": "top1", "normals": "mean_deg", "segmentation": "miou"}
    points = tuple(
        Point(quality=q, bytes=size, tasks={t: {keys[t]: f, "distortion": d} for t, (f, d) in tasks.items()})
        for q, size, tasks in rows
    )
    return Measured(
        what="codec",
        pictures=9,
        kinds={task: task for task in rows[0][2]},
        uncompressed={},
        points=points,
        scales=scales or tuple(1.0 for _ in rows),
        lambdas=lambdas or dict.fromkeys(rows[0][2], 1000.0),
        default_quality=default,
    )


def reached(section: Section) -> dict[str, tuple[str, bool | None]]:
    return {target.what: (target.reached, target.met) for target in section.targets}


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
        "2 tasks, joint against separate at the default quality, equal metric": ("cannot be told", None),
        "2 tasks, joint against separate at the default quality, equal distortion": ("cannot be told", None),
    }


def test_three_tasks_are_held_against_three_codecs():
    joint = codec([(50, 120.0, {"classification": (0.9, 0.1), "segmentation": (0.7, 0.2)})])
    parts = {
        "with-segmentation": joint,
        "only-classification": codec([(0, 50.0, {"classification": (0.9, 0.1)})]),
        "only-segmentation": codec([(0, 100.0, {"segmentation": (0.7, 0.2)})]),
    }
    missing = {"only-normals": "only-normals is missing"}
    missing |= dict.fromkeys(("codec", "bundle", "first", "bundle-codec"), "no")
    by_title = {one.title: one for one in findings(parts, missing)}
    told = by_title["Joint against separate, with segmentation"]
    assert told.notes == ("not measured: only-normals is missing",)
    made = joint_against_separate(parts, "with-segmentation")
    assert made.rows == (("50 (default)", "120.0", "50.0 + 100.0", "20.0%", "50.0 + 100.0", "20.0%"),)


def test_span_and_monotony():
    points = [
        (0, 50.0, {"normals": (12.0, 0)}),
        (50, 100.0, {"normals": (9.0, 0)}),
        (100, 400.0, {"normals": (9.5, 0)}),
    ]
    made = rate_span({"bundle": codec(points)})
    assert reached(made) == {
        "rate span": ("8.00x", True),
        "monotonic in bytes and quality": ("not in normals", False),
    }


NEEDED = ("codec", "bundle", "bundle-codec", "only-classification", "only-normals", "with-segmentation")
SIGN = "no fall of top-1 beyond chance (sign test of the pictures that change)"


def flipped(*flips: tuple[int, int]) -> Measured:
    """A bundle whose top-1 changes from level to level by the pictures lost and won."""
    made, top = (
        codec([(50 * i, 50.0 * (i + 1), {"classification": (0, 0)}) for i in range(len(flips) + 1)]),
        0.9,
    )
    points = [made.points[0].model_copy(update={"tasks": {"classification": {"top1": top}}})]
    for point, (lost, won) in zip(made.points[1:], flips, strict=True):
        top += (won - lost) / 1000
        figures = {"tasks": {"classification": {"top1": top}}, "flips": {"classification": (lost, won)}}
        points.append(point.model_copy(update=figures))
    return made.model_copy(update={"points": tuple(points)})


def test_a_fall_that_chance_explains_is_told_from_one_that_it_does_not():
    made = rate_span({"bundle": flipped((1, 30), (5, 2))})
    assert reached(made)["monotonic in bytes and quality"] == ("not in classification", False)
    # Of seven that change five or more lost: (21 + 7 + 1) of 128.
    assert reached(made)[SIGN] == ("p = 23% or more", True)
    assert made.notes == (
        "classification from quality 50 to 100: 5 pictures lost, 2 won; chance alone does so with p = 23%",
    )
    worse = rate_span({"bundle": flipped((1, 30), (5, 2), (9, 1))})
    assert reached(worse)[SIGN] == ("p = 1% or more", False)
    assert len(worse.notes) == 2
    assert reached(rate_span({"bundle": flipped((1, 30), (2, 2))}))[SIGN] == ("no fall", True)


def test_flips_are_of_the_same_pictures_and_the_next_lower_quality():
    right = {
        0: [np.array([True, True, False]), np.array([False, True])],
        50: [np.array([True, False, True]), np.array([False, False])],
        25: [np.array([True, True, True]), np.array([True, True])],
    }
    assert flips(right, 25) == (0, 2)
    assert flips(right, 50) == (3, 0)


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


def test_the_bundle_codecs_longer_training_is_told():
    joint = codec(
        [(0, 50.0, {"normals": (9, 0.4)}), (100, 100.0, {"normals": (9, 0.1)})],
        {"normals": 1000.0},
        (0.1, 1.0),
    ).model_copy(update={"seen": 8000})
    low = codec([(50, 48.0, {"normals": (9, 0.4)})], {"normals": 100.0}).model_copy(update={"seen": 4000})
    made = levels_alone({"bundle-codec": joint, "level-low": low}, "bundle-codec")
    assert [row[0] for row in made.rows] == ["level-low (lambda 100)"]
    assert (
        "Pictures seen in training: level-low 4,000; bundle-codec 8,000, for each of its 2 levels 4,000"
        in made.notes
    )


def test_priors_are_compared_at_equal_distortion():
    def curve(factor: float) -> Measured:
        return codec([(q, factor * 50 * 2**q, {"normals": (9, 0.4 / 2**q)}) for q in (0, 1, 2)], default=1)

    longer = {"first": curve(1.0), "first-factorised": curve(1.1)}
    by_title = {one.title: one for one in findings(longer, dict.fromkeys(NEEDED, "no"))}
    told = by_title["Codebook hyperprior against other priors, trained longer"]
    assert told.columns == ("quality", "sum of lambda d", "codebook bytes", "factorised bytes")
    assert told.rows[-1][-1] == "+10.0%"
    made = priors({"codec": curve(1.0), "prior-hyperprior": curve(1.2)})
    assert made.columns == ("quality", "sum of lambda d", "codebook bytes", "hyperprior bytes")
    assert made.rows[1] == ("1 (default)", "200", "100.0", "120.0")
    assert made.rows[-1] == ("mean (BD-rate)", "", "0 %", "+20.0%")


def test_a_loss_at_the_default_quality_is_judged_against_the_network():
    networks = {
        "network": Measured(
            what="network", pictures=9, kinds={}, uncompressed={"classification": {"top1": 0.95}}
        )
    }
    bundle = codec([(50, 390.0, {"classification": (0.93, 0), "normals": (8.0, 0)})])
    got = reached(through_the_codec({**networks, "bundle": bundle}))
    assert got["classification at the default quality: top-1 lost"] == ("2.0%", False)
    assert got["normals at the default quality: mean error lost"] == (
        "unknown: no uncompressed network",
        None,
    )
    assert got["mean bytes at the default quality, 2 tasks"] == ("390.0", None)
    assert reached(uncompressed(networks)) == {"uncompressed classification: top-1": ("95.0%", True)}


def test_bytes_that_changed_are_told():
    bundle = codec([(50, 100.0, {"segmentation": (0.5, 0)})])
    bundle = bundle.model_copy(update={"added": ("segmentation",), "streams": ({50: "aa"}, {50: "bb"})})
    joint = codec([(0, 50.0, {"segmentation": (0.4, 0)}), (100, 200.0, {"segmentation": (0.6, 0)})])
    made = third_flow({"bundle": bundle, "with-segmentation": joint})
    assert made.rows == (("50 (default)", "100.0", "CHANGED bb", "0.500", "0.500"),)
    assert [met for _, met in reached(made).values()] == [False]


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
            ),
            "x is missing",
        ),
    )
    about = About(
        command="isthmus bench rooms w", date="2026-01-02T03:04:05+00:00", pictures=9, machine={"cores": "2"}
    )
    text = markdown(sections, about)
    assert text.startswith(
        "## Rooms, 2026-01-02\n\n`isthmus bench rooms w`, 2026-01-02T03:04:05+00:00, on 9 test rooms"
    )
    assert text.count("- not measured: bundle is missing") == 3
