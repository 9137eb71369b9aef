"""`isthmus bench rate` on small random models from end to end; what it concludes, on made-up curves."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bench.rate import contenders as rate_ways
from bench.rate.contenders import MeasuredWay, Networks, Point, raw_way
from bench.rate.findings import Race, _saved, all_tasks, equal_quality, goals
from bench.report.curves import Read
from shared.bundle import Bundle
from shared.errors import DataError
from support.untrained import SIZE, random_network, random_run
from train.bundle.build import build
from train.data.dataset import labels_digest
from train.data.open_dataset import open_datasets
from train.data.room_set import RoomSet
from train.rooms import write_rooms

IMAGES = {"JPEG", "JPEG at half size", "WebP", "AVIF", "AVIF at half size", "HEVC intra"}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("rate")
    layers = ("image", "category", "normals")
    write_rooms(work / "test", range(10**9, 10**9 + 5), height=SIZE, width=SIZE, layers=layers, shard_size=5)
    networks = [random_network(work / task, task) for task in ("classification", "normals")]
    random_network(work / "extra", "normals")
    random_run(work / "codec", networks)
    random_run(work / "other", networks[:1], prior="hyperprior")
    build(work / "codec", work / "bundle", "rooms", RoomSet(work / "test"))
    return work


def bench(work: Path, out: str, *flags: str, data: str = "test"):
    from isthmus import app

    networks = [f"--network={work / task}" for task in ("classification", "normals")]
    where = ["--data", data if ":" in data else str(work / data), "--out", str(work / out)]
    done = CliRunner().invoke(app, ["bench", "rate", str(work / "bundle"), *networks, *where, *flags])
    if done.exception is not None and not isinstance(done.exception, SystemExit | DataError):
        raise done.exception
    return done


@pytest.fixture(scope="module")
def results(work) -> dict:
    done = bench(
        work, "run", "--quick", "--peer", f"same={work / 'codec'}", "--peer", f"hyper={work / 'other'}"
    )
    assert done.exit_code == 0, done.output
    assert "All tasks together" in done.output
    return json.loads((work / "run" / "results.json").read_text())


def way(results: dict, name: str) -> dict:
    return next(one for one in results["ways"] if one["name"] == name)


def test_every_way_is_measured_for_its_tasks(results):
    names = {one["name"] for one in results["ways"]}
    assert names >= {"Isthmus", "PNG", "same", "hyper", "hybrid (feature as HEVC)", "feature, zstd"} | IMAGES
    assert results["pictures"] == 5
    for one in results["ways"]:
        tasks = {"classification"} if one["name"] == "hyper" else {"classification", "normals"}
        assert all(set(point["tasks"]) == set(point["bytes"]) == tasks for point in one["points"]), one[
            "name"
        ]
    assert [len(way(results, name)["points"]) for name in ("JPEG", "hybrid (feature as HEVC)")] == [3, 9]
    hybrid = way(results, "hybrid (feature as HEVC)")["points"][0]["bytes"]
    assert hybrid["classification"] != hybrid["normals"], "each task sends its own feature"


def test_isthmus_is_what_evaluation_says(work, results):
    from shared.bundle import Bundle
    from train.bundle.evaluate import evaluate_bundle
    from train.data.open_dataset import open_datasets

    views = open_datasets(work / "test", ["classification", "normals"])
    told = evaluate_bundle(
        Bundle.open(work / "bundle"), dict(zip(("classification", "normals"), views, strict=True)), {}
    )
    points = way(results, "Isthmus")["points"]
    assert [point["setting"] for point in points] == [f"quality {quality}" for quality in told.rates]
    for point, rate in zip(points, told.rates.values(), strict=True):
        assert point["bytes"]["normals"] == rate.bytes_mean
        assert point["tasks"]["normals"]["mean_deg"] == pytest.approx(
            rate.tasks["normals"]["mean_deg"], rel=1e-4
        )


def test_a_learned_peer_of_the_same_weights_costs_what_isthmus_does_but_for_its_integers(results):
    for ours, theirs in zip(way(results, "Isthmus")["points"], way(results, "same")["points"], strict=True):
        assert ours["bytes"]["normals"] == pytest.approx(theirs["bytes"]["normals"], rel=0.1)
        assert ours["tasks"]["normals"]["mean_deg"] == pytest.approx(
            theirs["tasks"]["normals"]["mean_deg"], rel=1e-3
        )


def test_nearly_lossless_ways_come_near_the_uncompressed_networks(results):
    plain = way(results, "PNG")["points"][0]["tasks"]["normals"]["mean_deg"]
    for name, setting in (("feature, zstd", 0), ("hybrid (feature as HEVC)", 0), ("AVIF", -1)):
        value = way(results, name)["points"][setting]["tasks"]["normals"]["mean_deg"]
        assert value == pytest.approx(plain, abs=1.0), name


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_files_are_written_and_the_page_holds_everything(work, results):
    out = work / "run"
    rows = list(csv.DictReader(io.StringIO((out / "rate.csv").read_text())))
    assert {row["way"] for row in rows} == {one["name"] for one in results["ways"]}
    assert (out / "rate.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "results.md").read_text()
    assert text.startswith("## Rate, ")
    assert "### normals: bytes at equal quality (mean error degrees)" in text
    html = (out / "rate.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert len(page.sources) == 2
    assert all(source.startswith("data:") for source in page.sources)
    assert all(target["what"] in html for target in results["targets"])
    assert len(re.findall(r"<td>QP \d+</td>", html)) == 3


def test_a_bench_that_was_interrupted_goes_on_and_other_weights_are_measured_anew(
    work, results, monkeypatch, tmp_path
):
    shutil.copytree(work, tmp_path / "work")
    (tmp_path / "work" / "run" / "parts" / "WebP.json").unlink()
    measured = []
    plain = rate_ways.measure_way
    monkeypatch.setattr(rate_ways, "measure_way", lambda *a: (measured.append(a[0].name), plain(*a))[1])
    peers = [
        f"--peer={name}={tmp_path / 'work' / run}" for name, run in (("same", "codec"), ("hyper", "other"))
    ]
    assert bench(tmp_path / "work", "run", "--quick", *peers).exit_code == 0
    assert measured == ["WebP"]
    peers[1] = f"--peer=hyper={tmp_path / 'work' / 'codec'}"
    assert bench(tmp_path / "work", "run", "--quick", *peers).exit_code == 0
    assert measured == ["WebP", "hyper"]


@pytest.mark.parametrize("labelled", [False, True])
def test_quality_is_agreement_with_the_uncompressed_network_without_labels_or_when_asked(
    work, tmp_path, labelled
):
    for n in range(2):
        pixels = np.random.default_rng(n).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    out = f"agreement-{labelled}"
    if labelled:
        done = bench(work, out, "--quick", "--count", "2", "--agreement")
    else:
        done = bench(work, out, "--quick", data=f"images:{tmp_path}")
    assert done.exit_code == 0, done.output
    told = json.loads((work / out / "results.json").read_text())
    figures = way(told, "PNG")["points"][0]["tasks"]
    assert figures["classification"]["top1"] == 1
    assert figures["normals"]["mean_deg"] == pytest.approx(0, abs=1e-3)
    assert "normals: bytes at equal quality (agreement, mean error degrees)" in [
        s["title"] for s in told["sections"]
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--peer", "nothing"], "--peer 'nothing' is not NAME=RUN"),
        (["--peer", "a=nowhere"], "nowhere"),
        (["--network", "EXTRA"], "has no further task of normals"),
        (["--peer", "JPEG=CODEC"], "--peer JPEG: the name is taken"),
    ],
)
def test_a_mistake_is_one_clear_line(work, flags, told):
    names = {"EXTRA": str(work / "extra"), "JPEG=CODEC": f"JPEG={work / 'codec'}"}
    done = bench(work, "mistake", "--quick", *(names.get(flag, flag) for flag in flags))
    assert isinstance(done.exception, DataError)
    assert told in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (work / "mistake").exists()


def made(name, family, points, together=True) -> MeasuredWay:
    """points: setting -> {task: (bytes, figure)}."""
    keys = {"classification": "top1", "normals": "mean_deg"}
    return MeasuredWay(
        name=name,
        family=family,
        settings="",
        together=together,
        pictures=9,
        points=tuple(
            Point(
                setting=setting,
                bytes={task: size for task, (size, _) in tasks.items()},
                tasks={task: {keys[task]: figure} for task, (_, figure) in tasks.items()},
            )
            for setting, tasks in points.items()
        ),
    )


def race() -> Race:
    both = {"classification": "classification", "normals": "normals"}
    plain = made("PNG", "uncompressed", {"": {"classification": (9e4, 0.9), "normals": (9e4, 9.5)}})
    ours = made(
        "Isthmus",
        "isthmus",
        {
            "quality 0": {"classification": (50, 0.7), "normals": (50, 14.0)},
            "quality 50": {"classification": (100, 0.8), "normals": (100, 12.0)},
            "quality 100": {"classification": (200, 0.9), "normals": (200, 10.5)},
        },
    )
    jpeg = made(
        "JPEG",
        "image",
        {
            "quality 1": {"classification": (500, 0.7), "normals": (500, 14.0)},
            "quality 50": {"classification": (1000, 0.8), "normals": (1000, 12.0)},
            "quality 90": {"classification": (2000, 0.9), "normals": (2000, 10.5)},
        },
    )
    avif = made(
        "AVIF",
        "image",
        {
            "quality 1": {"classification": (300, 0.75), "normals": (300, 13.0)},
            "quality 90": {"classification": (400, 0.79), "normals": (400, 11.0)},
        },
    )
    hybrid = made(
        "hybrid (feature as HEVC)",
        "feature",
        {"8 bits": {"classification": (150, 0.8), "normals": (190, 12.0)}},
        together=False,
    )
    return Race([plain, ours, jpeg, avif, hybrid], both, both, "quality 50")


def test_bytes_at_equal_quality_and_bd_rate():
    rows = {row[0]: row[1:] for row in equal_quality(race(), "normals").rows}
    assert rows["Isthmus"] == ("200", "", "100", "", "")
    assert rows["JPEG"] == ("2000", "90.0%", "1000", "90.0%", "+900%")
    assert rows["hybrid (feature as HEVC)"] == ("> 190", "at least -5.3%", "190", "47.4%", "no common range")
    avif = {row[0]: row[1:] for row in equal_quality(race(), "classification").rows}["AVIF"]
    assert avif[2:4] == ("> 400", "at least 75.0%")


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (Read(100, ""), Read(400, ""), "75.0%"),
        (Read(100, "<"), Read(400, ""), "at least 75.0%"),
        (Read(100, "<"), Read(400, ">"), "at least 75.0%"),
        (Read(100, "<"), Read(400, "<"), "cannot be told"),
        (Read(100, ""), Read(400, "<"), "at most 75.0%"),
        (Read(100, ">"), Read(400, ""), "not reached by Isthmus"),
    ],
)
def test_a_saving_is_told_as_far_as_the_curves_reach(ours, theirs, told):
    assert _saved(ours, theirs) == told


def test_other_labels_and_other_cuts_are_measured_anew(work):
    layers = ("image", "category", "normals")
    write_rooms(work / "again", range(3), height=SIZE, width=SIZE, layers=layers, shard_size=3)
    rooms, maps = open_datasets(work / "again", ["classification", "normals"])
    before = labels_digest(rooms), labels_digest(maps)
    assert before == tuple(map(labels_digest, open_datasets(work / "again", ["classification", "normals"])))
    turned = rooms.labels(np.arange(len(rooms)))[::-1] + 1
    rooms.labels = lambda indices: turned[indices]
    rooms_then, maps_then = labels_digest(rooms), labels_digest(maps)
    assert maps_then == before[1]
    assert rooms_then != before[0]
    bundle = Bundle.open(work / "bundle")
    folders = [str(work / task) for task in ("classification", "normals")]
    networks = Networks(bundle, folders, torch.device("cpu"))
    here = raw_way(networks).of()
    name, network = next(iter(networks.by_task.items()))
    networks.by_task[name] = network._replace(task=network.task.model_copy(update={"split": 2}))
    assert raw_way(networks).of() != here


def test_one_picture_serves_all_tasks_and_features_are_sent_for_each():
    rows = {row[0]: row[1:] for row in all_tasks(race()).rows}
    assert rows["JPEG"] == ("1000", "90.0%")
    assert rows["hybrid (feature as HEVC)"] == ("150 + 190", "70.6%")
    assert rows["AVIF"] == ("> 400", "at least 75.0%")


def test_targets_are_judged_by_the_cheapest_way_that_gets_there():
    got = {target.what: (target.reached, target.met) for target in goals(race()).targets}
    assert got["normals: against JPEG, of either size"] == ("90.0%", True)
    assert got["normals: against the best image codec"][1] is False, "AVIF has it at less than 400 bytes"
    assert got["classification: against the best image codec"] == ("90.0%", True), "AVIF never gets there"
    assert got["classification: against the hybrid way"] == ("33.3%", False)
    assert got["all tasks: against the hybrid way"] == ("70.6%", True)
