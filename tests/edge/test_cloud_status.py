"""Every gRPC status that a cloud can end a call with: its line, its error, and whether the edge calls again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from edge import client as edge_client
from edge.client import Client
from edge.cloud_status import MEANINGS, error_of
from edge.settings import CloudLink
from shared.errors import (
    CloudUnreachableError,
    DeadlineError,
    IsthmusError,
    OverloadedError,
    RemoteRejectedError,
)
from shared.types import Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerServicer, add_AnalyzerServicer_to_server

Code = grpc.StatusCode
REPEATED = {Code.CANCELLED, Code.ABORTED, Code.UNAVAILABLE}
KINDS: dict[grpc.StatusCode, type[IsthmusError]] = {
    **dict.fromkeys(REPEATED, CloudUnreachableError),
    Code.DEADLINE_EXCEEDED: DeadlineError,
    Code.RESOURCE_EXHAUSTED: OverloadedError,
}


class Ends(AnalyzerServicer):
    """Ends the first calls with a status, and answers the others."""

    def __init__(self, code: grpc.StatusCode, times: int) -> None:
        self.code, self.times, self.calls = code, times, 0

    async def Analyze(  # noqa: N802
        self, request: pb.AnalyzeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AnalyzeResponse:
        self.calls += 1
        if self.calls <= self.times:
            await context.abort(self.code, "for a reason")
        return pb.AnalyzeResponse(request_id=request.request_id, bundle="b", fingerprint="00000000")


Cloud = Callable[[Ends], AbstractAsyncContextManager[Client]]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """An edge's client of a real server with the given servicer."""
    monkeypatch.setattr(edge_client, "FIRST_WAIT_S", 0.001)

    @asynccontextmanager
    async def make(servicer: Ends) -> AsyncIterator[Client]:
        server = grpc.aio.server()
        add_AnalyzerServicer_to_server(servicer, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with Client(CloudLink(address=address, attempts_max=3)) as client:
            yield client
        await server.stop(0)

    return make


def test_every_status_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Code) - {Code.OK}
    assert len(MEANINGS) == 16


@pytest.mark.parametrize("code", sorted(MEANINGS, key=lambda code: code.value[0]))
async def test_what_becomes_of_a_status(code: grpc.StatusCode, cloud: Cloud) -> None:
    servicer = Ends(code, 99)
    async with cloud(servicer) as client:
        with pytest.raises(KINDS.get(code, RemoteRejectedError)) as caught:
            await client.analyze("mine", b"", Wanted())
    line = str(caught.value)
    assert "for a reason" in line
    assert "\n" not in line
    assert "within" not in line, "no deadline has passed"
    assert "is `isthmus cloud serve` running" not in line, "it is: it answered"
    if isinstance(caught.value, RemoteRejectedError):
        assert caught.value.code == code.name
    assert servicer.calls == (3 if code in REPEATED else 1)


@pytest.mark.parametrize("code", sorted(REPEATED, key=lambda code: code.value[0]))
async def test_a_status_that_passes_costs_nothing(code: grpc.StatusCode, cloud: Cloud) -> None:
    servicer = Ends(code, 2)
    async with cloud(servicer) as client:
        assert (await client.analyze("mine", b"", Wanted())).request_id == "mine"
    assert servicer.calls == 3


def test_a_message_beyond_a_limit_is_not_overload() -> None:
    error = error_of(Code.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 5)")
    assert isinstance(error, RemoteRejectedError)


async def test_the_clouds_own_limit_is_not_the_edges_deadline(cloud: Cloud) -> None:
    async with cloud(Ends(Code.DEADLINE_EXCEEDED, 99)) as client:
        with pytest.raises(DeadlineError, match="gave up: for a reason"):
            await client.analyze("mine", b"", Wanted())
