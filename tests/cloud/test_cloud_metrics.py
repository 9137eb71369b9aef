"""What a cloud counts of real calls, batches and sessions, and that no label is an id."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import httpx
import pytest

from cloud.engine.batch_work import Job, Served, work
from cloud.engine.load import load
from cloud.faces.grpc_server import GrpcServer
from cloud.faces.http_face import build_app
from cloud.metrics import BUNDLES_MAX, CloudMetrics
from cloud.observer import Seen
from cloud.pipeline import Pipeline
from cloud.requests import read_request
from cloud.settings import GrpcSettings, PipelineSettings
from cloud.shelf.slot import BundleState
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE
from shared.codec.frame import unpack_stream
from shared.encoder import Encoder
from shared.process.auth import Gate
from shared.process.config import HttpSettings, MetricsSettings
from shared.process.metrics import OTHER
from shared.process.ready import Ready
from shared.process.tokens import TokenReader
from shared.types import TaskQuery, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.exposition import Numbers
from support.locked import locked, token_for
from support.service import GatedModel, OneBundle, png, problem, until
from support.streams import version_1
from support.tools import promtool

METHOD = "isthmus.v1.Analyzer/Analyze"


@dataclass
class Running:
    """Both faces of one pipeline, counted."""

    metrics: CloudMetrics
    pipeline: Pipeline
    http: httpx.AsyncClient
    stub: AnalyzerStub

    def numbers(self) -> Numbers:
        return Numbers(self.metrics.exposition()[0].decode())


@pytest.fixture
def settings() -> PipelineSettings:
    return PipelineSettings(batch_wait_ms=0, batch_max=4)


@pytest.fixture
def shown() -> MetricsSettings:
    return MetricsSettings()


@pytest.fixture
async def running(
    bundle: Bundle, encoder: Encoder, model: GatedModel, settings: PipelineSettings, shown: MetricsSettings
) -> AsyncIterator[Running]:
    ready: Ready[Pipeline] = Ready("the server")
    metrics = CloudMetrics(shown, lambda: ready.value)
    pipeline = Pipeline(OneBundle(bundle, model, encoder), settings, observer=metrics)
    ready.fill(pipeline)
    app = build_app(ready, HttpSettings(), metrics=metrics)
    server = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0), requests=metrics.requests)
    await server.start()
    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://cloud") as http,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield Running(metrics, pipeline, http, AnalyzerStub(channel))
    model.gate.set()
    await server.end(0)
    await pipeline.close()


async def refused(running: Running, count: int, status: str) -> None:
    """Waits until so many calls have ended with a status: a client has it before the server has counted it."""
    await until(
        lambda: running.numbers()("isthmus_cloud_requests_total", method=METHOD, status=status) == count
    )


async def test_calls_images_tasks_and_bytes(running: Running, packed: list[bytes]) -> None:
    one = pb.AnalyzeRequest(bitstream=packed[0], request_id="secret-id-1", camera="front-door")
    answer = await running.stub.Analyze(one)
    await running.stub.Analyze(one)  # a repeat: answered, and not computed again
    for wrong in (pb.AnalyzeRequest(bitstream=b"hello"), pb.AnalyzeRequest(bitstream=packed[1][:-1])):
        with pytest.raises(grpc.aio.AioRpcError):
            await running.stub.Analyze(wrong)
    await running.http.post("/analyze", content=png(1), headers={"X-Camera": "front-door"})
    await running.http.post("/analyze?tasks=nope", content=packed[2], headers={"Content-Type": MEDIA_TYPE})
    await refused(running, 2, "INVALID_ARGUMENT")
    n = running.numbers()
    assert n("isthmus_cloud_requests_total", method=METHOD, status="OK") == 2
    assert n("isthmus_cloud_requests_total", method="POST /analyze", status="200") == 1
    assert n("isthmus_cloud_requests_total", method="POST /analyze", status="404") == 1
    images = "isthmus_cloud_images_total"
    assert n(images, source="bitstream", outcome="answered", bundle="tiny") == 2
    assert n(images, source="bitstream", outcome="INVALID_ARGUMENT") == 2
    assert n(images, source="bitstream", outcome="NOT_FOUND") == 1
    assert n(images, source="image", outcome="answered") == 1
    assert n("isthmus_cloud_inferences_total", task="classification") == 2
    assert n("isthmus_cloud_executions_total", task="classification") == 2
    sizes = answer.bytes
    part = {name: n("isthmus_cloud_stream_bytes_total", part=name) for name in ("b_v", "b_z", "container")}
    assert part["b_v"] > 2 * sizes.b_v - 1
    assert sum(part.values()) == 2 * len(packed[0]) + len(packed[1])
    stages = {s: n("isthmus_cloud_stage_seconds_count", stage=s) for s in ("read", "queue", "forward")}
    assert stages == {"read": 1, "queue": 2, "forward": 2}
    assert n("isthmus_cloud_ready") == 1
    assert "secret-id" not in n.text
    assert "front-door" not in n.text


async def test_a_batch_is_one_execution(running: Running, packed: list[bytes], model: GatedModel) -> None:
    model.gate.clear()
    calls = [running.stub.Analyze(pb.AnalyzeRequest(bitstream=packed[0]))]
    await until(model.entered.is_set)
    calls += [running.stub.Analyze(pb.AnalyzeRequest(bitstream=packed[i])) for i in (1, 2, 3)]
    await until(lambda: running.pipeline.waiting == 3)
    assert running.numbers()("isthmus_cloud_queue_images") == 3
    assert running.numbers()("isthmus_cloud_queue_images_max") == 64
    model.gate.set()
    await asyncio.gather(*calls)
    n = running.numbers()
    assert n("isthmus_cloud_queue_images") == 0
    assert n("isthmus_cloud_inferences_total") == 4
    assert n("isthmus_cloud_executions_total") == n("isthmus_cloud_batch_images_count") == 2
    assert n("isthmus_cloud_batch_images_bucket", le="1.0") == 1
    assert n("isthmus_cloud_batch_images_bucket", le="4.0") == 2


async def test_a_client_that_leaves_and_a_model_that_fails(
    running: Running, packed: list[bytes], model: GatedModel
) -> None:
    model.gate.clear()
    call = running.stub.Analyze(pb.AnalyzeRequest(bitstream=packed[0]))
    await until(model.entered.is_set)
    call.cancel()
    await until(lambda: running.numbers()("isthmus_cloud_images_total", outcome="gone") == 1)
    await refused(running, 1, "CANCELLED")
    model.gate.set()
    model.fail = ZeroDivisionError()
    with pytest.raises(grpc.aio.AioRpcError):
        await running.stub.Analyze(pb.AnalyzeRequest(bitstream=packed[1]))
    assert running.numbers()("isthmus_cloud_images_total", outcome="INTERNAL") == 1
    await refused(running, 1, "INTERNAL")


@pytest.mark.parametrize("shown", [MetricsSettings(cameras=True, cameras_max=2)])
async def test_cameras_by_name_where_that_is_asked_for(running: Running, packed: list[bytes]) -> None:
    for camera in ("door", "door", "yard", "roof", "gate"):
        await running.pipeline.analyze(packed[0], Wanted(), f"{camera}.1", camera=camera)
    with pytest.raises(Exception, match="camera"):
        await running.pipeline.analyze(packed[0], Wanted(), "1", camera="no\nname")
    n = running.numbers()
    assert n.labels("isthmus_cloud_camera_images_total", "camera") == {"door", "yard", OTHER}
    assert n("isthmus_cloud_camera_images_total", camera="door") == 2
    assert n("isthmus_cloud_camera_images_total", camera=OTHER) == 2
    assert n("isthmus_cloud_camera_stream_bytes_total", camera="door") == 2 * len(packed[0])
    assert n("isthmus_cloud_camera_last_answer_timestamp_seconds", camera="yard") > 1.7e9


async def test_many_bundles_stay_bounded(running: Running, bundle: Bundle) -> None:
    for number in range(BUNDLES_MAX + 20):
        made = f"{number:08x}" + bundle.manifest.fingerprint[8:]
        manifest = bundle.manifest.model_copy(update={"fingerprint": made})
        running.metrics.image(Seen("image", bundle=Bundle(bundle.path, manifest, ())))
    n = running.numbers()
    assert len(n.labels("isthmus_cloud_images_total", "fingerprint")) == BUNDLES_MAX + 1
    assert n("isthmus_cloud_images_total", bundle=OTHER, fingerprint=OTHER) == 20


def test_forward_and_postprocess_are_the_tails_of_a_real_model(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    loaded = load(bundle, threads=1)
    encoded = loaded.encoder.encode(png(0))
    stream = version_1(loaded.encoder, encoded.latent)
    source = read_request(unpack_stream(stream), Wanted(), bundle, (), 1024).source
    jobs = [Job(source, (TaskQuery(name="classification"),), Served(bundle, loaded.model))] * 3
    done = work(jobs)
    metrics = CloudMetrics(MetricsSettings(), lambda: None)
    metrics.batch(jobs, done)
    n = Numbers(metrics.exposition()[0].decode())
    forward, after = (n("isthmus_cloud_stage_seconds_sum", stage=s) for s in ("forward", "postprocess"))
    assert 0 < after < forward + after == pytest.approx(done[0].tails_ms / 1e3)  # type: ignore[union-attr]
    assert n("isthmus_cloud_inferences_total") == 3
    assert n("isthmus_cloud_ready") == 0


def test_what_is_on_the_shelf(bundle: Bundle) -> None:
    of = {"folder": "a", "name": "rooms", "fingerprint": "0123456789abcdef" * 4}
    loaded = BundleState(state="loaded", loads=2, memory_bytes=1000, **of)
    other = BundleState(state="on disk", loads=1, memory_bytes=500, **of | {"fingerprint": "f" * 64})
    metrics = CloudMetrics(MetricsSettings(), lambda: None)
    metrics.bundles(lambda: [loaded, other])
    n = Numbers(metrics.exposition()[0].decode())
    assert n("isthmus_cloud_bundles_loaded") == 1
    assert n("isthmus_cloud_bundle_loaded", bundle="rooms", fingerprint="01234567") == 1
    assert n("isthmus_cloud_bundle_loaded", fingerprint="ffffffff") == 0
    assert n("isthmus_cloud_bundle_memory_bytes") == 1000
    assert n("isthmus_cloud_bundle_loads_total", fingerprint="01234567") == 2


async def test_names_are_as_prometheus_wants_them(running: Running, packed: list[bytes]) -> None:
    await running.stub.Analyze(pb.AnalyzeRequest(bitstream=packed[0]))
    text, _ = running.metrics.exposition()
    done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_reading_them_needs_their_scope(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    scraper, camera = token_for(path, "scraper", "metrics"), token_for(path, "box", "analyze")
    async with (
        locked(pipeline, Gate(TokenReader(path))) as cloud,
        cloud.client() as nobody,
        cloud.client(camera) as box,
        cloud.client(scraper) as reader,
    ):
        problem(await nobody.get("/metrics"), 401)
        problem(await box.get("/metrics"), 403)
        n = Numbers((await reader.get("/metrics")).text)
        problem(await reader.get("/v1/bundles"), 403)
    assert n("isthmus_cloud_tokens_refused_total", reason="no token") == 1
    assert n("isthmus_cloud_tokens_refused_total", reason="scope") == 1
    assert n("isthmus_cloud_requests_total", method="GET /metrics", status="401") == 1
    assert n("isthmus_cloud_requests_total", method="GET /metrics", status="403") == 1
    assert not any(secret in n.text for secret in (scraper, camera))
