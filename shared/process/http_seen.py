"""What is seen of each HTTP request: its count, its time and its trace; and GET /metrics.

Stands outside everything else of an app, so that what is refused at the door is counted, too.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.process import tracing
from shared.process.access import needs
from shared.process.logs import request_id
from shared.process.metrics import OTHER, Metrics, RequestMetrics

VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REFUSED_ROUTE = "isthmus.route"  # key of a scope: the route that was asked for, where none was called
GONE = "gone"  # the status of a request whose client left before its answer


class RequestsSeen:
    """ASGI middleware that counts every request by its route and its status."""

    def __init__(self, app: ASGIApp, requests: RequestMetrics) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Health checks and scrapes come every few seconds, and would fill the traces.
        with (
            tracing.span("HTTP", "server", _context(scope))
            if scope["method"] == "POST"
            else nullcontext() as one
        ):
            await self._count(scope, receive, send, one)

    async def _count(self, scope: Scope, receive: Receive, send: Send, span: Any) -> None:
        started, status = time.perf_counter(), GONE

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            method, seconds = _method(scope), time.perf_counter() - started
            self._requests.ended("http", method, status, seconds, tracing.exemplar())
            if span is not None:
                span.update_name(method)
                span.set_attributes({"http.response.status_code": status, "isthmus.request_id": request_id()})


def _context(scope: Scope) -> dict[str, str]:
    headers = Headers(scope=scope)
    return {name: headers[name] for name in tracing.CONTEXT if name in headers}


def _method(scope: Scope) -> str:
    """The route that answered, as "POST /analyze"; one word for all paths that do not exist."""
    path = getattr(scope.get("route") or scope.get(REFUSED_ROUTE), "path", None)
    if path is None or scope["method"] not in VERBS:
        return OTHER
    return f"{scope['method']} {path}"


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    """GET /metrics."""

    content: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}
    }

    @app.get(
        "/metrics",
        tags=["health"],
        summary="What this server counts, for Prometheus",
        response_class=Response,
        responses=content,
    )
    @needs("metrics")
    async def read(request: Request) -> Response:  # in the event loop, whose numbers it reads; 2 ms
        await metrics.prepare()
        body, kind = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, media_type=kind)
