"""The small packets that travel between steps, and the answer as JSON. Knows no transport."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, SerializeAsAny
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import tagged_union_schema

from shared.errors import RequestError
from shared.frozen import Frozen as Frozen
from shared.frozen import Moment
from shared.frozen import Share as Share
from shared.kinds import KINDS
from shared.kinds.kind import Result
from shared.placement import View

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TASKS_MAX = 64  # per request
_CAMERA = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Maps = Literal["none", "png", "arrays"]
Vectors = Literal["list", "base64"]


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of task known here; there are {', '.join(KINDS)}")
    return kind


def _result(value: Any) -> Any:
    """A result's fields as its kind's result. Raises ValueError."""
    if isinstance(value, dict):
        kind = value.get("kind")
        return KINDS[_known(kind if isinstance(kind, str) else "")].result.model_validate(value)
    return value


class _KindNames:
    """In JSON schemas: the names in the table."""

    @staticmethod
    def __get_pydantic_json_schema__(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "enum": list(KINDS)}


class _AnyResult:
    """In JSON schemas: one of the results in the table."""

    @staticmethod
    def __get_pydantic_json_schema__(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        results = {name: _referred(kind.result) for name, kind in KINDS.items()}
        return handler(tagged_union_schema(results, "kind"))


def _referred(result: type[Result]) -> CoreSchema:
    """A result's schema under its name, so that a document defines it once and refers to it."""
    schema: Any = {**result.__pydantic_core_schema__, "ref": f"{result.__module__}.{result.__name__}:0"}
    found: CoreSchema = schema
    return found


# By the table as it is when a value is read, so that a kind that is added to it is known here.
TaskKind = Annotated[str, AfterValidator(_known), _KindNames]
TaskResult = Annotated[Result, BeforeValidator(_result), SerializeAsAny(), _AnyResult]


def new_request_id() -> str:
    return uuid.uuid4().hex


def check_request_id(request_id: str) -> str:
    """The id itself. Raises RequestError where it is not 1..128 characters of A-Z a-z 0-9 . _ : -"""
    if not _REQUEST_ID.fullmatch(request_id):
        raise RequestError("a request id has 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    return request_id


def check_camera(camera: str) -> str:
    """The name itself, empty where there is none. Raises RequestError where it is not 1..64 of A-Z a-z 0-9 _ . -"""
    if camera and not _CAMERA.fullmatch(camera):
        raise RequestError("a camera's name has 1 to 64 characters of A-Z a-z 0-9 _ . -")
    return camera


class TaskQuery(Frozen):
    """One task that a client asks for. top_k: classes or labels, best first. maps: of the kinds that have some."""

    name: str = Field(min_length=1, max_length=64)
    top_k: int = Field(default=5, ge=1, le=100)
    maps: Maps = "none"


class Wanted(Frozen):
    """What a client asks about one image."""

    tasks: tuple[TaskQuery, ...] = Field(
        default=(), max_length=TASKS_MAX, description="empty: every task of the bundle"
    )
    top_k: int = Field(default=5, ge=1, le=100, description="for every task, where `tasks` is empty")
    maps: Maps = Field(default="none", description="for every task, where `tasks` is empty")

    @classmethod
    def same(cls, names: Iterable[str], top_k: int, maps: Maps = "none") -> Self:
        """The same of each of these tasks; no names: of every task."""
        queries = tuple(TaskQuery(name=name, top_k=top_k, maps=maps) for name in names)
        return cls(tasks=queries, top_k=top_k, maps=maps)


class ByteCount(Frozen):
    """True sizes of what was sent for one image."""

    b_v: int = Field(ge=0, description="bytes of the coded hyperprior")
    b_z: int = Field(ge=0, description="bytes of the coded latent")
    total: int = Field(ge=0, description="bytes of the whole bitstream, container included")
    bits_per_pixel: float = Field(ge=0, description="8 * total / pixels of the coded image")


class Times(Frozen):
    """Where the time went, in milliseconds. None: that stage did not run here."""

    read_ms: float | None = Field(default=None, description="reading and preprocessing the image")
    front_ms: float | None = Field(
        default=None, description="front of the networks, fusion, transform and extractor"
    )
    code_ms: float | None = Field(default=None, description="exact path and range coder, encoding")
    send_ms: float | None = Field(
        default=None, description="waiting for the cloud's answer, its own times included"
    )
    queue_ms: float | None = Field(default=None, description="waiting in the cloud for a batch")
    decode_ms: float | None = Field(default=None, description="exact path and range coder, decoding")
    tails_ms: float | None = Field(default=None, description="reconstruction and tails, for the whole batch")

    @property
    def encoding(self) -> dict[str, float | None]:
        """The stages of an encoder, in their order."""
        return {"read": self.read_ms, "front": self.front_ms, "code": self.code_ms}


class Analysis(Frozen):
    """The answer to one image."""

    request_id: str
    bundle: str = Field(description="name of the bundle")
    fingerprint: str = Field(description="the bundle's fingerprint, 8 hex digits")
    quality: int = Field(ge=0, le=100)
    results: dict[str, TaskResult] = Field(description="one result per task, by the task's name")
    bytes: ByteCount
    times: Times
    captured_at: Moment | None = Field(
        default=None,
        description="when the image was captured, as the client said; RFC 3339 in UTC; absent or null if unknown",
    )
    warnings: tuple[str, ...] = Field(
        default=(),
        description="for people: what may be wrong with this answer although it was given; their wording may change",
    )
    view: View | None = Field(
        default=None,
        description="where the image was read: which part of it the networks saw, and where maps show that; absent or "
        "null where all of it fills the maps, or where a bitstream came without its image",
    )


class TaskInfo(Frozen):
    name: str
    kind: TaskKind
    labels: tuple[str, ...]
    ids: tuple[str, ...] = Field(
        default=(),
        description="an id of each class, in the labels' order, such as WordNet's; empty: there are none",
    )


class BundleInfo(Frozen):
    """A bundle as the server that serves it describes it."""

    name: str
    fingerprint: str = Field(description="8 hex digits")
    qualities: tuple[int, ...] = Field(
        description="of the levels, rising; with several, every whole number from the first to the last can be used"
    )
    default_quality: int
    tasks: tuple[TaskInfo, ...]
