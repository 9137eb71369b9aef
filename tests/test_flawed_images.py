"""An image file that lacks its end: answered with a warning on the edge, in the cloud and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from cloud.faces.http_face import build_app as build_cloud
from cloud.pipeline import Pipeline as CloudPipeline
from edge.api import build_app as build_edge
from edge.client import Client
from edge.pipeline import Pipeline
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.process.config import HttpSettings
from shared.times import captured_at_of
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from support.image_files import saved
from support.processes import run_here
from support.service import png, problem


@pytest.fixture(scope="module")
def whole() -> bytes:
    import io

    return saved(Image.open(io.BytesIO(png(3, 96))), "JPEG", quality=90)


class ToPipeline:
    """A transport into a cloud of this process."""

    def __init__(self, pipeline: CloudPipeline) -> None:
        self._pipeline = pipeline

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        when = captured_at_of(request.captured_at)
        wanted = convert.wanted_of(request)
        answer = await self._pipeline.analyze(request.bitstream, wanted, request.request_id, captured_at=when)
        return convert.response_message(answer.model_copy(update={"warnings": ("from the cloud",)}))

    async def describe(self, timeout_s: float) -> pb.DescribeResponse:
        raise NotImplementedError

    async def close(self) -> None: ...


async def post(app: Any, data: bytes) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        return await client.post("/analyze", content=data, headers={"Content-Type": "image/jpeg"})


async def test_over_the_clouds_http(pipeline: CloudPipeline, whole: bytes) -> None:
    app = build_cloud(lambda: pipeline, HttpSettings())
    assert (await post(app, whole)).json()["warnings"] == []
    [warning] = (await post(app, whole[: len(whole) * 3 // 4])).json()["warnings"]
    assert "ends too early" in warning
    assert "rows are missing" in problem(await post(app, whole[: len(whole) // 3]), 400)["detail"]


async def test_over_the_edges_http(
    pipeline: CloudPipeline, bundle: Bundle, encoder: Encoder, whole: bytes
) -> None:
    edge = Pipeline(encoder, Client(CloudLink(attempts_max=1), transport=ToPipeline(pipeline)))
    answer = await post(build_edge(lambda: edge, HttpSettings()), whole[: len(whole) * 3 // 4])
    await edge.close()
    flaw, remote = answer.json()["warnings"]
    assert "ends too early" in flaw
    assert remote == "from the cloud"


def test_on_the_command_line(whole: bytes, tmp_path: Path, tiny_bundle: Path) -> None:
    cut, out = tmp_path / "cut.jpg", tmp_path / "o"
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    done = run_here("edge", "encode", cut, "-o", out, "--bundle", tiny_bundle)
    assert done.returncode == 0
    assert done.stderr.startswith(f"isthmus: {cut}: the image file ends too early")
    assert done.stderr.count("\n") == 1
    done = run_here("edge", "encode", cut, "-o", out, "--bundle", tiny_bundle, "--json")
    assert "ends too early" in json.loads(done.stdout)["warnings"][0]
