"""Normals and segmentation through the whole service: over gRPC, over HTTP, and on the command line."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from cloud.archive.archive import Archive
from cloud.engine.load import Loaded, load
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from edge.api import build_app as build_edge_app
from edge.client import Client
from edge.pipeline import Pipeline as EdgePipeline
from edge.settings import CloudLink
from shared.bundle import TASKS, Bundle
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.kinds.normals import NormalsResult, normals_rgb
from shared.kinds.segmentation import SegmentationResult
from shared.maps import MapPng, unpack
from shared.process.config import HttpSettings
from shared.types import Analysis, TaskQuery, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.processes import refused, run_here
from support.service import OneBundle, png, problem
from support.tasks import LABELS, write_task

IMAGE = {"Content-Type": "image/png"}
SIDE = 64  # of the tiny bundle's pictures


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """The tiny bundle with two dense tasks of random weights beside its classification."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("dense") / "bundle")
    for name, kind in (("shape", "normals"), ("things", "segmentation")):
        write_task(path, path / TASKS / name, name, kind=kind)
    return path


@pytest.fixture(scope="module")
def loaded(dense: Path) -> Loaded:
    return load(Bundle.open(dense))


@pytest.fixture
async def cloud(dense: Path, loaded: Loaded) -> AsyncIterator[Pipeline]:
    settings = PipelineSettings(batch_wait_ms=0)
    pipeline = Pipeline(OneBundle(Bundle.open(dense), loaded.model, loaded.encoder), settings)
    yield pipeline
    await pipeline.close()


@pytest.fixture
async def server(cloud: Pipeline, make_grpc_server: Any) -> AsyncIterator[tuple[str, AnalyzerStub]]:
    async with make_grpc_server(lambda: cloud) as made:
        yield made


