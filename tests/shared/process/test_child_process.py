"""Cloud and edge as real processes: ports, loading, readiness, an image through both, and a clean end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE, Bitstream
from shared.types import Analysis
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.processes import Server, refused, run, run_here, server, told
from support.service import png, problem

IMAGE = {"Content-Type": "image/png"}


@dataclass
class Both:
    cloud: Server
    edge: Server
    grpc: str
    cloud_http: str
    edge_http: str
    while_loading: httpx.Response


@pytest.fixture(scope="module")
def both(tiny_bundle: Path) -> Iterator[Both]:
    """A cloud and an edge; the last test ends them."""
    with server("cloud", "serve", "--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0") as cloud:
        ports = cloud.event("listening")
        # torch takes seconds to load; a request that comes meanwhile is told so.
        while_loading = httpx.get(f"http://{ports['http']}/readyz")
        with server(
            "edge", "serve", "--bundle", tiny_bundle, "--port", "0", "--cloud", ports["grpc"]
        ) as edge:
            address = edge.event("listening")["http"]
            edge.event("ready")
            cloud.event("ready")
            yield Both(cloud, edge, ports["grpc"], ports["http"], address, while_loading)


def test_it_is_not_ready_while_it_loads_and_is_ready_after(both: Both) -> None:
    problem(both.while_loading, 503)
    assert both.while_loading.headers["retry-after"] == "2"
    for address in (both.cloud_http, both.edge_http):
        assert httpx.get(f"http://{address}/readyz").json() == {"status": "ready"}
        assert httpx.get(f"http://{address}/healthz").json() == {"status": "alive"}


def test_an_image_through_both_is_the_same_as_through_the_cloud(both: Both, packed: list[bytes]) -> None:
    ours = httpx.post(f"http://{both.edge_http}/analyze", content=png(0), headers=IMAGE)
    assert ours.status_code == 200, ours.text
    theirs = httpx.post(f"http://{both.cloud_http}/analyze", content=png(0), headers=IMAGE)
    stream = httpx.post(
        f"http://{both.cloud_http}/analyze", content=packed[0], headers={"Content-Type": MEDIA_TYPE}
    )
    answers = [Analysis.model_validate(one.json()) for one in (ours, theirs, stream)]
    assert answers[0].results == answers[1].results == answers[2].results
    assert answers[0].bytes == answers[1].bytes == answers[2].bytes


def test_the_command_analyze(both: Both, tmp_path: Path, tiny_bundle: Path) -> None:
    picture = tmp_path / "room.png"
    picture.write_bytes(png(0))
    done = run_here("edge", "analyze", picture, "--cloud", both.grpc, "--bundle", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "classification: " in done.stdout
    line = refused(
        "edge", "analyze", picture, "--cloud", both.grpc, "--bundle", tiny_bundle, "--task", "nope", status=1
    )
    assert line == f"{picture}: unknown task 'nope'; this bundle answers: classification"


async def test_grpc_health_and_reflection(both: Both, bundle: Bundle) -> None:
    async with grpc.aio.insecure_channel(both.grpc) as channel:
        described = await AnalyzerStub(channel).Describe(pb.DescribeRequest(), timeout=30)
        assert described.bundles[0].fingerprint == bundle.fingerprint.hex()
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "isthmus.v1.Analyzer"):
            status = (await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        [answer] = [one async for one in reflection.ServerReflectionInfo(asked, timeout=30)]
        names = {service.name for service in answer.list_services_response.service}
    assert {"isthmus.v1.Analyzer", "grpc.health.v1.Health"} <= names


async def test_every_grid_that_a_stream_may_claim_is_answered_or_refused(
    both: Both, packed: list[bytes], packed_1: list[bytes]
) -> None:
    """A stream with another grid than the bundle's own must not be an internal error."""
    stream = Bitstream.unpack(packed_1[0])
    async with grpc.aio.insecure_channel(both.grpc) as channel:
        stub = AnalyzerStub(channel)
        for h, w in ((1, 1), (1, 7), (3, 2), (32, 32), (33, 32), (1, 4095)):
            data = replace(stream, h=h, w=w).pack()
            call = stub.Analyze(pb.AnalyzeRequest(bitstream=data), timeout=30)
            code, details = await call.code(), await call.details()
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT), (h, w, details)


def test_a_port_that_is_taken(both: Both, tiny_bundle: Path) -> None:
    taken = both.grpc.split(":")[1]
    # In a process of its own, because gRPC's core writes to stderr by itself.
    done = run("cloud", "serve", "--bundle", tiny_bundle, "--http-port", "0", "--grpc-port", taken)
    assert told(done, 2) == f"cannot listen on 127.0.0.1:{taken}: Address already in use"
    taken = both.edge_http.split(":")[1]
    line = refused("edge", "serve", "--bundle", tiny_bundle, "--port", taken, status=2)
    assert line == f"cannot listen on 127.0.0.1:{taken}: Address already in use"


def test_the_cloud_ends_cleanly_and_the_edge_says_so(both: Both) -> None:
    assert both.cloud.stop() == 0
    answer = httpx.post(f"http://{both.edge_http}/analyze", content=png(0), headers=IMAGE, timeout=30)
    assert both.grpc in problem(answer, 503)["detail"]
    assert answer.headers["retry-after"] == "5"
    assert both.edge.stop(signal.SIGINT) == 0
    for address in (both.grpc, both.cloud_http, both.edge_http):
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), 5)


async def test_a_cloud_that_is_told_to_end_while_it_loads(tiny_bundle: Path) -> None:
    with server("cloud", "serve", "--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0") as cloud:
        address = cloud.event("listening")["grpc"]
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AnalyzerStub(channel).Describe(pb.DescribeRequest(), timeout=30)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "loading" in str(caught.value.details())
            health = health_pb2_grpc.HealthStub(channel)
            status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=30)).status
            assert status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await asyncio.to_thread(cloud.stop) == 0
