"""An image or a bitstream whose sender has left: it is not encoded, not batched and not sent on. Real servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI

from cloud.faces.http_face import build_app as cloud_app
from cloud.pipeline import Pipeline as CloudPipeline
from edge.api import build_app as edge_app
from edge.client import Client
from edge.pipeline import Pipeline as EdgePipeline
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE
from shared.encoder import Encoded, Encoder
from shared.process.config import HttpSettings
from shared.process.process import HttpServer
from shared.wire import analyzer_pb2 as pb
from support.service import GatedModel, OneBundle, png, until


class GatedEncoder:
    """An encoder that waits at a gate, and counts what it was given."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.gate, self.entered = threading.Event(), threading.Event()
        self.begun = 0

    def encode(self, *arguments: Any) -> Encoded:
        self.begun += 1
        self.entered.set()
        assert self.gate.wait(30)
        return self._encoder.encode(*arguments)


class Never:
    """A transport that counts its calls and never answers them."""

    def __init__(self) -> None:
        self.running = self.calls = 0

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        self.calls += 1
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
        raise AssertionError

    async def describe(self, timeout_s: float) -> pb.DescribeResponse:
        raise AssertionError

    async def close(self) -> None: ...


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[HttpServer]:
    server = HttpServer(app, "127.0.0.1", HttpSettings(port=0, connections_max=64), 1000)
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        server.stop()
        await task


async def send(server: HttpServer, body: bytes, kind: str = "image/png") -> Callable[[], None]:
    """A request that is sent to its end; the returned function leaves."""
    host, port = server.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return writer.close


async def gone(server: HttpServer) -> None:
    """All clients have left, and what waited for them has been cancelled, some turns of the event loop later."""
    await until(lambda: len(server.connections) == 0)
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.fixture
def gated(encoder: Encoder) -> GatedEncoder:
    return GatedEncoder(encoder)


async def test_a_bitstream_is_not_batched(
    pipeline: CloudPipeline, packed: list[bytes], model: GatedModel
) -> None:
    model.gate.clear()
    async with serving(cloud_app(lambda: pipeline, HttpSettings())) as server:
        leave_first = await send(server, packed[0], MEDIA_TYPE)
        await asyncio.to_thread(model.entered.wait, 30)
        leave = await send(server, packed[1], MEDIA_TYPE)
        await until(lambda: pipeline.waiting == 1)
        leave()
        await until(lambda: pipeline.waiting == 0)
        model.gate.set()
        leave_first()
    assert model.batches == [1]


async def test_the_cloud_neither_encodes_an_image_in_its_queue_nor_decodes_the_one_that_it_encodes(
    pipeline: CloudPipeline, gated: GatedEncoder, model: GatedModel
) -> None:
    one = pipeline.bundles
    assert isinstance(one, OneBundle)
    one.served = replace(one.served, encoder=gated)  # type: ignore[arg-type]
    async with serving(cloud_app(lambda: pipeline, HttpSettings())) as server:
        leave_first = await send(server, png(0))
        await asyncio.to_thread(gated.entered.wait, 30)
        leave_second = await send(server, png(1))
        await until(lambda: len(server.connections) == 2)
        leave_first()
        leave_second()
        await gone(server)
        gated.gate.set()
    assert gated.begun == 1
    assert model.batches == []


async def test_the_edge_neither_encodes_nor_sends(bundle: Bundle, gated: GatedEncoder) -> None:
    transport = Never()
    edge = EdgePipeline(gated, Client(CloudLink(), transport=transport))  # type: ignore[arg-type]
    async with serving(edge_app(lambda: edge, HttpSettings())) as server:
        leave_first = await send(server, png(0))
        await asyncio.to_thread(gated.entered.wait, 30)
        leave_second = await send(server, png(1))
        await until(lambda: len(server.connections) == 2)
        leave_first()
        leave_second()
        await gone(server)
        gated.gate.set()
    await edge.close()
    assert (gated.begun, transport.calls) == (1, 0)


async def test_the_edge_gives_up_its_call_to_the_cloud(bundle: Bundle, encoder: Encoder) -> None:
    transport = Never()
    edge = EdgePipeline(encoder, Client(CloudLink(), transport=transport))
    async with serving(edge_app(lambda: edge, HttpSettings())) as server:
        leave = await send(server, png(0))
        await until(lambda: transport.running == 1)
        leave()
        await until(lambda: transport.running == 0)
    await edge.close()
