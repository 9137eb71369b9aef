"""--quality and --bytes-max: the command line, HTTP of an edge and of a cloud, on a bundle of three levels."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest
from typer.testing import CliRunner

from cloud.faces.http_face import build_app as build_cloud
from cloud.pipeline import Pipeline as CloudPipeline
from cloud.settings import PipelineSettings
from edge.api import build_app as build_edge
from edge.client import Client
from edge.commands import app
from edge.pipeline import Pipeline
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE
from shared.codec.frame import Packet
from shared.encoder import Encoder
from shared.process.config import HttpSettings
from shared.process.inspect import inspect_bundle
from shared.process.inspect_streams import inspect_bitstream
from shared.types import Analysis, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from support.levels import write_levels
from support.service import GatedModel, OneBundle, png, problem

IMAGE = {"Content-Type": "image/png"}


class Recording(GatedModel):
    """Remembers the qualities that it was given."""

    qualities: tuple[int, ...] = ()

    def answer(self, z: Any, queries: Any, qualities: Any) -> Any:
        self.qualities = (*self.qualities, *qualities)
        return super().answer(z, queries, qualities)


class ToPipeline:
    """A transport into a cloud pipeline of this process."""

    def __init__(self, pipeline: CloudPipeline) -> None:
        self.pipeline = pipeline

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        wanted = convert.wanted_of(request)
        return convert.response_message(
            await self.pipeline.analyze(request.bitstream, wanted, request.request_id, timeout_s)
        )

    async def describe(self, timeout_s: float) -> pb.DescribeResponse:
        return convert.describe_message([self.pipeline.infos()[0]])

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_levels(tmp_path_factory.mktemp("levels") / "bundle", default_quality=30)


@pytest.fixture(scope="module")
def levels_encoder(levels: Path) -> Encoder:
    return Encoder(Bundle.open(levels))


@pytest.fixture
def recording(levels_encoder: Encoder) -> Recording:
    return Recording(levels_encoder.codec)


@pytest.fixture
async def cloud(levels_encoder: Encoder, recording: Recording) -> AsyncIterator[CloudPipeline]:
    bundle = levels_encoder.bundle
    pipeline = CloudPipeline(OneBundle(bundle, recording, levels_encoder), PipelineSettings())
    yield pipeline
    await pipeline.close()


@pytest.fixture(params=["edge", "cloud"])
async def http(
    request: pytest.FixtureRequest, levels_encoder: Encoder, cloud: CloudPipeline
) -> AsyncIterator[httpx.AsyncClient]:
    """An edge in front of the cloud, or the cloud itself; both take images."""
    edge = Pipeline(levels_encoder, Client(CloudLink(), transport=ToPipeline(cloud)))
    served = {
        "edge": build_edge(lambda: edge, HttpSettings()),
        "cloud": build_cloud(lambda: cloud, HttpSettings()),
    }
    transport = httpx.ASGITransport(served[request.param])
    async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
        yield client
    await edge.close()


async def test_http_quality(http: httpx.AsyncClient, recording: Recording) -> None:
    """The cloud decodes each stream with the tables of its quality, and tells the model which it was."""
    sizes = []
    for query, quality in (("?quality=10", 10), ("", 30), ("?quality=55", 55), ("?quality=80", 80)):
        answer = await http.post(f"/analyze{query}", content=png(0), headers=IMAGE)
        assert answer.status_code == 200, answer.text
        analysis = Analysis.model_validate(answer.json())
        assert analysis.quality == quality
        sizes.append(analysis.bytes.total)
    assert recording.qualities == (10, 30, 55, 80)
    assert sizes == sorted(set(sizes))


async def test_http_view(http: httpx.AsyncClient) -> None:
    """An image of another shape is answered with the part of it that was seen; one of the networks' shape is not."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (300, 100)).save(buffer, "PNG")
    answer = (await http.post("/analyze", content=buffer.getvalue(), headers=IMAGE)).json()
    assert answer["view"] == {
        "width": 300,
        "height": 100,
        "seen": [100, 0, 200, 100],
        "fills": [0, 0, 1, 1],
    }
    square = (await http.post("/analyze", content=png(0), headers=IMAGE)).json()
    assert square.get("view") is None