@pytest.fixture(params=["cloud", "edge"])
async def http(
    request: pytest.FixtureRequest, dense: Path, cloud: Pipeline, server: tuple[str, AnalyzerStub]
) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP face of the cloud, and that of an edge which asks it over gRPC."""
    edge = EdgePipeline(Encoder(Bundle.open(dense)), Client(CloudLink(address=server[0])))
    app: Any = build_edge_app(lambda: edge, HttpSettings())
    if request.param == "cloud":
        app = build_app(lambda: cloud, HttpSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        yield client
    await edge.close()


@pytest.fixture
def stream(loaded: Loaded) -> bytes:
    return loaded.encoder.encode(png(0)).data


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture


def check(analysis: Analysis, maps: type) -> None:
    """The three results, and that a map, where there is one, says what the summary says."""
    assert list(analysis.results) == ["classification", "shape", "things"]
    shape, things = analysis.results["shape"], analysis.results["things"]
    assert isinstance(shape, NormalsResult)
    assert isinstance(things, SegmentationResult)
    assert sum(shape.facing.model_dump().values()) == pytest.approx(1)
    assert sum(area.share for area in things.areas) == pytest.approx(1)
    assert isinstance(shape.map, maps)
    assert isinstance(things.map, maps)


async def test_arrays_and_pngs_of_one_stream(server: tuple[str, AnalyzerStub], stream: bytes) -> None:
    async def ask(maps: pb.Maps) -> Analysis:
        answer = await server[1].Analyze(pb.AnalyzeRequest(bitstream=stream, maps=maps))
        return convert.analysis_of(answer)

    none, drawn, arrays = [await ask(m) for m in (pb.MAPS_UNSPECIFIED, pb.MAPS_PNG, pb.MAPS_ARRAYS)]
    check(none, type(None))
    normals, classes = (unpack(arrays.results[name].map) for name in ("shape", "things"))
    assert (normals.shape, normals.dtype) == ((SIDE, SIDE, 3), np.int8)
    assert (classes.shape, classes.dtype) == ((SIDE, SIDE), np.uint8)
    assert np.linalg.norm(normals / 127, axis=-1) == pytest.approx(1, abs=0.01)
    assert arrays.results["shape"].mean == pytest.approx(normals.mean((0, 1)) / 127, abs=0.01)
    shares = np.bincount(classes.ravel(), minlength=3) / SIDE**2
    assert {a.index: a.share for a in arrays.results["things"].areas} == {
        k: share for k, share in enumerate(shares) if share
    }
    pictures = [opened(drawn.results[name].map.file()) for name in ("shape", "things")]
    assert np.abs(np.asarray(pictures[0]).astype(int) - normals_rgb(normals)).max() <= 2
    assert np.array_equal(np.asarray(pictures[1]), classes)
    for other in (drawn, arrays):
        for name in ("shape", "things"):
            assert other.results[name].model_copy(update={"map": None}) == none.results[name]


async def test_a_task_says_its_own_maps_over_grpc(server: tuple[str, AnalyzerStub], stream: bytes) -> None:
    wanted = Wanted(tasks=(TaskQuery(name="things", maps="png"), TaskQuery(name="shape")))
    analysis = convert.analysis_of(await server[1].Analyze(convert.request_message("a", stream, wanted)))
    assert list(analysis.results) == ["things", "shape"]
    assert isinstance(analysis.results["things"].map, MapPng)
    assert analysis.results["shape"].map is None
    # The maps belong to the request as much as the tasks.
    other = convert.request_message("a", stream, Wanted(tasks=(TaskQuery(name="things"),)))
    with pytest.raises(grpc.aio.AioRpcError, match="used before"):
        await server[1].Analyze(other)


async def test_a_batch_gives_each_what_it_asked(dense: Path, loaded: Loaded, cloud: Pipeline) -> None:
    settings = PipelineSettings(batch_wait_ms=20_000, batch_max=2)
    batching = Pipeline(OneBundle(Bundle.open(dense), loaded.model, loaded.encoder), settings)
    asks = [
        (TaskQuery(name="things", maps="png"),),
        (TaskQuery(name="things"), TaskQuery(name="shape", maps="arrays")),
    ]
    work = [(loaded.encoder.encode(png(i)).data, Wanted(tasks=asked), f"{i}") for i, asked in enumerate(asks)]
    first, second = await asyncio.gather(*(batching.analyze(*one) for one in work))
    await batching.close()
    assert list(first.results) == ["things"]
    assert list(second.results) == ["things", "shape"]
    for together, one in zip((first, second), work, strict=True):
        assert together.results["things"] == (await cloud.analyze(*one)).results["things"]
    assert isinstance(first.results["things"].map, MapPng)
    assert second.results["things"].map is None
    assert second.results["shape"].map.shape == (SIDE, SIDE, 3)


async def test_a_map_of_more_classes_than_it_can_hold(dense: Path, loaded: Loaded, stream: bytes) -> None:
    bundle = Bundle.open(dense)
    many = bundle.task("things").model_copy(update={"labels": tuple(map(str, range(257)))})
    manifest = bundle.manifest.model_copy(update={"tasks": (many,)})
    changed = replace(bundle, manifest=manifest, added=())
    pipeline = Pipeline(OneBundle(changed, loaded.model, loaded.encoder), PipelineSettings())
    with pytest.raises(RequestError, match="257 classes"):
        await pipeline.analyze(stream, Wanted(maps="png"), "a")
    assert "things" in (await pipeline.analyze(stream, Wanted(), "a")).results
    await pipeline.close()


async def test_describe(server: tuple[str, AnalyzerStub]) -> None:
    [told] = convert.bundles_of(await server[1].Describe(pb.DescribeRequest()))
    assert {task.name: (task.kind, task.labels) for task in told.tasks if task.name != "classification"} == {
        "shape": ("normals", ()),
        "things": ("segmentation", LABELS["segmentation"]),
    }


async def test_over_http(http: httpx.AsyncClient) -> None:
    answer = await http.post("/analyze", content=png(0), headers=IMAGE)
    assert answer.status_code == 200, answer.text
    check(Analysis.model_validate(answer.json()), type(None))
    assert "map" not in answer.json()["results"]["shape"]
    answer = await http.post("/analyze?maps=png", content=png(0), headers=IMAGE)
    check(Analysis.model_validate(answer.json()), MapPng)
    told = answer.json()["results"]["things"]["map"]
    assert told["media_type"] == "image/png"
    assert opened(Analysis.model_validate(answer.json()).results["things"].map.file()).size == (SIDE, SIDE)


async def test_maps_that_http_does_not_give(http: httpx.AsyncClient) -> None:
    told = problem(await http.post("/analyze?maps=arrays", content=png(0), headers=IMAGE), 422)
    assert "gRPC" in told["detail"]
    told = problem(await http.post("/analyze?maps=jpeg", content=png(0), headers=IMAGE), 422)
    assert "maps" in told["detail"]
    parameters = (await http.get("/openapi.json")).json()["paths"]["/analyze"]["post"]["parameters"]
    assert next(p for p in parameters if p["name"] == "maps")["schema"]["enum"] == ["none", "png"]


def names(folder: Path) -> list[str]:
    """The files in a folder of maps, without the mark by which a command knows its own."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".isthmus-maps")


