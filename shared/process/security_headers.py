"""Headers that bound what a browser may do with an answer. A route that sets one of them itself keeps its own."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Scope

# What a browser may do with an answer, unless the route says otherwise: show it as what it is, in no frame of a page.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_DOCS_POLICY = (  # FastAPI's page of documentation loads its script from there
    "default-src 'self' https://cdn.jsdelivr.net; script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com; "
    "frame-ancestors 'none'"
)
_HSTS = "max-age=31536000"


def add_security_headers(headers: MutableHeaders, scope: Scope) -> None:
    """Adds what the route has not set itself."""
    if scope["path"] in ("/docs", "/redoc"):
        headers.setdefault("Content-Security-Policy", _DOCS_POLICY)
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if scope.get("scheme") == "https":
        headers.setdefault("Strict-Transport-Security", _HSTS)
