"""A cloud that refuses who calls: a real gRPC server on a free port, and the edge's HTTP answer to its own caller."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from edge.api import build_app
from edge.client import Client
from edge.pipeline import Pipeline
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import PermissionDeniedError, UnauthorizedError, exit_of
from shared.process.config import HttpSettings
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerServicer, add_AnalyzerServicer_to_server
from support.service import png, problem


class Refuses(AnalyzerServicer):
    """Ends each Analyze with the status of an error; counts the calls."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    async def Analyze(  # noqa: N802
        self, request: pb.AnalyzeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AnalyzeResponse:
        self.calls += 1
        await context.abort(*convert.status_of(self.error))
        raise AssertionError


@pytest.mark.parametrize(
    ("error", "code", "status", "challenge"),
    [
        (UnauthorizedError("this call needs a token"), "UNAUTHENTICATED", 401, "Bearer"),
        (PermissionDeniedError("camera door is not yours"), "PERMISSION_DENIED", 403, None),
    ],
)
async def test_a_refusal_leaves_the_edge_as_what_it_is(
    bundle: Bundle, encoder: Encoder, error: Exception, code: str, status: int, challenge: str | None
) -> None:
    assert (exit_of(error).grpc, exit_of(error).http) == (code, status)
    cloud, servicer = grpc.aio.server(), Refuses(error)
    add_AnalyzerServicer_to_server(servicer, cloud)
    address = f"127.0.0.1:{cloud.add_insecure_port('127.0.0.1:0')}"
    await cloud.start()
    edge = Pipeline(encoder, Client(CloudLink(address=address)))
    app = httpx.ASGITransport(build_app(lambda: edge, HttpSettings()))
    try:
        async with httpx.AsyncClient(transport=app, base_url="http://edge") as http:
            answer = await http.post("/analyze", content=png(0), headers={"Content-Type": "image/png"})
            document = (await http.get("/openapi.json")).json()
    finally:
        await edge.close()
        await cloud.stop(0)
    assert problem(answer, status)["detail"] == str(error)
    assert answer.headers.get("www-authenticate") == challenge
    assert servicer.calls == 1  # the same token would be refused again
    assert str(status) in document["paths"]["/analyze"]["post"]["responses"]
