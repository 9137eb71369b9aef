"""The small packets that travel between steps, and the answer as JSON. Knows no transport."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import RequestError
from shared.times import Moment

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TASKS_MAX = 64  # of one request
_CAMERA = re.compile(r"[A-Za-z0-9_.-]{1,64}")

TaskKind = Literal["classification", "normals", "segmentation"]
Maps = Literal["none", "png", "arrays"]
Share = Annotated[float, Field(ge=0, le=1)]


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


class Frozen(BaseModel):
    """Immutable, and no field that we do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassScore(Frozen):
    label: str
    index: int = Field(ge=0, description="position in the task's label list")
    score: float = Field(ge=0, le=1, description="softmax probability")


class ClassificationResult(Frozen):
    kind: Literal["classification"] = "classification"
    top: tuple[ClassScore, ...] = Field(description="the best classes, best first")


class MapPng(Frozen):
    """A map as a PNG file: 8-bit RGB for normals, a palette whose pixel values are the classes for segmentation."""

    media_type: Literal["image/png"] = "image/png"
    base64: str = Field(description="the file's bytes")

    @classmethod
    def of(cls, data: bytes) -> MapPng:
        return cls(base64=base64.b64encode(data).decode())

    def file(self) -> bytes:
        return base64.b64decode(self.base64)


class MapArray(Frozen):
    """A map as its numbers, in C order; never over HTTP. `shared.maps.unpack` reads it.

    Normals: int8 (H, W, 3), 127 times the unit normal. Segmentation: uint8 (H, W), the class of each pixel.
    """

    dtype: Literal["int8", "uint8"]
    shape: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=2, max_length=3)
    compression: Literal["zlib"] = "zlib"
    data: bytes


class Facing(Frozen):
    """Shares of the picture that face each way, by the largest component of the normal.

    The camera's axes: +x right, +y up, +z towards the camera. The wall at the left of a room faces right.
    """

    left: Share
    right: Share
    up: Share
    down: Share
    towards: Share
    away: Share


Component = Annotated[float, Field(ge=-1, le=1)]


class NormalsResult(Frozen):
    kind: Literal["normals"] = "normals"
    mean: tuple[Component, Component, Component] = Field(
        description="mean of the pixels' unit normals: x right, y up, z towards the camera; shorter the less they agree"
    )
    facing: Facing
    map: MapPng | MapArray | None = Field(default=None, description="where it was asked for")


class ClassArea(Frozen):
    label: str
    index: int = Field(ge=0, description="position in the task's label list")
    share: Share = Field(description="of the picture's pixels")


class SegmentationResult(Frozen):
    kind: Literal["segmentation"] = "segmentation"
    areas: tuple[ClassArea, ...] = Field(description="the classes that are in the picture, largest first")
    map: MapPng | MapArray | None = Field(default=None, description="where it was asked for")


TaskResult = Annotated[ClassificationResult | NormalsResult | SegmentationResult, Field(discriminator="kind")]


class TaskQuery(Frozen):
    """One task that a client asks for. top_k: classes of a classification, best first. maps: of the other kinds."""

    name: str = Field(min_length=1, max_length=64)
    top_k: int = Field(default=5, ge=1, le=100)
    maps: Maps = "none"


class Wanted(Frozen):
    """What a client asks of one picture."""

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
    """True sizes of what was sent for one picture."""

    b_v: int = Field(ge=0, description="bytes of the coded hyperprior")
    b_z: int = Field(ge=0, description="bytes of the coded latent")
    total: int = Field(ge=0, description="bytes of the whole bitstream, container included")
    bits_per_pixel: float = Field(ge=0, description="8 * total / pixels of the coded picture")


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


class Analysis(Frozen):
    """The answer to one picture."""

    request_id: str
    bundle: str = Field(description="name of the bundle")
    fingerprint: str = Field(description="the bundle's fingerprint, 8 hex digits")
    quality: int = Field(ge=0, le=100)
    results: dict[str, TaskResult] = Field(description="one result a task, by the task's name")
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


class TaskInfo(Frozen):
    name: str
    kind: TaskKind
    labels: tuple[str, ...]


class BundleInfo(Frozen):
    """What a server says of a bundle that it serves."""

    name: str
    fingerprint: str = Field(description="8 hex digits")
    qualities: tuple[int, ...] = Field(
        description="of the levels, rising; with several, every whole number from the first to the last can be used"
    )
    default_quality: int
    tasks: tuple[TaskInfo, ...]
