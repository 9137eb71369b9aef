"""What an edge counts of images, their stages, and its attempts at the cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from edge.api import build_app
from edge.client import Client
from edge.metrics import CountedTransport, EdgeMetrics
from edge.observer import Seen, seeing
from edge.pipeline import Pipeline
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import CloudUnreachableError, RemoteRejectedError
from shared.process.config import HttpSettings, MetricsSettings
from shared.types import Analysis, ByteCount, Times, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from support.exposition import Numbers
from support.service import png


class Cloud:
    """A transport that answers, after the errors that it was given."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        if self.errors:
            raise self.errors.pop(0)
        return convert.response_message(answer(request.request_id))

    async def describe(self, timeout_s: float) -> pb.DescribeResponse:
        raise NotImplementedError

    async def close(self) -> None: ...


def answer(request_id: str) -> Analysis:
    return Analysis(
        request_id=request_id,
        bundle="tiny",
        fingerprint="01234567",
        quality=50,
        results={},
        bytes=ByteCount(b_v=1, b_z=2, total=14, bits_per_pixel=1),
        times=Times(queue_ms=1, decode_ms=2, tails_ms=3),
    )


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def metrics(bundle: Bundle) -> EdgeMetrics:
    return EdgeMetrics(MetricsSettings(), bundle, lambda: 3)


@pytest.fixture
async def http(encoder: Encoder, cloud: Cloud, metrics: EdgeMetrics) -> AsyncIterator[httpx.AsyncClient]:
    client = Client(CloudLink(), transport=CountedTransport(cloud, metrics))
    edge = Pipeline(encoder, client, observer=metrics)
    app = build_app(lambda: edge, HttpSettings(), metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as made:
        yield made
    await edge.close()


async def numbers(http: httpx.AsyncClient) -> Numbers:
    return Numbers((await http.get("/metrics")).text)


async def test_images_stages_and_attempts(http: httpx.AsyncClient, cloud: Cloud, packed: list[bytes]) -> None:
    cloud.errors = [CloudUnreachableError("starting"), CloudUnreachableError("starting")]
    assert (await http.post("/analyze", content=png(0), headers={"X-Camera": "door"})).status_code == 200
    cloud.errors = [RemoteRejectedError("FAILED_PRECONDITION", "another bundle")]
    assert (await http.post("/analyze", content=png(0))).status_code == 409
    assert (await http.post("/analyze", content=b"no image")).status_code == 415
    n = await numbers(http)
    assert n("isthmus_edge_images_total", frame="single", outcome="answered") == 1
    assert n("isthmus_edge_images_total", outcome="FAILED_PRECONDITION") == 1
    assert n("isthmus_edge_images_total", outcome="INVALID_ARGUMENT") == 1
    assert n("isthmus_edge_cloud_attempts_total", status="UNAVAILABLE") == 2
    assert n("isthmus_edge_cloud_attempts_total", status="OK") == 1
    assert n("isthmus_edge_cloud_attempts_total", status="FAILED_PRECONDITION") == 1
    assert n("isthmus_edge_stream_bytes_total") == len(packed[0])
    for stage in ("read", "front", "code", "send"):
        assert n("isthmus_edge_stage_seconds_count", stage=stage) == 1
    assert n("isthmus_edge_stage_seconds_sum", stage="send") > 0.3  # two waits before further attempts
    assert n("isthmus_edge_quality_sum") == 50
    assert n("isthmus_edge_sessions_open") == 3
    assert n("isthmus_edge_bundle_info", bundle="tiny") == 1
    assert n("isthmus_edge_requests_total", method="POST /analyze") == 3
    assert "door" not in n.text


def test_cameras_by_name_where_that_is_asked_for(bundle: Bundle) -> None:
    metrics = EdgeMetrics(MetricsSettings(cameras=True, cameras_max=1), bundle, lambda: 0)
    for camera in ("door", "yard", "roof"):
        with seeing(metrics, camera) as seen:
            seen.answered(answer("1"), "P")
    n = Numbers(metrics.exposition()[0].decode())
    assert n.labels("isthmus_edge_camera_images_total", "camera") == {"door", "other"}
    assert n("isthmus_edge_images_total", frame="P", outcome="answered") == 3


async def test_an_edge_without_metrics_works(encoder: Encoder, cloud: Cloud) -> None:
    edge = Pipeline(encoder, Client(CloudLink(), transport=cloud))
    assert (await edge.analyze(png(0), Wanted(), "1")).request_id == "1"
    await edge.close()
    assert Seen("").outcome == "gone"
