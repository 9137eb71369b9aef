"""A cloud's two faces behind one gate, on real ports of this process, around a model of the tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
from fastapi import FastAPI

from cloud.faces.grpc_server import GrpcServer
from cloud.faces.http_face import build_app
from cloud.faces.http_page import PageParts
from cloud.metrics import CloudMetrics
from cloud.page.fleet import Fleet
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from shared.process.auth import Gate
from shared.process.config import HttpSettings, MetricsSettings
from shared.process.process import HttpServer
from shared.process.ready import Ready
from shared.process.tls import ServerTls
from shared.process.tokens import Scope, TokenGrant, add_token


@dataclass(frozen=True)
class Locked:
    """gate: decides for both. grpc, http: host:port."""

    gate: Gate
    app: FastAPI
    grpc: str
    http: str

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.grpc)

    def client(self, token: str | None = None, **headers: str) -> httpx.AsyncClient:
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=f"http://{self.http}", headers={**bearer, **headers}, timeout=30)


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def token_for(path: Path, name: str, *scopes: Scope, cameras: Sequence[str] = ("*",)) -> str:
    return add_token(path, TokenGrant(name, scopes, cameras))


@asynccontextmanager
async def locked(
    pipeline: Pipeline,
    gate: Gate,
    tls: ServerTls | None = None,
    cors_origins: Sequence[str] = (),
    grpc_settings: GrpcSettings | None = None,
) -> AsyncIterator[Locked]:
    ready: Ready[Pipeline] = Ready("the server")
    ready.fill(pipeline)
    metrics = CloudMetrics(MetricsSettings(), lambda: pipeline)
    metrics.tokens(gate.refused)
    watch: Any = lambda: None  # noqa: E731
    page = PageParts(Fleet())
    app = build_app(ready, HttpSettings(port=0), watch, dict, gate, cors_origins, metrics, page)
    http = HttpServer(app, "127.0.0.1", HttpSettings(port=0), 1000, tls)
    settings = grpc_settings or GrpcSettings(port=0)
    rpc = GrpcServer(ready, "127.0.0.1", settings, 128, gate, tls, metrics.requests)
    serving = asyncio.create_task(http.serve())
    await rpc.start()
    await rpc.serving()
    try:
        yield Locked(gate, app, rpc.address, http.address)
    finally:
        http.stop()
        await rpc.end(1)
        await serving