def test_decode_prints_a_line_a_task_and_writes_maps(tmp_path: Path, dense: Path, stream: bytes) -> None:
    file, maps = tmp_path / "room.isthmus", tmp_path / "maps"
    file.write_bytes(stream)
    done = run_here("cloud", "decode", file, "--bundle", dense, "--top-k", "1", "--maps", maps)
    assert done.returncode == 0, done.stderr
    _, classification, shape, things = done.stdout.splitlines()
    assert classification.startswith("  classification: ")
    assert shape.startswith("  shape: ")
    assert "towards 0." in shape
    assert "; mean (" in shape
    assert things.startswith("  things: ")
    assert names(maps) == ["room_shape.png", "room_things.png"]
    assert opened((maps / "room_shape.png").read_bytes()).mode == "RGB"
    assert opened((maps / "room_things.png").read_bytes()).mode == "P"
    done = run_here("cloud", "decode", file, "--bundle", dense, "--maps", maps, "--json")
    assert json.loads(done.stdout)["results"]["shape"]["map"] is None
    done = run_here("cloud", "decode", file, "--bundle", dense, "--json")
    assert list(json.loads(done.stdout)["results"]) == ["classification", "shape", "things"]


def test_folders_for_maps_that_do_not_do(tmp_path: Path, dense: Path, stream: bytes) -> None:
    file, other = tmp_path / "room.isthmus", tmp_path / "room.other"
    for path in (file, other):
        path.write_bytes(stream)
    told = refused("cloud", "decode", file, other, "--bundle", dense, "--maps", tmp_path / "m", status=2)
    assert "same name" in told
    told = refused("cloud", "decode", file, "--bundle", dense, "--maps", file, status=2)
    assert "cannot make the folder" in told
    (tmp_path / "m" / "room_shape.png").mkdir(parents=True)
    told = refused("cloud", "decode", file, "--bundle", dense, "--maps", tmp_path / "m", status=2)
    assert "holds files of something else (room_shape.png)" in told
    assert names(tmp_path / "m") == ["room_shape.png"]
    told = refused("cloud", "decode", file, "--bundle", dense, "--maps", tmp_path / "m", "--force", status=2)
    assert "cannot write" in told
    assert names(tmp_path / "m") == ["room_shape.png"]  # nothing half written beside it


async def test_edge_analyze_writes_maps(
    tmp_path: Path, dense: Path, server: tuple[str, AnalyzerStub]
) -> None:
    picture, maps = tmp_path / "room.png", tmp_path / "maps"
    picture.write_bytes(png(0))
    command = ["edge", "analyze", picture, "--cloud", server[0], "--bundle", dense, "--maps", maps]
    done = await asyncio.to_thread(run_here, *command)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines()[-2:]] == ["shape", "things"]
    assert names(maps) == ["room_shape.png", "room_things.png"]


def test_replay_writes_maps(tmp_path: Path, dense: Path, stream: bytes) -> None:
    kept, maps, out = tmp_path / "kept", tmp_path / "maps", tmp_path / "out.jsonl"
    archive = Archive(kept, 1 << 30, 10_000 * 86_400.0)
    for second in (1, 2):
        archive.append("door", datetime(2026, 11, 22, 12, 0, second, tzinfo=UTC), f"an:id{second}", stream)
    archive.close()
    command = ["cloud", "replay", "--archive", kept, "--bundle", dense, "--task", "things"]
    command += ["--from", "2026-01-01", "--to", "2027-01-01", "--out", out, "--maps", maps]
    done = run_here(*command)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line)["result"] for line in out.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["segmentation"] * 2
    assert all("map" not in line for line in lines)
    assert names(maps) == [
        f"20261122T12000{second}.000000Z_door_an:id{second}_things.png" for second in (1, 2)
    ]
