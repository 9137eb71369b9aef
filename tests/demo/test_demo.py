"""The demo as a user runs it, and that it leaves no process behind, however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.contact_sheet import CAPTION, GAP, TILE
from demo.demo import _ask
from shared.bundle import MANIFEST, TASKS, Bundle
from shared.errors import RemoteRejectedError, RequestError
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.kinds.depth import DepthResult, depth_png, depth_rgb
from shared.kinds.embedding import EmbeddingResult
from shared.kinds.multilabel import MultilabelResult
from shared.kinds.normals import Facing, NormalsResult, normals_png
from shared.kinds.segmentation import ClassArea, SegmentationResult, classes_png, paint, palette
from shared.types import Analysis, ByteCount, TaskResult, Times
from support.processes import ISTHMUS, refused, run, run_here
from support.service import png
from support.tasks import write_task

SIDE = 64  # of the tiny bundle's pictures


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "küche [red].png"
    path.write_bytes(png(0, 100))
    return path


def children(pid: int) -> set[int]:
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def no_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.demo.SAMPLES", tmp_path / "none")


@pytest.fixture
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.demo._two_processes", lambda _: pytest.fail("servers were started"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """The tiny bundle with two dense tasks of random weights beside its classification."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("dense") / "bundle")
    for name in ("normals", "segmentation"):
        write_task(path, path / TASKS / name, name, kind=name)
    return path


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


def tile(sheet: Image.Image, column: int, line: int = 0) -> Image.Image:
    x, y = GAP + column * (TILE + GAP), GAP + line * (TILE + CAPTION + GAP)
    return sheet.crop((x, y, x + TILE, y + TILE))


