"""Requests that a web page of another site sends through the browser of whoever runs a server: refused.

For servers that ask for no token. A browser says whence a page is (`Origin`) and whom it calls (`Host`); clients that
are no browsers send no Origin, and go on working.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import PermissionDeniedError, exit_of
from shared.process.auth import is_loopback
from shared.process.http import problem_response


def is_own(headers: Headers, local: bool, origins: Collection[str] = ()) -> bool:
    """Whether a request comes from no page, one of the server's own, or one of the origins.

    local: whether the server listens on this machine alone. It then has to be addressed as this machine: a name that a
    page's owner has pointed at it (DNS rebinding) would be the page's own origin.
    """
    origin, host = headers.get("origin"), headers.get("host", "")
    own = origin is None or origin in origins or origin.partition("://")[2].lower() == host.lower()
    return own and (not local or is_loopback(_name_of(host)))


def own_sites_only() -> list[Middleware]:
    """For `create_app` of a server that listens on this machine alone and asks for no token."""
    return [Middleware(_OwnSites)]


class _OwnSites:
    """ASGI middleware inside of `RequestGuard`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_own(Headers(scope=scope), local=True):
            await self._app(scope, receive, send)
            return
        error = PermissionDeniedError(
            "on loopback this server answers no page of another site, and nothing that is sent to another name than "
            "localhost, 127.0.0.1 or [::1]; a proxy in front of it has to send one of these as Host"
        )
        response = problem_response(exit_of(error), str(error), scope["state"]["request_id"])
        await response(scope, receive, send)


def _name_of(host: str) -> str:
    """The name in a header Host; empty where there is none to be found."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
