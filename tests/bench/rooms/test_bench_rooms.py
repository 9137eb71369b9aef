"""`isthmus bench rooms` on a folder of small random models, from end to end."""

from __future__ import annotations

import csv
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench.rooms import measure as measure_module
from cloud.task_folders import add_task
from shared.errors import DataError
from support.tasks import write_task
from support.untrained import SCALES, SIZE, random_network, random_run
from train.bundle.build import build
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
    assert results["images"] == 6
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
    for written, ideal in zip(bundle["levels"], codec["levels"], strict=True):
        assert 0 < written["bytes"] - ideal["bytes"] < 25, "container, and less than a byte a stream"
        assert written["metrics"]["classification"]["top1"] == ideal["metrics"]["classification"]["top1"]
    for low, high in pairwise(bundle["levels"]):
        lost, won = high["flips"]["classification"]
        gained = high["metrics"]["classification"]["top1"] - low["metrics"]["classification"]["top1"]
        assert (won - lost) / results["images"] == pytest.approx(gained)
    before, after = bundle["streams"]
    assert before == after
    assert len(set(after.values())) == len(SCALES)
    rows = section(results, "A task added later")["rows"]
    assert all(row[2].startswith("the same ") for row in rows)


def test_distortions_are_those_of_whole_maps_against_the_network(work):
    from train.codec.distortion import distortion
    from train.codec.evaluate_codec import evaluate
    from train.codec.split_networks import load_run
    from train.data.open_dataset import open_datasets

    model, recipe, cards = load_run(work / "codec")
    datasets = open_datasets(work / "test", [card.task for card in cards])
    scores = evaluate(model, recipe, datasets, cards[0].preprocess, model, distances=True)
    assert not evaluate(model, recipe, datasets, cards[0].preprocess, model).has("distortion", "normals", 0)
    from train.data.dataset import network_input

    x = network_input(datasets[0].images(torch.arange(6).numpy()), cards[0].preprocess)
    with torch.no_grad():
        given = model.features(x)
        made, _ = model.codec(given, torch.full((6,), 2.0))
        d = distortion("distill", model.heads[1], model.heads[1], made[1], given[1], None, None)
    assert scores.value("distortion", "normals", 100) == pytest.approx(float(d.mean()), rel=1e-4)


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
