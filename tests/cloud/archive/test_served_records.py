"""What a server archives: answers alone, once, with the camera and both times, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud.archive.archive import Archive
from cloud.archive.records import UNNAMED, read
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from edge.client import Client
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE, Bitstream
from shared.errors import CorruptPayloadError, RequestError
from shared.process.config import HttpSettings
from shared.types import Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.archives import archive_at
from support.service import GatedModel, OneBundle, problem

STREAM = {"Content-Type": MEDIA_TYPE}


def test_only_what_was_answered_is_kept_and_once(
    tmp_path: Path,
    bundle: Bundle,
    encoder: Any,
    model: GatedModel,
    settings: PipelineSettings,
    packed: list[bytes],
    packed_1: list[bytes],
) -> None:
    async def use(archive: Archive) -> None:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), settings, archive)
        for _ in range(2):
            await pipeline.analyze(packed[0], Wanted(), "twice", camera="door")
        damaged = replace(Bitstream.unpack(packed_1[1]), b_v=b"\xff" * 40).pack()
        with pytest.raises(CorruptPayloadError):
            await pipeline.analyze(damaged, Wanted(), "damaged", camera="door")
        model.fail = RuntimeError("broken")
        with pytest.raises(RuntimeError):
            await pipeline.analyze(packed[2], Wanted(), "broken", camera="door")
        with pytest.raises(RequestError, match="camera"):
            await pipeline.analyze(packed[3], Wanted(), "a", camera="a b")
        await pipeline.close()

    before = datetime.now(UTC)
    with archive_at(tmp_path) as archive:
        asyncio.run(use(archive))
    [kept] = read(tmp_path)
    assert (kept.camera, kept.request_id, kept.data) == ("door", "twice", packed[0])
    assert before <= kept.received_at <= datetime.now(UTC)


async def test_the_name_of_the_camera_over_grpc_and_http(
    tmp_path: Path,
    bundle: Bundle,
    encoder: Any,
    model: GatedModel,
    settings: PipelineSettings,
    packed: list[bytes],
    make_grpc_server: Any,
) -> None:
    with archive_at(tmp_path) as archive:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), settings, archive)
        async with make_grpc_server(lambda: pipeline) as (address, stub):
            async with Client(CloudLink(address=address), "own") as client:
                await client.analyze("edge", packed[0], Wanted())
                await client.analyze("edge2", packed[0], Wanted(), "other")
            await stub.Analyze(pb.AnalyzeRequest(bitstream=packed[0], request_id="grpc"), timeout=30)
            await check_refusal(stub, packed[0])
        app = build_app(lambda: pipeline, HttpSettings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
            for name in ("hall", ""):
                headers = STREAM | {"X-Camera": name, "X-Request-Id": f"http.{name}"}
                assert (await http.post("/analyze", content=packed[0], headers=headers)).status_code == 200
            headers = STREAM | {"X-Camera": "a/b"}
            assert (
                "camera"
                in problem(await http.post("/analyze", content=packed[0], headers=headers), 422)["detail"]
            )
        await pipeline.close()
    names = {one.request_id: one.camera for one in read(tmp_path)}
    assert names == {"edge": "own", "edge2": "other", "grpc": UNNAMED, "http.hall": "hall", "http.": UNNAMED}


async def check_refusal(stub: AnalyzerStub, data: bytes) -> None:
    call = stub.Analyze(pb.AnalyzeRequest(bitstream=data, camera="x" * 65), timeout=30)
    assert (await call.code()).name == "INVALID_ARGUMENT"
    assert "camera" in (await call.details() or "")
