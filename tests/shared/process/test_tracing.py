"""Traces from edge to cloud through real HTTP and gRPC, in memory; and none at all by default."""

from __future__ import annotations

import builtins
import http.server
import io
import itertools
import json
import logging
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest

from cloud.faces.grpc_server import GrpcServer
from cloud.faces.http_face import build_app as cloud_app
from cloud.metrics import CloudMetrics
from cloud.pipeline import Pipeline as CloudPipeline
from cloud.settings import CloudSettings, GrpcSettings, PipelineSettings
from edge.api import build_app as edge_app
from edge.client import Client, grpc_transport
from edge.pipeline import Pipeline, SessionLink
from edge.settings import CloudLink, SessionSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.process import tracing
from shared.process.config import HttpSettings, MetricsSettings, TracingSettings, load_settings
from shared.process.logs import JsonLines
from shared.process.ready import Ready
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.service import GatedModel, OneBundle, png, until
from support.traced import Spans, traced

pytest.importorskip("opentelemetry.sdk", reason="comes with '.[tracing]'")

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
ANALYZE = "isthmus.v1.Analyzer/Analyze"


class Pair:
    """An edge and a cloud: HTTP of both, and gRPC between them."""

    edge: httpx.AsyncClient
    cloud: httpx.AsyncClient
    metrics: CloudMetrics
    address: str


@pytest.fixture
def spans() -> Iterator[Spans]:
    with traced() as kept:
        yield kept


@pytest.fixture
async def pair(bundle: Bundle, encoder: Encoder, model: GatedModel) -> AsyncIterator[Pair]:
    ready: Ready[CloudPipeline] = Ready("the server")
    made = Pair()
    made.metrics = CloudMetrics(MetricsSettings(), lambda: ready.value)
    settings = PipelineSettings(batch_wait_ms=0)
    cloud = CloudPipeline(OneBundle(bundle, model, encoder), settings, observer=made.metrics)
    ready.fill(cloud)
    server = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0), requests=made.metrics.requests)
    await server.start()
    made.address = server.address
    link = CloudLink(address=server.address)
    transport = grpc_transport(link)
    edge = Pipeline(
        encoder, Client(link, transport=transport), SessionLink(link, SessionSettings(), transport)
    )
    seen = CloudMetrics(MetricsSettings(), lambda: None)  # any: the middleware stands with metrics
    to_edge = httpx.ASGITransport(edge_app(lambda: edge, HttpSettings(), seen))
    to_cloud = httpx.ASGITransport(cloud_app(ready, HttpSettings(), metrics=made.metrics))
    async with (
        httpx.AsyncClient(transport=to_edge, base_url="http://edge") as made.edge,
        httpx.AsyncClient(transport=to_cloud, base_url="http://cloud") as made.cloud,
    ):
        yield made
    await edge.close()
    await server.end(0)
    await cloud.close()


def parent_of(one: Any) -> int:
    assert one.parent is not None
    number: int = one.parent.span_id
    return number


async def test_one_trace_from_a_client_through_edge_and_cloud(pair: Pair, spans: Spans) -> None:
    headers = PARENT | {"X-Request-Id": "mine"}
    assert (await pair.edge.post("/analyze", content=png(0), headers=headers)).status_code == 200
    await until(lambda: bool(spans.named(ANALYZE, "server")))
    assert {f"{one.context.trace_id:032x}" for one in spans.all()} == {TRACE}
    outer, client, server = (
        spans.one("POST /analyze", "server"),
        spans.one(ANALYZE, "client"),
        spans.one(ANALYZE, "server"),
    )
    assert f"{parent_of(outer):016x}" == "b7ad6b7169203331"
    assert (parent_of(client), parent_of(server)) == (outer.context.span_id, client.context.span_id)
    assert outer.attributes["isthmus.request_id"] == "mine"
    assert outer.attributes["http.response.status_code"] == "200"
    for parent, names in (
        (outer, ("read", "front", "code")),
        (server, ("queue", "decode", "forward", "postprocess")),
    ):
        ran = [spans.one(name) for name in names]
        assert {parent_of(one) for one in ran} == {parent.context.span_id}
        assert all(a.end_time == b.start_time for a, b in itertools.pairwise(ran))
        assert all(one.start_time <= one.end_time for one in ran)
        assert ran[-1].end_time <= parent.end_time


