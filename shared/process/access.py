"""What opens a call: declared where the call is. Decides nothing; that is `shared.process.auth`.

    @app.post("/admin/reload")
    @needs("admin")
    async def reload() -> ...: ...

    @app.get("/")
    @public
    async def page() -> ...: ...

    app.mount("/web", public(StaticFiles(...)))

A route without either is closed to everybody. gRPC methods stand in the table of `cloud.faces.grpc_access`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.process.tokens import SCOPES, Scope

Endpoint = TypeVar("Endpoint")

_MARK = "isthmus_access"


@dataclass(frozen=True)
class Access:
    """What opens a call: any one of `scopes`. Without one it is open to everybody."""

    scopes: frozenset[Scope]

    @property
    def is_public(self) -> bool:
        return not self.scopes


PUBLIC = Access(frozenset())
ANY = Access(frozenset(SCOPES))  # whoever has a token at all


def access(*scopes: Scope) -> Access:
    """The access that any one of `scopes` gives."""
    assert scopes, "PUBLIC is written as such"
    return Access(frozenset(scopes))


def needs(*scopes: Scope) -> Callable[[Endpoint], Endpoint]:
    """Marks an endpoint, or an application to mount: a caller needs any one of `scopes`."""
    return marked(access(*scopes))


def public(endpoint: Endpoint) -> Endpoint:
    """Marks an endpoint, or an application to mount, as open to everybody."""
    return marked(PUBLIC)(endpoint)


def marked(needed: Access) -> Callable[[Endpoint], Endpoint]:
    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MARK, needed)
        return endpoint

    return mark


def access_of(route: Any) -> Access | None:
    """What a route of Starlette declares; None where it declares nothing."""
    for owner in (getattr(route, "endpoint", None), getattr(route, "app", None)):
        found = getattr(owner, _MARK, None)
        if isinstance(found, Access):
            return found
    return None
