"""`isthmus bench photos` on small random models, from end to end, and what its report says of given results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.photos import photos as photos_module
from bench.photos.photos import name_of
from bench.photos.photos_report import comparison_of, cost_of_all, sections
from bench.photos.results import EdgeCost, Photos, PhotoSet
from bench.report.rate_results import ContenderResult, Family, Setting
from bench.report.report import About
from bench.report.sections import targets
from support.untrained import SIZE, random_network, random_run
from train.bundle.build import build
from train.data.open_dataset import open_datasets
from train.rooms import SEMANTIC_CLASSES

KINDS = {"classification": "classification", "segmentation": "segmentation"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random networks and their bundle, two sets of pictures: one with a map of classes each, one without labels."""
    work = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for folder in ("scenes/images", "scenes/labels", "plain"):
        (work / folder).mkdir(parents=True)
    for i in range(3):
        pixels = random.integers(0, 256, (50, 90, 3), np.uint8)
        Image.fromarray(pixels).save(work / "scenes/images" / f"{i}.png")
        Image.fromarray(pixels).save(work / "plain" / f"{i}.png")
        labels = random.integers(0, len(SEMANTIC_CLASSES), (50, 90), np.uint8)
        Image.fromarray(labels).save(work / "scenes/labels" / f"{i}.png")
    (work / "scenes/classes.txt").write_text("\n".join(SEMANTIC_CLASSES))
    networks = [random_network(work / task, task) for task in KINDS]
    random_run(work / "codec", networks)
    from shared.bundle import Preprocess

    fitted = Preprocess(height=SIZE, width=SIZE)
    (images,) = open_datasets(
        f"images:{work / 'plain'}", ["classification"], needed=[False], preprocess=fitted
    )
    build(work / "codec", work / "bundle", "tiny", images)
    return work


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One contender of each family; the others are bench rate's business."""
    all_of_them = photos_module.all_contenders
    names = ("PNG", "Isthmus", "JPEG", "feature, zstd")
    monkeypatch.setattr(
        photos_module, "all_contenders", lambda *a: [one for one in all_of_them(*a) if one.name in names]
    )


EDGE = EdgeCost(encode_ms=30, encode_mb=200, local_ms=20, local_mb=150)


def bench(work: Path, *flags: str) -> Any:
    from isthmus import app

    networks = [f"--network={work / task}" for task in KINDS]
    sets = [f"--data=labels:{work / 'scenes'}", f"--data=images:{work / 'plain'}"]
    arguments = [
        "bench",
        "photos",
        str(work / "bundle"),
        *networks,
        *sets,
        "--out",
        str(work / "out"),
        *flags,
    ]
    return CliRunner().invoke(app, arguments)


def test_sets_with_and_without_labels(work: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos_module, "edge_cost", lambda *_: EDGE)
    done = bench(work, "--quick", "--count", "2")
    assert done.exit_code == 0, (done.output, done.exception)
    results = json.loads((work / "out/results.json").read_text())
    labelled, plain = results["sets"]
    assert [one["name"] for one in results["sets"]] == ["scenes", "plain"]
    assert labelled["labelled"] == ["segmentation"]
    assert plain["labelled"] == []
    lossless = labelled["results"][0]["settings"][0]["metrics"]
    assert lossless["segmentation"]["pixel_accuracy"] == 1  # agreement of the networks with themselves
    assert lossless["classification"]["top1"] == lossless["classification"]["top5"] == 1
    assert lossless["segmentation"]["labels_pixel_accuracy"] < 0.5
    families = {one["family"] for one in labelled["results"]}
    assert families == {"uncompressed", "isthmus", "image", "feature"}
    assert results["edge"] == EDGE.model_dump()
    text = (work / "out/results.md").read_text()
    assert "scenes (2 images): against the set's labels" in text
    assert "plain (2 images): against the set's labels" not in text
    assert (work / "out/set1.png").read_bytes().startswith(b"\x89PNG")
    # What was measured is not measured again.
    monkeypatch.setattr(photos_module, "measure_contender", lambda *_: pytest.fail("measured again"))
    assert bench(work, "--quick", "--count", "2").exit_code == 0


@pytest.mark.slow  # exports both networks whole
def test_an_edge_process_is_timed_either_way(work: Path, few: None) -> None:
    assert bench(work, "--quick", "--count", "2").exit_code == 0
    edge = EdgeCost.model_validate(json.loads((work / "out/results.json").read_text())["edge"])
    assert min(edge.encode_ms, edge.local_ms) > 0
    assert min(edge.encode_mb, edge.local_mb) > 10