async def test_a_request_to_the_cloud_itself(pair: Pair, spans: Spans) -> None:
    assert (await pair.cloud.post("/analyze", content=png(0), headers=PARENT)).status_code == 200
    assert {f"{one.context.trace_id:032x}" for one in spans.all()} == {TRACE}
    assert {one.name for one in spans.all()} >= {"POST /analyze", "read", "code", "queue", "forward"}
    await pair.cloud.get("/healthz", headers=PARENT)
    await pair.cloud.get("/metrics", headers=PARENT)
    assert len(spans.named("POST /analyze")) == 1
    assert not any("GET" in one.name for one in spans.all())
    text = (await pair.cloud.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
    buckets = [line for line in text.splitlines() if f'# {{trace_id="{TRACE}"}}' in line]
    assert any(line.startswith("isthmus_cloud_request_seconds_bucket") for line in buckets)
    assert any('stage="queue"' in line for line in buckets)
    assert TRACE not in (await pair.cloud.get("/metrics")).text  # the older format has no exemplars


async def test_each_frame_of_a_session_is_one_trace(pair: Pair, spans: Spans) -> None:
    ids = []
    for _ in range(2):
        answer = await pair.edge.post("/analyze", content=png(0), headers=PARENT | {"X-Session": "a"})
        ids.append(answer.json()["request_id"])
    await until(lambda: len(spans.named("AnalyzeSession frame", "server")) == 2)
    sent, came = (spans.named("AnalyzeSession frame", kind) for kind in ("client", "server"))
    assert [one.context.trace_id for one in sent] == [one.context.trace_id for one in came]
    assert sent[0].context.trace_id != sent[1].context.trace_id
    assert [one.attributes["type"] for one in sent] == ["I", "S"]
    assert all(f"{one.links[0].context.trace_id:032x}" == TRACE for one in sent)  # of the HTTP request
    assert ids[0] != ids[1]


async def test_elements_of_a_stream_are_in_the_trace_of_their_stream(
    pair: Pair, spans: Spans, packed: list[bytes]
) -> None:
    async def requests() -> AsyncIterator[pb.AnalyzeRequest]:
        for number in range(2):
            yield pb.AnalyzeRequest(bitstream=packed[number], request_id=str(number))

    async with grpc.aio.insecure_channel(pair.address) as channel:
        call = AnalyzerStub(channel).AnalyzeStream(requests(), metadata=tuple(PARENT.items()))
        assert len([answer async for answer in call]) == 2
    elements = spans.named("AnalyzeStream element", "server")
    assert [f"{one.context.trace_id:032x}" for one in elements] == [TRACE, TRACE]


@pytest.mark.parametrize("given", ["", "00-zz-zz-01", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 5000])
async def test_a_context_that_is_none_begins_a_trace(pair: Pair, spans: Spans, given: str) -> None:
    answer = await pair.cloud.post("/analyze", content=png(0), headers={"traceparent": given})
    assert answer.status_code == 200
    assert spans.one("POST /analyze").parent is None


async def test_errors_are_marked_and_log_lines_name_the_trace(
    pair: Pair, spans: Spans, model: GatedModel, packed: list[bytes]
) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("isthmus")
    log.addHandler(handler)
    model.fail = ZeroDivisionError()
    try:
        async with grpc.aio.insecure_channel(pair.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await AnalyzerStub(channel).Analyze(
                    pb.AnalyzeRequest(bitstream=packed[0]), metadata=tuple(PARENT.items())
                )
    finally:
        log.removeHandler(handler)
    await until(lambda: bool(spans.named(ANALYZE, "server")))
    assert spans.one(ANALYZE, "server").status.status_code.name == "ERROR"
    [line] = [json.loads(line) for line in out.getvalue().splitlines()]
    assert line["trace_id"] == TRACE


async def test_nothing_is_sent_or_made_by_default(pair: Pair) -> None:
    assert tracing.outgoing() == {}
    assert tracing.trace_id() is None
    assert not tracing.start_tracing(TracingSettings(), "test")
    answer = await pair.edge.post("/analyze", content=png(0), headers=PARENT)
    assert answer.status_code == 200


def test_without_being_asked_a_server_imports_no_sdk() -> None:
    code = (
        "import sys, cloud.server, edge.server\n"
        "from shared.process import tracing\nfrom shared.process.config import TracingSettings\n"
        "assert not tracing.start_tracing(TracingSettings(), 'x')\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_asked_without_the_extra(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(RequestError, match=re.escape("pip install 'isthmus[tracing]'")) as told:
        tracing.start_tracing(TracingSettings(otlp_endpoint="http://localhost:4318"), "test")
    assert told.value.setting == "otlp_endpoint"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    assert not tracing.start_tracing(TracingSettings(), "test")
    assert "isthmus[tracing]" in caplog.text


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://a", "http://user:key@host", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(RequestError, match=r"--otlp-endpoint.*http://localhost:4318"):
        load_settings(CloudSettings, None, {"tracing.otlp_endpoint": ("--otlp-endpoint", url)})


@pytest.mark.parametrize("by", ["setting", "variable"])
def test_spans_arrive_at_the_endpoint(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        if by == "variable":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
            monkeypatch.setenv("OTEL_SERVICE_NAME", "door-box")
        settings = TracingSettings(otlp_endpoint=url if by == "setting" else "")
        assert tracing.start_tracing(settings, "isthmus-edge")
        with tracing.span("hello"):
            pass
        tracing.stop_tracing()
        server.shutdown()
    [(path, body)] = got
    assert path == "/v1/traces"
    assert b"hello" in body
    assert (b"door-box" if by == "variable" else b"isthmus-edge") in body


def test_a_server_does_not_stay_for_a_collector_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracing.start_tracing(
            TracingSettings(otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"), "test"
        )
        with tracing.span("hello"):
            pass
        tracing.stop_tracing(wait_s=0.01)
    assert "could not be sent within 0.01 s" in caplog.text
    assert tracing.outgoing() == {}


def test_a_ratio_is_decided_alike_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    with traced() as kept:
        for number in range(40):
            for kind in ("client", "server"):
                with tracing.frame_span(f"s.a.{number}", "frame", kind):  # type: ignore[arg-type]
                    pass
        sent, came = (
            {one.context.trace_id for one in kept.named("frame", kind)} for kind in ("client", "server")
        )
    assert sent == came
    assert 5 < len(sent) < 35


def test_the_deployed_base_needs_no_extra() -> None:
    lines = (
        (Path(__file__).parents[3] / "pyproject.toml").read_text().split("[project.optional-dependencies]")[0]
    )
    assert "opentelemetry" not in lines