async def test_http_bytes_max(http: httpx.AsyncClient) -> None:
    for query, low, high in (("bytes_max=250", 11, 79), ("bytes_max=250&quality=12", 12, 12)):
        answer = await http.post(f"/analyze?{query}", content=png(0), headers=IMAGE)
        assert answer.status_code == 200, answer.text
        analysis = Analysis.model_validate(answer.json())
        assert analysis.bytes.total <= 250
        assert low <= analysis.quality <= high


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("quality=9", "quality 9 is not one of this bundle's: 10 to 80"),
        ("quality=81", "quality 81"),
        ("quality=101", "quality"),
        ("quality=high", "quality"),
        ("bytes_max=0", "bytes_max"),
        ("bytes_max=-5", "bytes_max"),
        ("bytes_max=20", "does not fit 20 bytes"),
    ],
)
async def test_http_problems(http: httpx.AsyncClient, query: str, text: str) -> None:
    answer = await http.post(f"/analyze?{query}", content=png(0), headers=IMAGE)
    assert text in problem(answer, 422)["detail"]


async def test_streams_of_several_qualities_in_one_batch(
    cloud: CloudPipeline, levels_encoder: Encoder, recording: Recording
) -> None:
    wanted = [levels_encoder.encode(png(i), q) for i, q in enumerate((10, 80, 45))]
    answers = await asyncio.gather(*(cloud.analyze(e.data, Wanted(), f"n{i}") for i, e in enumerate(wanted)))
    assert [answer.quality for answer in answers] == [10, 80, 45]
    assert sorted(recording.qualities) == [10, 45, 80]


async def test_a_stream_of_a_quality_that_the_bundle_has_not(
    cloud: CloudPipeline, levels_encoder: Encoder
) -> None:
    packet = levels_encoder.encode(png(0)).packet
    stream = replace(packet, frame=replace(packet.frame, quality=99))
    app = build_cloud(lambda: cloud, HttpSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
        answer = await http.post("/analyze", content=stream.pack(), headers={"Content-Type": MEDIA_TYPE})
    assert "quality 99" in problem(answer, 422)["detail"]


async def test_described(cloud: CloudPipeline) -> None:
    message = convert.describe_message([cloud.infos()[0]])
    [info] = convert.bundles_of(message)
    assert (info.qualities, info.default_quality) == ((10, 30, 80), 30)


# The command line.


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(png(0))
    return path


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ((), 30, 30),
        (("--quality", "55"), 55, 55),
        (("--bytes-max", "250"), 11, 79),
        (("--bytes-max", "250", "--quality", "12"), 12, 12),
    ],
)
def test_encode(levels: Path, image: Path, options: tuple[str, ...], low: int, high: int) -> None:
    out = image.with_suffix(".isthmus")
    given = ["encode", str(image), "-o", str(out), "--bundle", str(levels), "--json", *options]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    quality = Packet.unpack(out.read_bytes()).frame.quality
    assert low <= quality == told["quality"] <= high
    assert "--bytes-max" not in options or told["bytes"]["total"] <= 250
    fields = {field.name: field.value for field in inspect_bitstream(out.read_bytes(), "it").fields}
    assert fields["quality"] == quality


def test_encode_that_does_not_fit(levels: Path, image: Path) -> None:
    out = image.with_suffix(".isthmus")
    given = ["encode", str(image), "-o", str(out), "--bundle", str(levels), "--bytes-max", "20"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code != 0
    assert not out.exists()


def test_inspect_a_bundle(levels: Path) -> None:
    fields = {field.name: field.value for field in inspect_bundle(Bundle.open(levels)).fields}
    assert fields["quality.range"] == [10, 80]
    assert fields["quality.default"] == 30
    assert [fields[f"quality.{q}.lambda"] for q in (10, 30, 80)] == [1, 4, 16]
    assert fields["entropy.levels.qualities"] == "int64 [3]"
