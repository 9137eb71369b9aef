"""What a client may set of an analysis over HTTP: query parameters and headers, the same on the edge and in the cloud.

Nothing is ignored in silence: an unknown parameter, and a repeated one that is not a list, are refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from shared.errors import RequestError
from shared.kinds import KINDS
from shared.times import parse_captured_at
from shared.types import TASKS_MAX, Maps, Vectors, Wanted, check_camera

_MAPPED = ", ".join(kind.name for kind in KINDS.values() if kind.mapped)
_NAME_MAX = 64
_LISTS = ("tasks",)
_HEADERS = ("X-Camera", "X-Captured-At", "X-Request-Id")


class AnalyzeQuery(BaseModel):
    """The query parameters of POST /analyze, as they are sent."""

    model_config = ConfigDict(frozen=True)

    tasks: list[str] = Field(
        default=[],
        description="tasks wanted, repeated or separated by commas; none: every task",
        examples=[["classification"]],
    )
    top_k: int = Field(default=5, ge=1, le=100, description="classes or labels that come back, best first")
    maps: Maps = Field(
        default="none",
        description=f"whether {_MAPPED} come with their map",
        json_schema_extra={"enum": ["none", "png"]},
    )
    vectors: Vectors = Field(
        default="list",
        description="an embedding's vector: a list of numbers, or its float32 bytes in base64",
    )
    quality: int | None = Field(
        default=None, ge=0, le=100, description="quality to encode with; none: the bundle's default"
    )
    bytes_max: int | None = Field(
        default=None,
        ge=1,
        description="bytes of the bitstream: encodes with the best quality that fits, up to `quality`",
    )


@dataclass(frozen=True)
class AnalyzeParameters:
    """Everything that a client set of one analysis. camera: empty if unnamed. captured_at: None if unknown."""

    wanted: Wanted
    vectors: Vectors
    quality: int | None
    bytes_max: int | None
    camera: str
    captured_at: datetime | None


def only(*names: str) -> Callable[[Request], None]:
    """For `Depends`: refuses query parameters of other names, and repeated ones. They raise RequestError."""

    def check(request: Request) -> None:
        _check_names(request, names)

    return check


def no_query(request: Request) -> None:
    """Refuses any query parameter, for `Depends`. Raises RequestError."""
    _check_names(request, ())


def _analyze_names(request: Request) -> None:
    _check_names(request, tuple(AnalyzeQuery.model_fields))
    for header in _HEADERS:
        if len(request.headers.getlist(header)) > 1:
            raise RequestError(f"the header {header} is sent more than once; send it once")


def _check_names(request: Request, known: tuple[str, ...]) -> None:
    """Raises RequestError for an unknown query parameter, or a repeated one that takes one value."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if name not in known:
            names = f"known are {', '.join(known)}" if known else "this call takes none"
            raise RequestError(f"unknown parameter {name[:_NAME_MAX]!r}; {names}")
        if count > 1 and name not in _LISTS:
            raise RequestError(f"{name} is given {count} times; give it once")


def analyze_parameters(
    names: Annotated[
        None, Depends(_analyze_names)
    ],  # first, so that a wrong name is reported before wrong values
    query: Annotated[AnalyzeQuery, Query()],
    x_camera: Annotated[
        str, Header(description="the camera's name: 1 to 64 characters of A-Z a-z 0-9 _ . -")
    ] = "",
    x_captured_at: Annotated[
        str,
        Header(description="when the image was captured: RFC 3339 with a zone, as 2026-11-22T13:00:00.250Z"),
    ] = "",
) -> AnalyzeParameters:
    """The parameters of an analysis, checked, for `Depends`. Raises RequestError."""
    if query.maps == "arrays":
        raise RequestError("maps: arrays are answered over gRPC alone; over HTTP ask for none or png")
    names_given = [name.strip() for given in query.tasks for name in given.split(",") if name.strip()]
    if len(names_given) > TASKS_MAX or any(len(name) > _NAME_MAX for name in names_given):
        raise RequestError(f"tasks: at most {TASKS_MAX}, each of at most {_NAME_MAX} characters")
    try:
        captured_at = parse_captured_at(x_captured_at)
    except RequestError as error:
        raise RequestError(f"X-Captured-At: {error}") from None
    return AnalyzeParameters(
        Wanted.same(names_given, query.top_k, query.maps),
        query.vectors,
        query.quality,
        query.bytes_max,
        check_camera(x_camera),
        captured_at,
    )
