"""The small packets that travel between steps, and the answer as JSON. Knows no transport."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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




class ByteCount(Frozen):
    """True sizes of what was sent for one picture."""

    b_v: int = Field(ge=0, description="bytes of the coded hyperprior")
    b_z: int = Field(ge=0, description="bytes of the coded latent")
    total: int = Field(ge=0, description="bytes of the whole bitstream, container included")
    bits_per_pixel: float = Field(ge=0, description="8 * total / pixels of the coded picture")


class Times(Frozen):
    """Where the time went, in milliseconds. None: that stage did not run here."""

    read_ms: float | None = Field(None, description="reading and preprocessing the image")
    front_ms: float | None = Field(None, description="front of the networks, fusion, transform and extractor")
    code_ms: float | None = Field(None, description="exact path and range coder, encoding")
    send_ms: float | None = Field(None, description="waiting for the cloud's answer, its own times included")
    queue_ms: float | None = Field(None, description="waiting in the cloud for a batch")
    decode_ms: float | None = Field(None, description="exact path and range coder, decoding")
    tails_ms: float | None = Field(None, description="reconstruction and tails, for the whole batch")


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