def test_clips_go_through_the_bench_of_videos(work: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(photos_module, "edge_cost", lambda *_: EDGE)
    monkeypatch.setattr(photos_module, "bench_video", lambda plan, command: seen.append(plan))
    assert bench(work, "--quick", "--count", "2", "--clip", "a.mp4", "--frames", "7").exit_code == 0
    [plan] = seen
    assert (plan.data, plan.frames, plan.out) == ([Path("a.mp4")], 7, work / "out/clips")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("images:/data/photos/val", "photos/val"),
        ("csv:/data/imagenet/labels.csv#val", "imagenet val"),
        ("labels:coco-ade#train", "coco-ade train"),
        ("rooms", "rooms"),
    ],
)
def test_sets_have_short_names(spec: str, name: str) -> None:
    assert name_of(spec) == name


def result(name: str, family: Family, together: bool, *points: tuple[float, float, float]) -> ContenderResult:
    """points: bytes, agreement of the class, agreement of pixels."""
    settings = tuple(
        Setting(
            name=f"quality {i}" if family == "isthmus" else str(i),
            bytes=dict.fromkeys(KINDS, size),
            metrics={"classification": {"top1": top}, "segmentation": {"pixel_accuracy": pixels}},
        )
        for i, (size, top, pixels) in enumerate(points)
    )
    return ContenderResult(
        name=name, family=family, about="", together=together, images=100, settings=settings
    )


def photos(*results: ContenderResult) -> Photos:
    plain = result("PNG", "uncompressed", True, (99_999, 1, 1))
    one = PhotoSet(name="set", images=100, labelled=(), results=(plain, *results))
    about = About(command="", date="2026-11-29T00:00:00+00:00", images=100, machine={})
    return Photos(
        about=about,
        bundle="b",
        kinds=dict(KINDS),
        default="quality 0",
        sets=(one,),
        clips=None,
        edge=EDGE,
        skipped={"VVC": "absent"},
    )


OURS = result("Isthmus", "isthmus", True, (400, 0.8, 0.85), (800, 0.9, 0.9), (2000, 0.96, 0.93))
JPEG = result("JPEG", "image", True, (2000, 0.7, 0.8), (6000, 0.9, 0.92), (9000, 0.95, 0.95))
HEVC = result("hybrid", "feature", False, (500, 0.9, 0.9), (3000, 0.97, 0.95))


def test_one_stream_costs_its_dearest_task_and_features_are_added_up() -> None:
    comparison = comparison_of(photos(), photos(OURS, JPEG, HEVC).sets[0])
    assert cost_of_all(comparison, OURS, 0.9).value == pytest.approx(800)
    assert cost_of_all(comparison, HEVC, 0.9).value == pytest.approx(1000)
    assert cost_of_all(
        comparison, HEVC.model_copy(update={"shared": (tuple(KINDS),)}), 0.9
    ).value == pytest.approx(500)
    assert cost_of_all(comparison, OURS, 0.97).side == ">"


def test_targets_follow_from_the_curves() -> None:
    by_name = {target.what: target.met for target in targets(sections(photos(OURS, JPEG, HEVC)))}
    assert by_name["classification at 90%"] is True
    assert by_name["classification at 95%"] is True or by_name["classification at 95%"] is False
    assert by_name["segmentation at 90%"] is True
    assert by_name["all at 90%"] is True
    assert by_name["classification at 90%: of the best image codec's 6000"] is True
    assert by_name["classification at 90%: of the best feature codec's 500"] is False
    assert by_name["all at 90%: of the best feature codec's 1000"] is False  # 30 % fewer were wanted
    assert by_name["edge, read to bytes"] is False
    assert by_name["edge, memory"] is True


def test_an_agreement_that_no_quality_reaches_is_a_target_missed() -> None:
    weak = result("Isthmus", "isthmus", True, (400, 0.5, 0.95), (800, 0.6, 0.96))
    found = {target.what: target for target in targets(sections(photos(weak)))}
    assert (found["classification at 90%"].reached, found["classification at 90%"].met) == (
        "not reached",
        False,
    )
    assert found["segmentation at 90%"].met is True


def test_what_was_not_measured_is_named() -> None:
    equal = next(one for one in sections(photos(OURS)) if "equal agreement" in one.title)
    assert equal.rows[-1][:2] == ("VVC", "not measured: absent")
    edge = sections(photos(OURS))[-1]
    assert "faster" in edge.notes[0]
