"""Who may call each HTTP route: declared by `shared.process.access`, decided by `shared.process.auth`.

A route that declares nothing answers 403 to everybody. The guard looks before any body is read, and finds the route
itself: so it holds for mounted applications and for the documentation too, and paths that do not exist ask for a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import (
    IsthmusError,
    OverloadedError,
    PermissionDeniedError,
    UnauthorizedError,
    exit_of,
)
from shared.process.access import ANY, Access, access_of, marked
from shared.process.auth import Caller, Credentials, Gate, set_caller
from shared.process.connections import CERTIFICATE_NAMES
from shared.process.http import problem_doc, problem_response
from shared.process.http_seen import REFUSED_ROUTE
from shared.process.http_sites import is_own
from shared.process.rates import Places

_BEARER = "bearer"
_OF_PROXIES = ("forwarded", "x-forwarded-for", "via")


def undeclared(app: FastAPI) -> list[str]:
    """The routes of a guarded application that declare no access, by path: closed to everybody, which is a mistake."""
    return [str(getattr(route, "path", route)) for route in app.routes if access_of(route) is None]


def access_guard(
    gate: Gate, cors_origins: Sequence[str] = (), requests_max: int = 32, reads_max: int = 512
) -> list[Middleware]:
    """For `create_app`: every request to the application goes through the gate.

    requests_max: analyses at once, reads_max: other requests, so that slow readers of long answers do not hold every
    connection; callers share both, see `shared.process.rates.Places`. cors_origins: of pages elsewhere whose scripts
    may call, as https://fleet.example.org.
    """
    posts, reads = Places(requests_max), Places(reads_max)
    guard = [Middleware(AccessGuard, gate=gate, posts=posts, reads=reads, cors_origins=cors_origins)]
    if not cors_origins:
        return guard
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(cors_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "X-Camera", "X-Captured-At", "X-Request-Id"],
        expose_headers=["X-Request-Id", "Retry-After", "WWW-Authenticate"],
    )
    return [cors, *guard]


def describe_access(app: FastAPI) -> None:
    """Marks FastAPI's own routes as open to any token, and adds to OpenAPI which routes ask for one."""
    for route in app.routes:
        if getattr(route, "path", None) in (app.openapi_url, app.docs_url, app.redoc_url, _redirect(app)):
            marked(ANY)(getattr(route, "endpoint"))  # noqa: B009 - BaseRoute has none

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            _describe(schema, app.routes)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way


class AccessGuard:
    """ASGI middleware inside of `RequestGuard`. Sets `caller()` and counts what is sent against its rates."""

    def __init__(
        self, app: ASGIApp, gate: Gate, posts: Places, reads: Places, cors_origins: Sequence[str] = ()
    ) -> None:
        self._app, self._gate, self._origins = app, gate, frozenset(cors_origins)
        self._posts, self._reads = posts, reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none; a new one must not slip by
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with ExitStack() as held:
            try:
                admitted = await self._admit(scope)
                if admitted is not None:
                    places = self._posts if scope["method"] == "POST" else self._reads
                    held.enter_context(places.held(admitted.identity.name, admitted.identity.weight))
            except IsthmusError as error:
                response = problem_response(exit_of(error), str(error), scope["state"]["request_id"])
                await response(scope, receive, send)
                return
            await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> Caller | None:
        """None where everybody may call.

        Raises UnauthorizedError, PermissionDeniedError, OverloadedError, or NotReadyError.
        """
        route = scope[REFUSED_ROUTE] = _route(scope)
        needed = ANY if route is None else access_of(route)
        if needed is not None and needed.is_public:
            return None
        headers = Headers(scope=scope)
        if not self._gate.locked:
            self._refuse_others(headers)
        admitted = await self._gate.admit(_credentials(scope, headers), needed or ANY)
        if needed is None:
            raise PermissionDeniedError("this call is closed: no scope opens it")
        for camera in headers.getlist("x-camera"):
            admitted.check_camera(camera)
        admitted.charge(requests=1)
        _meter(scope, admitted)
        set_caller(admitted)
        return admitted

    def _refuse_others(self, headers: Headers) -> None:
        """Keeps pages of other sites, and callers behind a proxy on this machine, from a server without tokens.

        Raises PermissionDeniedError.
        """
        if self._gate.local and (sent := [name for name in _OF_PROXIES if name in headers]):
            raise PermissionDeniedError(
                f"a proxy passed this request on ({sent[0]}), and a server on loopback without tokens answers this "
                "machine alone; make tokens first (isthmus cloud token add)"
            )
        if is_own(headers, self._gate.local, self._origins):
            return
        raise PermissionDeniedError(
            "a server without tokens answers no page of another site, and on 127.0.0.1 nothing that is sent to another "
            "name; make a token (isthmus cloud token add), or name the page's origin in cors_origins"
        )


def _meter(scope: Scope, admitted: Caller) -> None:
    """Lets the body count as it arrives. Beyond a rate it is owed, not refused: half a body would be of no use."""
    share = scope["state"].get("body")
    if share is not None:
        share.meter = admitted.count
        share.name, share.weight = admitted.identity.name, admitted.identity.weight


def _credentials(scope: Scope, headers: Headers) -> Credentials:
    """Raises UnauthorizedError for a header that holds no bearer token."""
    given = headers.getlist("authorization")
    token = None
    if given:
        kind, _, token = given[0].partition(" ")
        token = token.strip()
        if len(given) > 1 or kind.lower() != _BEARER or not token:
            raise UnauthorizedError("the header Authorization is written once, as: Bearer TOKEN")
    certificate = scope.get("extensions", {}).get("tls", {}).get(CERTIFICATE_NAMES)
    client = scope.get("client")
    return Credentials(token, certificate, client[0] if client else "")


def _route(scope: Scope) -> BaseRoute | None:
    """The route that answers; one that exists for another method alone counts too."""
    partial = None
    for route in scope["app"].routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route  # type: ignore[no-any-return]
        if match is Match.PARTIAL and partial is None:
            partial = route
    return partial


def _redirect(app: FastAPI) -> str | None:
    return app.swagger_ui_oauth2_redirect_url


def _describe(schema: dict[str, Any], routes: Iterable[BaseRoute]) -> None:
    schema.setdefault("components", {})["securitySchemes"] = {
        _BEARER: {"type": "http", "scheme": _BEARER, "description": "a token of `isthmus cloud token add`"}
    }
    for operation, needed in _operations(schema, routes):
        if needed.is_public:
            continue
        operation["security"] = [{_BEARER: []}]
        wanted = " or ".join(sorted(needed.scopes))
        operation["description"] = f"{operation.get('description', '')}\n\nScope: {wanted}.".strip()
        for status, error in ((401, UnauthorizedError), (403, PermissionDeniedError), (429, OverloadedError)):
            operation["responses"].setdefault(str(status), problem_doc(error))


def _operations(
    schema: dict[str, Any], routes: Iterable[BaseRoute]
) -> Iterator[tuple[dict[str, Any], Access]]:
    for route in routes:
        path = schema["paths"].get(getattr(route, "path_format", ""), {})
        for method in getattr(route, "methods", None) or ():
            if operation := path.get(method.lower()):
                yield operation, access_of(route) or ANY
