"""What the HTTP APIs of edge and cloud share: request ids, limits, bodies, and errors as problem details.

Knows neither edge nor cloud. Each API is `create_app(...)` plus its routes. Around every request stands `RequestGuard`:

    X-Request-Id taken or made -> room for one more request? -> route -> answer, or a problem (RFC 9457)
                                                                  `read_body`: room for its bytes?

A problem is `application/problem+json`: type, title, status, detail, instance and request_id. Its status comes from the
one table in `shared.errors`; any other error is logged and returned as a bare 500; internals are never exposed.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import (
    Exit,
    IsthmusError,
    NotAnImageError,
    NotReadyError,
    OverloadedError,
    PayloadTooLargeError,
    RequestError,
    exit_of,
)
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.process.access import public
from shared.process.http_seen import RequestsSeen, add_metrics
from shared.process.logs import about
from shared.process.metrics import Metrics
from shared.process.process import CUT
from shared.process.rates import Portions
from shared.process.security_headers import add_security_headers
from shared.types import (
    Analysis,
    ByteCount,
    Times,
    Vectors,
    check_request_id,
    new_request_id,
)

log = logging.getLogger("isthmus.http")

T = TypeVar("T")

PROBLEM_TYPE = "application/problem+json"
BODY_TIMEOUT_S = 30.0

_EXAMPLE_ID = "9f1c2d3e4b5a69788796a5b4c3d2e1f0"


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description="names the kind of problem; does not change between releases")
    title: str
    status: int
    detail: str = Field(description="what was wrong and what to do, one line")
    instance: str = Field(description="this occurrence, by its request id")
    request_id: str


class Readiness(BaseModel):
    """What /readyz answers once the server is ready."""

    status: Literal["ready"] = "ready"
    troubles: dict[str, str] | None = Field(
        default=None, description="why optional parts, such as the archive, do not work now; absent if all do"
    )


def problem_response(exit_: Exit, detail: str, request_id: str) -> Response:
    problem = Problem(
        type=f"urn:isthmus:problem:{exit_.title.lower().replace(' ', '-')}",
        title=exit_.title,
        status=exit_.http,
        detail=detail,
        instance=f"urn:isthmus:request:{request_id}",
        request_id=request_id,
    )
    headers = {} if exit_.retry_after_s is None else {"Retry-After": str(exit_.retry_after_s)}
    if exit_.http == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(problem.model_dump_json(), exit_.http, headers, PROBLEM_TYPE)


class BodyShare:
    """What one request holds of the bytes that the bodies of all requests may have, from their arrival to its answer.

    Taken as bytes arrive: an announced length that never comes takes none. name, weight: of who sends it, once known;
    see `Portions`. meter: counts bytes for whoever sends them.
    """

    def __init__(self, budget: Portions) -> None:
        self._budget, self._held = budget, 0
        self.name, self.weight = "", 1.0
        self.meter: Callable[[int], None] | None = None

    def check(self, size: int) -> None:
        """Raises OverloadedError where `size` more bytes have no room now."""
        if not self._budget.has_room(self.name, self.weight, size):
            raise OverloadedError(
                f"the bodies of running requests fill {self._budget.most} bytes; try again later"
            )

    def take(self, size: int) -> None:
        """Raises OverloadedError."""
        self.check(size)
        if self.meter is not None:
            self.meter(size)
        self._budget.take(self.name, self.weight, size)
        self._held += size

    def give_back(self) -> None:
        if self._held:
            self._budget.give_back(self.name, self._held)
        self._held = 0


def create_app(
    title: str,
    summary: str,
    requests_max: int,
    bodies_bytes_max: int,
    inside: Sequence[Middleware] = (),
    metrics: Metrics | None = None,
    **options: Any,
) -> FastAPI:
    """A FastAPI app whose every answer has a request id and whose every error is a problem.

    requests_max: analyses at once; more are answered 429 before their body is read. bodies_bytes_max: their bodies
    together, shared by who sends them; one that does not fit is answered 429. inside: middleware between `RequestGuard`
    and the routes, the outermost first. metrics: counts the requests, and is read at GET /metrics.
    """
    app = FastAPI(title=title, summary=summary, version="1", **options)

    async def known(request: Request, error: Exception) -> Response:
        return problem_response(exit_of(error), str(error), request.state.request_id)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        detail = f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"
        return problem_response(exit_of(RequestError()), detail, request.state.request_id)

    async def routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        exit_ = Exit("INVALID_ARGUMENT", error.status_code, str(error.detail))
        detail = f"{request.method} {request.url.path}: {error.detail}; /docs lists what there is"
        response = problem_response(exit_, detail, request.state.request_id)
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(IsthmusError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, routed)
    for one in reversed(inside):
        app.add_middleware(one.cls, *one.args, **one.kwargs)
    app.add_middleware(RequestGuard, requests_max=requests_max, budget=Portions(bodies_bytes_max))
    if metrics is not None:
        app.add_middleware(RequestsSeen, requests=metrics.requests)
        add_metrics(app, metrics)
    return app


class RequestGuard:
    """ASGI middleware around every request: its id, the limits of all requests, and the outermost error boundary."""

    def __init__(self, app: ASGIApp, requests_max: int, budget: Portions) -> None:
        self._app, self._requests_max, self._budget = app, requests_max, budget
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id")
        request_id = given or new_request_id()
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                add_security_headers(headers, scope)
            await send(message)

        async def refuse(error: Exception, detail: str) -> None:
            await problem_response(exit_of(error), detail, request_id)(scope, receive, send_with_id)

        try:
            check_request_id(request_id)
        except RequestError as error:
            request_id = new_request_id()
            await refuse(error, f"X-Request-Id: {error}")
            return
        share = BodyShare(self._budget)
        scope.setdefault("state", {}).update(request_id=request_id, body=share)
        about(request_id)
        limited = scope["method"] == "POST"  # health checks must be answered under load
        if limited and self._running >= self._requests_max:
            busy = OverloadedError(f"{self._requests_max} requests are being served already; try again later")
            await refuse(busy, str(busy))
            return
        self._running += limited
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError as error:
            if CUT not in error.args:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            if not started:  # otherwise uvicorn cuts the connection
                ending = NotReadyError(
                    "the server is ending and could not finish this request; send it again"
                )
                await refuse(ending, str(ending))
        except (
            Exception
        ) as error:  # the outermost boundary of a request: logged here, returned without its internals
            log.exception("unexpected error")
            if started:
                raise  # the server cuts the connection, so that half an answer is not taken for a whole one
            await refuse(error, "internal error; the server's log has more under this request id")
        finally:
            self._running -= limited
            share.give_back()


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The body, never more of it in memory than `bytes_max`.

    Raises PayloadTooLargeError, OverloadedError where the budget of all bodies is used up (both before reading where
    Content-Length tells), RequestError for an empty body, and HTTPException 408 where it takes longer than 30 seconds.
    """
    share: BodyShare = request.state.body
    too_large = PayloadTooLargeError(f"the body is larger than {bytes_max} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal():
        if int(length) > bytes_max:
            raise too_large
        share.check(int(length))
    body = (
        io.BytesIO()
    )  # its getvalue() hands the buffer out, where joining parts would hold every byte twice
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                if body.tell() + len(chunk) > bytes_max:
                    raise too_large
                share.take(len(chunk))
                body.write(chunk)
    except TimeoutError:
        raise HTTPException(408, "the body took too long to arrive") from None
    if not body.tell():
        raise RequestError("the body is empty; send an image file as it is: curl --data-binary @room.png URL")
    return body.getvalue()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. The body must have been read.

    Raises ClientDisconnect, and whatever `work` raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        # Also where this call is itself cancelled: nobody would use the result.
        for task in (working, leaving):
            task.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def media_type(request: Request, *also: str) -> str:
    """The body's media type, lower case; "" where none is given.

    A form's counts as none: curl sends it with every file whose type it was not given.

    Raises NotAnImageError (415) if it is not image/*, application/octet-stream, absent, or one of `also`.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return ""
    if kind in ("", "application/octet-stream", *also) or kind.startswith("image/"):
        return kind
    expected = ", ".join(("image/*", "application/octet-stream", *also))
    raise NotAnImageError(f"a body of type {kind[:100]} is not read here; send {expected}")


def with_vectors(analysis: Analysis, form: Vectors) -> Analysis:
    """The answer with every vector in the requested form."""
    results = {task: result.with_vectors(form) for task, result in analysis.results.items()}
    return analysis.model_copy(update={"results": results})


def add_health(
    app: FastAPI,
    check_ready: Callable[[], object],
    troubles: Callable[[], dict[str, str]] = dict,
) -> None:
    """GET and HEAD of /healthz (the process answers) and /readyz.

    check_ready: raises NotReadyError until a warm-up has run. troubles: why optional parts do not work now, by name.
    """

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["health"], summary="Is the process alive?")
    @public
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False, response_model_exclude_none=True)
    @app.get(
        "/readyz",
        tags=["health"],
        summary="Is it ready to answer? Only after a warm-up analysis.",
        response_model_exclude_none=True,
        responses={503: problem_doc(NotReadyError)},
    )
    @public
    async def readyz() -> Readiness:
        check_ready()
        return Readiness(troubles=troubles() or None)


def problem_doc(*errors: type[IsthmusError] | Exit) -> dict[str, Any]:
    """How a status stands in OpenAPI: its schema, and an example of the first of `errors`."""
    exits = [error if isinstance(error, Exit) else exit_of(error.__new__(error)) for error in errors]
    example = json.loads(bytes(problem_response(exits[0], "what was wrong, what to do", _EXAMPLE_ID).body))
    content = {"schema": Problem.model_json_schema(), "example": example}
    return {"description": "; ".join(e.title for e in exits), "content": {PROBLEM_TYPE: content}}


def transport_docs() -> dict[int | str, dict[str, Any]]:
    """The problems that come from HTTP itself, not from what a body holds."""
    return {
        status: problem_doc(Exit("INVALID_ARGUMENT", status, HTTPStatus(status).phrase))
        for status in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.REQUEST_TIMEOUT)
    }


def answer_doc() -> dict[str, Any]:
    """How an analysis stands in OpenAPI."""
    example = Analysis(
        request_id=_EXAMPLE_ID,
        bundle="rooms",
        fingerprint="01234567",  # an illustration: a real one changes with every training
        quality=50,
        results={
            "classification": ClassificationResult(top=(ClassScore(label="kitchen", index=2, score=0.98),))
        },
        bytes=ByteCount(b_v=4, b_z=25, total=44, bits_per_pixel=0.0054),
        times=Times(
            read_ms=3.1, front_ms=6.2, code_ms=2.4, send_ms=14.0, queue_ms=2.0, decode_ms=3.3, tails_ms=5.9
        ),
    )
    return {"content": {"application/json": {"example": example.model_dump(mode="json")}}}


def body_doc(*kinds: str) -> dict[str, Any]:
    """How a raw body stands in OpenAPI, for `openapi_extra`."""
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": dict.fromkeys(kinds, schema)}}
