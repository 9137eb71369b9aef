"""Depth, embedding and multilabel, and a kind that only this file knows, through the whole service."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from cloud.engine.kinds import POSTPROCESS
from cloud.engine.kinds.postprocess import Labels, Options, Postprocess, Shape, check_vector
from cloud.engine.load import load
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from edge.api import build_app as build_edge_app
from edge.client import Client
from edge.pipeline import Pipeline as EdgePipeline
from edge.settings import CloudLink
from shared.bundle import TASKS, Bundle
from shared.kinds import KINDS
from shared.kinds.depth import DepthResult
from shared.kinds.embedding import EmbeddingResult
from shared.kinds.kind import Kind, Result
from shared.kinds.multilabel import MultilabelResult
from shared.maps import MapPng, unpack
from shared.process.config import HttpSettings
from shared.types import Analysis, TaskQuery, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.processes import run_here
from support.service import OneBundle, png, problem
from support.tasks import LABELS, write_task

IMAGE = {"Content-Type": "image/png"}
SIDE = 64  # of the tiny bundle's images


# A kind that no file of the product names: how far the first output is above the others.


class LeadResult(Result):
    kind: Literal["lead"] = "lead"
    label: str
    lead: float


class Lead(Kind[LeadResult]):
    name = "lead"
    result = LeadResult
    named = True
    columns = ("lead",)

    def cells(self, result: LeadResult) -> tuple[Sequence[str], ...]:
        return ([f"{result.label} by {result.lead:.2f}"],)


class LeadPostprocess(Postprocess):
    def check_output(self, shape: Shape, labels: Labels, image: tuple[int, int]) -> None:
        check_vector(shape, labels)

    def results(
        self, output: Tensor, labels: Labels, queries: Sequence[TaskQuery], options: Options
    ) -> list[LeadResult]:
        best = output.flatten(1).topk(2)
        return [
            LeadResult(label=labels[int(i[0])], lead=float(v[0] - v[1]))
            for v, i in zip(best.values, best.indices, strict=True)
        ]


@pytest.fixture(scope="module")
def lead() -> Iterator[None]:
    """The kind in both tables, as long as this file's tests run."""
    KINDS["lead"], POSTPROCESS["lead"] = Lead(), LeadPostprocess()
    yield
    del KINDS["lead"], POSTPROCESS["lead"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, lead: None) -> Path:
    """The tiny bundle with a task of each of these kinds, of random weights, beside its classification."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("kinds") / "bundle")
    for name, kind in (("far", "depth"), ("like", "embedding"), ("tags", "multilabel"), ("ahead", "lead")):
        write_task(path, path / TASKS / name, name, kind=kind)
    write_task(path, path / TASKS / "unit", "unit", kind="embedding", options={"normalised": True})
    return path


@pytest.fixture(scope="module")
def loaded(path: Path) -> Any:
    return load(Bundle.open(path))


@pytest.fixture
async def cloud(path: Path, loaded: Any) -> AsyncIterator[Pipeline]:
    pipeline = Pipeline(
        OneBundle(Bundle.open(path), loaded.model, loaded.encoder), PipelineSettings(batch_wait_ms=0)
    )
    yield pipeline
    await pipeline.close()


@pytest.fixture
async def server(cloud: Pipeline, make_grpc_server: Any) -> AsyncIterator[tuple[str, AnalyzerStub]]:
    async with make_grpc_server(lambda: cloud) as made:
        yield made


@pytest.fixture(params=["cloud", "edge"])
async def http(
    request: pytest.FixtureRequest, path: Path, loaded: Any, cloud: Pipeline, server: tuple[str, AnalyzerStub]
) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP face of the cloud, and that of an edge which asks it over gRPC."""
    link = CloudLink(address=server[0])
    edge = EdgePipeline(loaded.encoder, Client(link))
    app: Any = build_edge_app(lambda: edge, HttpSettings())
    if request.param == "cloud":
        app = build_app(lambda: cloud, HttpSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        yield client
    await edge.close()


@pytest.fixture
def stream(loaded: Any) -> bytes:
    return loaded.encoder.encode(png(0)).data


async def ask(server: tuple[str, AnalyzerStub], stream: bytes, **wanted: Any) -> Analysis:
    message = convert.request_message("", stream, Wanted(**wanted))
    return convert.analysis_of(await server[1].Analyze(message))


async def test_over_grpc(server: tuple[str, AnalyzerStub], stream: bytes) -> None:
    arrays = await ask(server, stream, maps="arrays", top_k=3)
    assert list(arrays.results) == ["classification", "ahead", "far", "like", "tags", "unit"]
    far, like, tags, unit = (arrays.results[name] for name in ("far", "like", "tags", "unit"))
    assert isinstance(far, DepthResult)
    metres = unpack(far.map)
    assert (metres.shape, metres.dtype) == ((SIDE, SIDE), np.float32)
    known = np.sort(metres[metres > 0])
    assert (far.min_m, far.max_m) == (known[0], known[-1])
    assert far.median_m == known[(len(known) - 1) // 2]
    assert far.known == pytest.approx(len(known) / metres.size)
    assert isinstance(tags, MultilabelResult)
    assert len(tags.top) == 3
    assert {one.label for one in tags.top} <= set(LABELS["multilabel"])
    assert isinstance(like, EmbeddingResult)
    assert isinstance(unit, EmbeddingResult)
    assert np.linalg.norm(unit.array()) == pytest.approx(1)
    # Both have the same random weights.
    assert unit.array() == pytest.approx(like.array() / np.linalg.norm(like.array()), abs=1e-6)


async def test_a_kind_that_no_file_names_is_served(
    server: tuple[str, AnalyzerStub], stream: bytes, http: httpx.AsyncClient
) -> None:
    answer = (await ask(server, stream)).results["ahead"]
    assert isinstance(answer, LeadResult)
    assert answer.label in ("calm", "busy", "dim", "bright")
    assert answer.lead > 0
    bundles = convert.bundles_of(await server[1].Describe(pb.DescribeRequest()))
    assert next(task.kind for task in bundles[0].tasks if task.name == "ahead") == "lead"
    over_http = (await http.post("/analyze?tasks=ahead", content=png(0), headers=IMAGE)).json()
    [(task, fields)] = over_http["results"].items()
    assert (task, fields["kind"], fields["label"]) == ("ahead", "lead", answer.label)
    assert fields["lead"] == pytest.approx(answer.lead, rel=1e-4)
    schemas = (await http.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["LeadResult"]["properties"]["lead"] == {"type": "number", "title": "Lead"}


async def test_over_http(http: httpx.AsyncClient, server: tuple[str, AnalyzerStub], stream: bytes) -> None:
    answer = await http.post("/analyze?maps=png&top_k=2", content=png(0), headers=IMAGE)
    assert answer.status_code == 200, answer.text
    analysis = Analysis.model_validate(answer.json())
    far, like, tags = (analysis.results[name] for name in ("far", "like", "tags"))
    assert isinstance(far.map, MapPng)
    with Image.open(io.BytesIO(far.map.file())) as image:
        millimetres = np.asarray(image)
    exact = unpack((await ask(server, stream, maps="arrays")).results["far"].map)
    assert np.abs(millimetres / 1000 - exact).max() <= 0.0006
    assert len(tags.top) == 2
    assert answer.json()["results"]["like"]["vector"] == pytest.approx(list(like.vector))
    packed = await http.post("/analyze?vectors=base64", content=png(0), headers=IMAGE)
    vector = packed.json()["results"]["like"]["vector"]
    assert vector["dtype"] == "float32"
    assert np.frombuffer(base64.b64decode(vector["base64"]), "<f4") == pytest.approx(list(like.vector))
    detail = problem(await http.post("/analyze?vectors=text", content=png(0), headers=IMAGE), 422)["detail"]
    assert "vectors" in detail


async def test_the_api_describes_every_kind(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    results = document["components"]["schemas"]["Analysis"]["properties"]["results"]
    assert set(results["additionalProperties"]["discriminator"]["mapping"]) == set(KINDS)


def test_decode_prints_lines_and_writes_maps(tmp_path: Path, path: Path, stream: bytes) -> None:
    file, maps = tmp_path / "room.isthmus", tmp_path / "maps"
    file.write_bytes(stream)
    done = run_here("cloud", "decode", file, "--bundle", path, "--top-k", "1", "--maps", maps)
    assert done.returncode == 0, done.stderr
    lines = dict(line.strip().split(": ", 1) for line in done.stdout.splitlines()[1:])
    assert " by " in lines["ahead"]
    assert " m, median " in lines["far"]
    assert lines["like"].startswith("8 numbers, length ")
    assert lines["unit"].startswith("8 numbers, length 1.000: ")
    assert lines["tags"].split()[0] in LABELS["multilabel"]
    assert [one.name for one in maps.glob("*.png")] == ["room_far.png"]


def test_options_that_a_kind_does_not_have(tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="normalised"):
        write_task(tiny_bundle, tmp_path / "task", kind="depth", options={"normalised": True})
    folder = write_task(tiny_bundle, tmp_path / "plain")
    assert "options" not in (folder / "task.json").read_text()
