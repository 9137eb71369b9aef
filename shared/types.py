"""The small packets that travel between steps, and the answer as JSON. Knows no transport."""

from __future__ import annotations

import re
import uuid
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import RequestError

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CAMERA = re.compile(r"[A-Za-z0-9_.-]{1,64}")


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


class TaskQuery(Frozen):
    """One task that a client asks for. top_k: how many classes, best first."""

    name: str = Field(min_length=1, max_length=64)
    top_k: int = Field(default=5, ge=1, le=100)


class Wanted(Frozen):
    """What a client asks of one picture."""

    tasks: tuple[TaskQuery, ...] = Field(
        default=(), max_length=64, description="empty: every task of the bundle"
    )
    top_k: int = Field(default=5, ge=1, le=100, description="for every task, where `tasks` is empty")


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
    results: dict[str, ClassificationResult] = Field(description="one result a task, by the task's name")
    bytes: ByteCount
    times: Times


class TaskInfo(Frozen):
    name: str
    kind: Literal["classification"]
    labels: tuple[str, ...]


class BundleInfo(Frozen):
    """What a server says of a bundle that it serves."""

    name: str
    fingerprint: str = Field(description="8 hex digits")
    qualities: tuple[int, ...]
    tasks: tuple[TaskInfo, ...]
