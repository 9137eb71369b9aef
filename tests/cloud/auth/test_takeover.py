"""A second server takes over from one that ends, without a lost request; the end of a server as its clients see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from cloud.faces.grpc_server import GrpcServer
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from edge.client import Client
from edge.settings import CloudLink
from shared.errors import RequestError
from shared.process.ready import Ready
from shared.types import Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.service import GatedModel, until

REQUESTS = 60


class Site:
    """A server that can be ended as SIGTERM ends it: nothing new, what was accepted is answered."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._ready: Ready[Pipeline] = Ready("the server")
        self._ready.fill(pipeline)
        self._server = GrpcServer(self._ready, "127.0.0.1", GrpcSettings(port=0))
        self.address = self._server.address

    async def start(self) -> None:
        await self._server.start()
        await self._server.serving()

    async def end(self) -> None:
        self._ready.empty()
        await self._server.end(20)


@asynccontextmanager
async def two_sites(pipeline: Pipeline) -> AsyncIterator[tuple[Site, Site]]:
    sites = Site(pipeline), Site(pipeline)
    for site in sites:
        await site.start()
    try:
        yield sites
    finally:
        for site in sites:
            await site.end()


async def test_no_request_is_lost_while_a_second_server_takes_over(
    pipeline: Pipeline, model: GatedModel, packed: list[bytes]
) -> None:
    async with two_sites(pipeline) as (first, second):
        link = CloudLink.of(address=f"{first.address}, {second.address}", deadline_ms=60_000, in_flight_max=8)
        async with Client(link) as client:
            model.gate.clear()
            running = [
                asyncio.create_task(client.analyze(f"r{n}", packed[n % 8], Wanted())) for n in range(REQUESTS)
            ]
            await asyncio.to_thread(model.entered.wait, 30)
            ending = asyncio.create_task(first.end())
            await until(lambda: first._ready.value is None)
            assert not ending.done()  # it waits for what it has accepted
            model.gate.set()
            await ending
            answers = await asyncio.gather(*running)
            assert [answer.request_id for answer in answers] == [f"r{n}" for n in range(REQUESTS)]
            assert await client.analyze("after", packed[0], Wanted())


async def test_a_refusal_has_a_hint_when_to_come_again(pipeline: Pipeline, packed: list[bytes]) -> None:
    site = Site(pipeline)
    await site.start()
    site._ready.empty()
    async with grpc.aio.insecure_channel(site.address) as channel:
        stub = AnalyzerStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Analyze(pb.AnalyzeRequest(bitstream=packed[0]))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        trailing = dict(caught.value.trailing_metadata() or ())
        assert int(trailing["grpc-retry-pushback-ms"]) > 0
    await site.end()


def test_addresses_are_checked_one_by_one() -> None:
    assert CloudLink(address="a:1, b:2").addresses == ("a:1", "b:2")
    for wrong in ("a:1,", "a:1,b", ",a:1", "a:1,http://b:2"):
        with pytest.raises(RequestError, match="is no address"):
            CloudLink.of(address=wrong)
