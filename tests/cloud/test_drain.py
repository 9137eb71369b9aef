"""The end of a server: what it accepted is answered, what comes goes elsewhere, and a second server loses nothing."""

from __future__ import annotations

import asyncio
import gc
import signal
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud.faces.grpc_server import GrpcServer
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.server import CloudServer, _shelf_bytes
from cloud.settings import CloudSettings, GrpcSettings
from edge.client import Client
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE
from shared.encoder import Encoder
from shared.process.config import HttpSettings
from shared.process.process import HttpServer
from shared.process.ready import Ready
from shared.types import Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.processes import server
from support.service import GatedModel, png, problem, until

STREAM = {"Content-Type": MEDIA_TYPE}
CLIENTS = 8


async def test_http_refuses_with_a_hint_while_it_finishes(
    pipeline: Pipeline, model: GatedModel, packed: list[bytes]
) -> None:
    ready: Ready[Pipeline] = Ready("the server")
    ready.fill(pipeline)
    served = HttpServer(build_app(ready, HttpSettings()), "127.0.0.1", HttpSettings(port=0), 20_000)
    serving = asyncio.create_task(served.serve())
    url = f"http://{served.address}"
    model.gate.clear()
    async with httpx.AsyncClient(base_url=url, timeout=30) as http, httpx.AsyncClient(base_url=url) as late:
        accepted = asyncio.create_task(http.post("/analyze", content=packed[0], headers=STREAM))
        await asyncio.to_thread(model.entered.wait, 30)
        ready.empty()
        finishing = asyncio.create_task(served.finish(30))
        refused = await late.post("/analyze", content=packed[1], headers=STREAM)  # on a new connection
        problem(refused, 503)
        assert int(refused.headers["retry-after"]) > 0
        problem(await late.get("/readyz"), 503)
        assert (await late.get("/healthz")).status_code == 200
        assert not finishing.done()
        model.gate.set()
        await finishing
        assert (await accepted).status_code == 200
    served.stop()
    await serving
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


async def test_an_answer_that_does_not_come_holds_the_end_for_its_time_only(
    pipeline: Pipeline, model: GatedModel, packed: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    settings = HttpSettings(port=0)
    served = HttpServer(build_app(lambda: pipeline, HttpSettings()), "127.0.0.1", settings, 60_000)
    serving = asyncio.create_task(served.serve())
    model.gate.clear()
    async with httpx.AsyncClient(base_url=f"http://{served.address}", timeout=60) as http:
        stuck = asyncio.create_task(http.post("/analyze", content=packed[0], headers=STREAM))
        await asyncio.to_thread(model.entered.wait, 30)
        async with asyncio.timeout(30):
            await served.finish(0.05)
            served.stop()
            await serving  # not for another minute
            refused = await stuck
        assert "send it again" in problem(refused, 503)["detail"]
        assert int(refused.headers["retry-after"]) > 0
    assert caplog.text == ""
    model.gate.set()


async def test_a_call_that_the_end_cuts_is_refused_with_a_hint(
    pipeline: Pipeline, model: GatedModel, packed: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    ready: Ready[Pipeline] = Ready("the server")
    ready.fill(pipeline)
    served = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0))
    await served.start()
    model.gate.clear()
    async with grpc.aio.insecure_channel(served.address) as channel, asyncio.timeout(30):
        stub = AnalyzerStub(channel)
        one = stub.Analyze(pb.AnalyzeRequest(bitstream=packed[0]), timeout=60)
        assert await asyncio.to_thread(model.entered.wait, 30)
        many = stub.AnalyzeStream(timeout=60)
        await many.write(pb.AnalyzeRequest(request_id="s", bitstream=packed[1]))
        await until(lambda: pipeline.waiting == 1)
        ready.empty()
        await served.end(0.05)
        for call in (one, many):
            assert (await call.code(), await call.details()) == (
                grpc.StatusCode.UNAVAILABLE,
                "the server is ending and could not finish this request; send it again",
            )
            assert int(dict(await call.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert caplog.text == ""
    model.gate.set()


async def test_what_stays_is_no_work_for_the_garbage_collector(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full collection looked at some 400,000 objects of libraries, and stopped the server for a third of a second."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    settings = CloudSettings(grpc=GrpcSettings(port=0), http=HttpSettings(port=0))
    served, stop = CloudServer(Bundle.open_without_added(tiny_bundle), settings), asyncio.Event()
    before = len(gc.get_objects())
    running = asyncio.create_task(served.run(stop))
    try:
        await until(lambda: running.done() or gc.get_freeze_count() > before / 2)
        assert len(gc.get_objects()) < before / 2  # without those that are left alone
        stop.set()
        await running
    finally:
        gc.unfreeze()


async def test_a_second_process_takes_over_without_a_lost_request(
    tiny_bundle: Path, encoder: Encoder
) -> None:
    arguments = (
        "cloud",
        "serve",
        "--bundle",
        tiny_bundle,
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--threads",
        "1",
    )
    packed = [encoder.encode(png(seed)).data for seed in range(CLIENTS)]
    with server(*arguments) as first, server(*arguments) as second:
        events = [one.event("listening") for one in (first, second)]
        for one in (first, second):
            await asyncio.to_thread(one.event, "ready")
        old = events[0]["grpc"]
        link = CloudLink.of(address=f"{old},{events[1]['grpc']}", deadline_ms=60_000, attempts_max=10)
        answered = [0] * CLIENTS
        over = asyncio.Event()

        async def camera(number: int, client: Client) -> None:
            while not over.is_set():
                name = f"c{number}.{answered[number]}"
                answer = await client.analyze(name, packed[number], Wanted())
                assert answer.request_id == name
                answered[number] += 1

        async with (
            Client(link) as client,
            asyncio.TaskGroup() as group,
            grpc.aio.insecure_channel(old) as channel,
        ):
            for number in range(CLIENTS):
                group.create_task(camera(number, client))
            stream = AnalyzerStub(channel).AnalyzeStream(timeout=60)
            await stream.write(pb.AnalyzeRequest(request_id="s", bitstream=packed[0]))
            assert isinstance(await stream.read(), pb.AnalyzeStreamResponse)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert await status_of(watch) == "SERVING"
            await until(lambda: min(answered) >= 2)
            first.process.send_signal(signal.SIGTERM)
            assert await status_of(watch) == "NOT_SERVING"
            with pytest.raises(grpc.aio.AioRpcError) as told:  # and opens it again elsewhere
                await stream.read()
            assert told.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(first.process.wait, 30) == 0
            before = list(answered)
            await until(lambda: all(now >= then + 2 for now, then in zip(answered, before, strict=True)))
            over.set()
        assert second.stop() == 0


async def status_of(watch: grpc.aio.UnaryStreamCall) -> str:
    seen = await watch.read()
    assert isinstance(seen, health_pb2.HealthCheckResponse)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(seen.status)


@pytest.mark.parametrize(
    ("wanted", "limit", "given"),
    [(100, None, 100), (100, 1000, 100), (100, 150, 75), (4 << 30, 1 << 30, 1 << 29)],
)
def test_bundles_take_half_of_a_containers_memory_at_most(wanted: int, limit: int | None, given: int) -> None:
    assert _shelf_bytes(wanted, limit) == given