def enlarged(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).repeat(TILE // SIDE, 0).repeat(TILE // SIDE, 1)


def test_the_demo(tmp_path: Path, picture: Path, dense: Path) -> None:
    out = tmp_path / "some" / "out"
    done = run("demo", picture, "--out", out, "--bundle", dense)
    assert done.returncode == 0, done.stderr
    assert "küche [red].png" in done.stdout
    result = json.loads((out / "result.json").read_text())
    ours = result["images"][-1]
    analysis = Analysis.model_validate(ours["analysis"])
    assert list(analysis.results) == ["classification", "normals", "segmentation"]
    assert ours["image"] == str(picture)
    assert ours["label"] == analysis.results["classification"].top[0].label
    assert ours["jpeg_ratio"] == ours["jpeg_bytes"] / analysis.bytes.total
    assert ours["edge_ms"] > 0
    assert ours["cloud_ms"] > 0
    assert ours["maps"] == {task: f"küche [red].{task}.png" for task in ("normals", "segmentation")}
    assert "base64" not in (out / "result.json").read_text()

    # Every map is a file, and says what its summary says.
    maps = [name for image in result["images"] for name in image["maps"].values()]
    assert len(maps) == 2 * len(result["images"]) == 18
    assert sorted(path.name for path in out.iterdir()) == sorted(["result.json", "sheet.png", *maps])
    normals, classes = (opened(out / name) for name in ours["maps"].values())
    assert (normals.mode, normals.size, classes.mode) == ("RGB", (SIDE, SIDE), "P")
    counts = np.bincount(np.asarray(classes).ravel(), minlength=3) / SIDE**2
    areas = analysis.results["segmentation"].areas
    assert {area.index: area.share for area in areas} == {k: c for k, c in enumerate(counts) if c}
    assert f"{areas[0].label} {areas[0].share:.0%}" in done.stdout

    # Nine groups of three tiles, two to a line: ours is the first of the fifth line.
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width == GAP + 6 * (TILE + GAP)
        assert np.array_equal(np.asarray(tile(sheet, 2, 4)), enlarged(classes))
        assert np.asarray(tile(sheet, 1, 4)).mean() == pytest.approx(np.asarray(normals).mean(), abs=2)


def answer(results: dict[str, TaskResult]) -> Analysis:
    return Analysis(
        request_id="a",
        bundle="tiny",
        fingerprint="00000000",
        quality=50,
        results=results,
        bytes=ByteCount(b_v=4, b_z=20, total=40, bits_per_pixel=0.08),
        times=Times(front_ms=3, code_ms=4, decode_ms=5, tails_ms=6),
    )


CLASSES = np.arange(SIDE)[None].repeat(SIDE, 0) // 32  # the left half is class 0, the right half 1
SCORE = ClassScore(label="red", index=0, score=0.75)
CLASSIFIED = ClassificationResult(top=(SCORE,))
NORMALS = NormalsResult(
    mean=(0, 1, 0),
    facing=Facing(left=0, right=0.25, up=0.75, down=0, towards=0, away=0),
    map=normals_png(np.tile([0.0, 1.0, 0.0], (SIDE, SIDE, 1))),
)


def segmented(first: int, *labels: str) -> SegmentationResult:
    areas = tuple(ClassArea(label=name, index=first + i, share=0.5) for i, name in enumerate(labels))
    return SegmentationResult(areas=areas, map=classes_png(CLASSES + first, 9))


METRES = np.where(CLASSES, 4.0, 1.0)  # the left half is near
KINDS: dict[str, TaskResult] = {
    "classification": CLASSIFIED,
    "mood": ClassificationResult(top=(SCORE.model_copy(update={"label": "calm"}),)),
    "shape": NORMALS,
    "things": segmented(0, "wall", "lamp"),
    "stuff": segmented(3, "wood", "wool"),
    "far": DepthResult(min_m=1, median_m=2, max_m=4, known=1, map=depth_png(METRES)),
    "like": EmbeddingResult(normalised=False, vector=(3.0, 4.0)),
    "tags": MultilabelResult(top=(SCORE, SCORE.model_copy(update={"label": "blue", "score": 0.25}))),
}


def with_tasks(bundle: Path, path: Path, names: Sequence[str]) -> Path:
    """A copy of the bundle's manifest with these tasks; nothing could be decoded with it."""
    manifest = Bundle.open(bundle).manifest
    tasks = tuple(manifest.tasks[0].model_copy(update={"name": n, "kind": KINDS[n].kind}) for n in names)
    path.mkdir()
    (path / MANIFEST).write_bytes(manifest.model_copy(update={"tasks": tasks}).sealed_json())
    return path


@pytest.mark.parametrize(
    ("names", "headers", "cells"),
    [
        (["classification"], "image class score b_v", ["red", "0.75"]),
        (["shape"], "image facing b_v", ["up 75%", "right 25%"]),
        (["things", "shape"], "image areas facing b_v", ["wall 50%", "lamp 50%", "up 75%"]),
        (["things", "stuff"], "image things stuff b_v", ["wall 50%", "wood 50%"]),
        (
            list(KINDS),
            "image classification score mood score facing things stuff depth vector labels b_v",
            ["red", "calm", "wool 50%", "1.0, 2.0, 4.0 m", "2 numbers", "length 5.00", "red 0.75"],
        ),
    ],
)
def test_any_tasks(
    names: list[str],
    headers: str,
    cells: list[str],
    tmp_path: Path,
    picture: Path,
    tiny_bundle: Path,
    no_samples: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = {name: KINDS[name] for name in names}
    monkeypatch.setattr("demo.demo._two_processes", lambda _: nullcontext("edge"))
    monkeypatch.setattr("demo.demo._ask", lambda *_: answer(results))
    out = tmp_path / "out"
    bundle = with_tasks(tiny_bundle, tmp_path / "bundle", names)
    done = run_here("demo", picture, "--out", out, "--bundle", bundle)
    assert done.returncode == 0, done.stderr
    head = next(line for line in done.stdout.splitlines() if line.startswith("┃ image"))
    assert " ".join(head.replace("┃", " ").split()).startswith(headers)
    assert all(cell in done.stdout for cell in cells)
    assert "as a JPEG file of quality 75" in " ".join(done.stdout.split())

    told = json.loads((out / "result.json").read_text())["images"][0]
    known = "classification" in names
    assert (told["label"], told["score"]) == (("red", 0.75) if known else (None, None))
    mapped = [name for name in names if hasattr(KINDS[name], "map")]
    assert list(told["maps"]) == mapped
    assert all((out / file).read_bytes() == KINDS[task].map.file() for task, file in told["maps"].items())

    # One tile for the picture and one a map; below them every class that is in a picture, and no other.
    with Image.open(out / "sheet.png") as opened:
        sheet = opened.convert("RGB")
    assert sheet.width == GAP + (1 + len(mapped)) * (TILE + GAP)
    fitted = enlarged(Image.open(picture).resize((SIDE, SIDE))).astype(float)
    assert np.asarray(tile(sheet, 0)).mean() == pytest.approx(fitted.mean(), abs=3)
    legend = np.asarray(sheet)[GAP + TILE + CAPTION + GAP :].reshape(-1, 3)
    shown = {k for k, colour in enumerate(palette(9)) if (legend == colour).all(1).sum() >= 200}
    assert shown == {area.index for name in mapped for area in getattr(KINDS[name], "areas", ())}
    for column, name in enumerate(mapped, 1):
        if isinstance(KINDS[name], DepthResult):
            near, far = (depth_rgb(np.array(metres)) for metres in (1.0, 4.0))
            assert np.asarray(tile(sheet, column))[:, [16, 240]].tolist() == [[[*near], [*far]]] * TILE
        if isinstance(KINDS[name], SegmentationResult):
            first = KINDS[name].areas[0].index
            assert np.array_equal(
                np.asarray(tile(sheet, column))[:, ::128],
                paint(CLASSES + first)[0][None, ::32].repeat(TILE, 0),
            )


def test_two_pictures_of_one_name_keep_their_maps(
    tmp_path: Path, picture: Path, tiny_bundle: Path, no_samples: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.demo._two_processes", lambda _: nullcontext("edge"))
    monkeypatch.setattr("demo.demo._ask", lambda *_: answer({"shape": NORMALS}))
    others = [tmp_path / name for name in ("room-2.png", "room.png", "room.webp")]
    for other in others:
        Image.open(picture).save(other)
    bundle = with_tasks(tiny_bundle, tmp_path / "bundle", ["shape"])
    done = run_here("demo", *others, "--out", tmp_path / "out", "--bundle", bundle)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "result.json").read_text())["images"]
    files = [one["maps"]["shape"] for one in told]
    assert files == ["room-2.shape.png", "room.shape.png", "room-3.shape.png"]
    assert [one["image"] for one in told] == [str(other) for other in others]


def test_what_the_edge_is_asked(picture: Path) -> None:
    asked: list[httpx.Request] = []
    answers = [
        httpx.Response(200, content=answer({"classification": CLASSIFIED}).model_dump_json()),
        httpx.Response(422, json={"detail": "does not fit"}),
        httpx.Response(503, json={"detail": "no cloud"}),
    ]

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[len(asked) - 1]

    client = httpx.Client(base_url="http://edge", transport=httpx.MockTransport(handle))
    query = {"tasks": "a,b", "maps": "png", "quality": "30"}
    assert _ask(client, picture, query).results == {"classification": CLASSIFIED}
    assert dict(asked[0].url.params) == query
    assert asked[0].content == picture.read_bytes()
    with pytest.raises(RequestError, match=r"red\]\.png: does not fit"):
        _ask(client, picture, query | {"bytes_max": "99"}, "door")
    assert (asked[0].headers.get("X-Session"), asked[1].headers["X-Session"]) == (None, "door")
    assert dict(asked[1].url.params) == query  # images of a session have no size of their own
    with pytest.raises(RemoteRejectedError, match="no cloud"):
        _ask(client, picture, query)


def test_options_reach_the_edge(
    tmp_path: Path, picture: Path, tiny_bundle: Path, no_samples: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[Any] = []

    def ask(client: httpx.Client, path: Path, query: dict[str, str], session: str) -> Analysis:
        queries.append(query)
        return answer({"classification": CLASSIFIED})

    monkeypatch.setattr("demo.demo._two_processes", lambda _: nullcontext("edge"))
    monkeypatch.setattr("demo.demo._ask", ask)
    level = str(Bundle.open(tiny_bundle).levels.lowest)
    for options in ([], ["--quality", level], ["--bytes-max", "99", "--quality", level]):
        done = run_here("demo", picture, "--out", tmp_path / "out", "--bundle", tiny_bundle, *options)
        assert done.returncode == 0, done.stderr
    every = {"tasks": "classification", "maps": "png"}
    assert queries == [every, every | {"quality": level}, every | {"quality": level, "bytes_max": "99"}]


def test_without_a_bundle_photographs_and_rooms_go_each_through_their_own(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, list[str]] = {}

    def ask(client: httpx.Client, path: Path, query: dict[str, str], session: str) -> Analysis:
        sent.setdefault(client.base_url.host + session, []).append(path.name)
        given = {
            "classification": CLASSIFIED,
            "normals": NORMALS,
            "segmentation": segmented(0, "wall", "lamp"),
            "objects": segmented(0, "background", "bird"),
        }
        return answer({name: given[name] for name in query["tasks"].split(",")})

    monkeypatch.delenv("ISTHMUS_BUNDLE", raising=False)
    monkeypatch.setattr("demo.demo._two_processes", lambda bundle: nullcontext(bundle.name))
    monkeypatch.setattr("demo.demo._ask", ask)
    out = tmp_path / "out"
    done = run_here("demo", picture, "--out", out)
    assert done.returncode == 0, done.stderr
    photographs = ["aeroplane.jpg", "boats.jpg", "lighthouse.jpg", "macaws.jpg"]
    camera = [f"corridor-{number}.jpg" for number in range(1, 5)]
    assert sent.pop("photos") == [*photographs, picture.name]
    assert sent.pop("photoscorridor") == camera
    result = json.loads((out / "photos" / "result.json").read_text())
    assert [Path(one["image"]).name for one in result["session"]["images"]] == camera
    assert "corridor: what a fixed camera saw" in done.stdout
    first = result["images"][0]
    assert list(first["analysis"]["results"]) == ["classification", "segmentation", "objects"]
    rooms = sent.pop("rooms")
    assert len(rooms) == 8
    assert "kitchen.png" in rooms
    assert not sent
    assert sorted(path.name for path in out.iterdir()) == ["photos", "rooms"]
    assert len(json.loads((out / "photos" / "result.json").read_text())["images"]) == 5

    done = run_here("demo", picture, "--out", out, "--bundle", "photos")  # by its name
    assert done.returncode == 0, done.stderr
    assert sent == {"photos": [*photographs, picture.name], "photoscorridor": camera}


def test_where_photos_is_not_it_says_so(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISTHMUS_BUNDLE", raising=False)
    monkeypatch.setattr("demo.demo.shipped_bundle", lambda name: tmp_path / name)
    assert "no bundle at" in refused("demo", picture, "--out", tmp_path / "out", status=2)


def test_a_quality_that_the_bundle_has_not(
    tmp_path: Path, picture: Path, tiny_bundle: Path, no_servers: None
) -> None:
    out = tmp_path / "out"
    told = refused("demo", picture, "--out", out, "--bundle", tiny_bundle, "--quality", "3", status=2)
    assert "quality 3 is not one of this bundle's" in told
    assert not out.exists()


def test_bytes_that_no_picture_fits(tmp_path: Path, picture: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    told = refused("demo", picture, "--out", out, "--bundle", tiny_bundle, "--bytes-max", "5", status=2)
    assert "does not fit 5 bytes" in told
    assert not list(out.iterdir())


def test_without_torch_it_says_what_to_install(
    tmp_path: Path, picture: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = refused("demo", picture, "--out", tmp_path / "out", "--bundle", tiny_bundle, status=2)
    assert told == (
        "the cloud did not start: torch is not installed; pip install -c constraints.txt -e '.[cloud]'"
    )
    assert not list((tmp_path / "out").iterdir())


def test_a_wrong_image_is_told_before_any_server_starts(
    tmp_path: Path, picture: Path, tiny_bundle: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    told = refused("demo", picture, text, "--out", tmp_path / "out", "--bundle", tiny_bundle, status=2)
    assert "notes.txt is not an image" in told
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told_before_any_server_starts(
    tmp_path: Path, picture: Path, dense: Path, tiny_bundle: Path, no_servers: None
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "sheet.png").touch()  # an earlier demo began this folder
    map_file = out / "küche [red].segmentation.png"
    map_file.mkdir()
    told = refused("demo", picture, "--out", out, "--bundle", dense, status=2)
    assert told == f"cannot write {map_file}: it is a folder"
    (out / "result.json").mkdir()
    told = refused("demo", picture, "--out", out, "--bundle", tiny_bundle, status=2)
    assert told == f"cannot write {out / 'result.json'}: it is a folder"
    told = refused("demo", picture, "--out", "/proc/self", "--force", "--bundle", tiny_bundle, status=2)
    assert told.startswith("cannot write into /proc/self: ")


def test_a_bundle_whose_cloud_half_is_damaged(tmp_path: Path, picture: Path, tiny_bundle: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    (damaged / "cloud.safetensors").write_bytes(b"")
    told = refused("demo", picture, "--out", tmp_path / "out", "--bundle", damaged, status=2)
    assert "the cloud did not start" in told
    assert "cloud.safetensors" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_both_processes(
    number: int, tmp_path: Path, picture: Path, tiny_bundle: Path
) -> None:
    command = [*ISTHMUS, "demo", str(picture), "--out", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    # A shell ignores SIGINT in what it starts in the background, and so would all that a suite there starts.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heeding
    ) as demo:
        started: set[int] = set()
        deadline = time.monotonic() + 60
        while len(started) < 2 and demo.poll() is None and time.monotonic() < deadline:
            started |= children(demo.pid)
            time.sleep(0.02)  # a condition is waited for; the pause only leaves the core to those who start
        demo.send_signal(number)
        _, told = demo.communicate(timeout=60)
    assert len(started) == 2, told
    assert demo.returncode not in (0, None)
    assert "Traceback" not in told
    assert all(gone(pid) for pid in started)
