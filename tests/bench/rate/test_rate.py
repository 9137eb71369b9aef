"""`isthmus bench rate` on small random models, from end to end."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bench.codecs.image_codecs import IMAGE_CODECS
from bench.networks import TaskNetworks
from bench.rate import rate as rate_module
from bench.rate.codec_contenders import STEPS, IsthmusContender, ladder
from bench.rate.contenders import raw_contender
from shared.bundle import Bundle
from shared.errors import DataError
from support.untrained import SIZE, random_network, random_run
from train.bundle.build import build
from train.data.dataset import labels_digest
from train.data.open_dataset import open_datasets
from train.data.room_set import RoomSet
from train.rooms import write_rooms

IMAGES = {codec.name for codec in IMAGE_CODECS if not codec.missing()}


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


def contender(results: dict, name: str) -> dict:
    return next(one for one in results["contenders"] if one["name"] == name)


def test_every_contender_is_measured_for_its_tasks(results):
    names = {one["name"] for one in results["contenders"]}
    assert names >= {"Isthmus", "PNG", "same", "hyper", "hybrid (feature as HEVC)", "feature, zstd"} | IMAGES
    assert results["images"] == 5
    for one in results["contenders"]:
        tasks = {"classification"} if one["name"] == "hyper" else {"classification", "normals"}
        for setting in one["settings"]:
            assert set(setting["metrics"]) == set(setting["bytes"]) == tasks, one["name"]
    assert [len(contender(results, name)["settings"]) for name in ("JPEG", "hybrid (feature as HEVC)")] == [
        3,
        3,
    ]
    hybrid = contender(results, "hybrid (feature as HEVC)")["settings"][0]["bytes"]
    assert hybrid["classification"] != hybrid["normals"], "each task sends its own feature"
    assert contender(results, "hybrid (feature as HEVC)")["shared"] == [["classification"], ["normals"]]
    bare, whole = (contender(results, name) for name in ("HEVC intra, parameter sets agreed", "HEVC intra"))
    for less, more in zip(bare["settings"], whole["settings"], strict=True):
        assert less["bytes"]["normals"] < more["bytes"]["normals"]
        assert less["metrics"] == more["metrics"]
    sent = contender(results, "hybrid (feature as HEVC), parameter sets sent")["settings"][0]["bytes"]
    assert sent["normals"] > hybrid["normals"] + 50


def test_isthmus_is_measured_as_an_evaluation_measures_it(work, results):
    from shared.bundle import Bundle
    from train.bundle.evaluate import evaluate_bundle
    from train.data.open_dataset import open_datasets

    datasets = open_datasets(work / "test", ["classification", "normals"])
    evaluated = evaluate_bundle(
        Bundle.open(work / "bundle"), dict(zip(("classification", "normals"), datasets, strict=True)), {}
    )
    settings = contender(results, "Isthmus")["settings"]
    assert [setting["name"] for setting in settings] == [f"quality {quality}" for quality in evaluated.rates]
    for setting, rate in zip(settings, evaluated.rates.values(), strict=True):
        assert setting["bytes"]["normals"] == rate.bytes_mean
        assert setting["metrics"]["normals"]["mean_deg"] == pytest.approx(
            rate.tasks["normals"]["mean_deg"], rel=1e-4
        )


def test_a_learned_peer_of_the_same_weights_costs_what_isthmus_does_but_for_its_integers(results):
    for ours, theirs in zip(
        contender(results, "Isthmus")["settings"], contender(results, "same")["settings"], strict=True
    ):
        assert ours["bytes"]["normals"] == pytest.approx(theirs["bytes"]["normals"], rel=0.1)
        assert ours["metrics"]["normals"]["mean_deg"] == pytest.approx(
            theirs["metrics"]["normals"]["mean_deg"], rel=1e-3
        )


def test_nearly_lossless_contenders_come_near_the_uncompressed_networks(results):
    plain = contender(results, "PNG")["settings"][0]["metrics"]["normals"]["mean_deg"]
    for name, index in (("feature, zstd", 0), ("hybrid (feature as HEVC)", 0), ("AVIF", -1)):
        value = contender(results, name)["settings"][index]["metrics"]["normals"]["mean_deg"]
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
    assert {row["contender"] for row in rows} == {one["name"] for one in results["contenders"]}
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
    with_qp = [one for one in results["contenders"] if one["name"].startswith(("HEVC", "VVC", "hybrid"))]
    assert len(re.findall(r"<td>QP \d+</td>", html)) == 3 * len(with_qp) > 0


def test_a_bench_that_was_interrupted_goes_on_and_other_weights_are_measured_anew(
    work, results, monkeypatch, tmp_path
):
    shutil.copytree(work, tmp_path / "work")
    (tmp_path / "work" / "run" / "parts" / "WebP.json").unlink()
    measured = []
    measure = rate_module.measure_contender
    monkeypatch.setattr(
        rate_module, "measure_contender", lambda *a: (measured.append(a[0].name), measure(*a))[1]
    )
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
    found = json.loads((work / out / "results.json").read_text())
    metrics = contender(found, "PNG")["settings"][0]["metrics"]
    assert metrics["classification"]["top1"] == 1
    assert metrics["normals"]["mean_deg"] == pytest.approx(0, abs=1e-3)
    assert "normals: bytes at equal quality (agreement, mean error degrees)" in [
        s["title"] for s in found["sections"]
    ]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--peer", "nothing"], "'nothing' is not NAME=RUN, as in hyperprior=runs/hyperprior (--peer)"),
        (["--peer", "a=nowhere"], "nowhere"),
        (["--network", "EXTRA"], "has no further task of normals (--network)"),
        (["--peer", "JPEG=CODEC"], "the name JPEG is taken; choose another (--peer)"),
    ],
)
def test_a_mistake_is_one_clear_line(work, flags, line):
    names = {"EXTRA": str(work / "extra"), "JPEG=CODEC": f"JPEG={work / 'codec'}"}
    done = bench(work, "mistake", "--quick", *(names.get(flag, flag) for flag in flags))
    assert isinstance(done.exception, DataError)
    assert line in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (work / "mistake").exists()


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
    networks = TaskNetworks(bundle, folders, torch.device("cpu"))
    key = raw_contender(networks).cache_key()
    name, network = next(iter(networks.by_task.items()))
    networks.by_task[name] = network._replace(task=network.task.model_copy(update={"split": 2}))
    assert raw_contender(networks).cache_key() != key


def test_tasks_whose_fronts_are_the_same_share_one_feature(work):
    bundle = Bundle.open(work / "bundle")
    folders = [str(work / task) for task in ("classification", "normals")]
    networks = TaskNetworks(bundle, folders, torch.device("cpu"))
    assert networks.same_fronts == (("classification",), ("normals",))
    apart = raw_contender(networks)
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    with torch.inference_mode():
        (before,) = apart.coded(pixels)
    assert (before.sizes["classification"] != before.sizes["normals"]).any()

    networks = TaskNetworks(bundle, folders, torch.device("cpu"))
    with torch.inference_mode():
        whole = networks.outputs(pixels)
    networks = TaskNetworks(bundle, folders, torch.device("cpu"))
    kept = networks.by_task["normals"]
    networks.by_task["classification"] = networks.by_task["classification"]._replace(front=kept.front)
    coded = []
    shared = raw_contender(networks)
    send = shared.ladder["float16"]
    shared.ladder = {"float16": lambda y: (coded.append(len(y)), send(y))[1]}
    assert shared.shared == (("classification", "normals"),)
    with torch.inference_mode():
        (after,) = shared.coded(pixels)
    assert coded == [2], "the feature is coded once for both"
    assert (after.sizes["classification"] == before.sizes["normals"]).all()
    assert torch.equal(after.outputs["normals"], before.outputs["normals"])
    assert shared.cache_key() != apart.cache_key()
    with torch.inference_mode():
        assert torch.equal(networks.outputs(pixels)["normals"], whole["normals"]), "in two parts as in one"


def test_isthmus_is_measured_between_its_levels_too(work):
    bundle = Bundle.open(work / "bundle")
    qualities = ladder(bundle)
    assert len(qualities) >= STEPS
    assert {*bundle.levels.qualities, bundle.quality(None)} <= set(qualities)
    assert qualities == sorted(set(qualities))
    assert (
        IsthmusContender(bundle, "cpu").cache_key() != IsthmusContender(bundle, "cpu", quick=True).cache_key()
    )


def test_a_codec_that_is_not_installed_is_left_out_and_the_report_says_why(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    done = bench(work, "without", "--quick", "--count", "2")
    assert done.exit_code == 0, done.output
    found = json.loads((work / "without" / "results.json").read_text())
    assert "JPEG XL" not in {one["name"] for one in found["contenders"]}
    assert "not measured: pillow-jxl-plugin is not installed" in (work / "without" / "results.md").read_text()
