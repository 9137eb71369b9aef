"""The packets of a session: what it opens with, and what its frames are answered with. Knows no transport.

    edge   SessionOpen, then SentFrame ...                       one a frame
    cloud  SessionReady, then FrameReply, or RefineAsked ...     in any order

The bytes of a frame are those of `shared.codec.frame`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator

from shared.codec.bitstream import FINGERPRINT_BYTES, check_grid
from shared.codec.frame import KEY_BYTES, SESSION_BYTES, session_key
from shared.types import ByteCount, Frozen, TaskInfo, TaskResult, Times, Wanted, check_camera

Replies = Literal["all", "changes", "none"]
Compression = Literal["none", "gzip", "deflate"]

Results = Mapping[str, TaskResult]

NUMBER_MAX = 2**32 - 1
_FRAME_ID = re.compile(r"s\.([0-9a-f]{32})\.([1-9][0-9]{0,9})")


def new_session() -> bytes:
    """The random bytes that name a session. A stream that broke off may be opened again under its session's name."""
    return secrets.token_bytes(SESSION_BYTES)


def frame_id(session: bytes, number: int) -> str:
    """The request id of a session's frame, for archives and logs."""
    return f"s.{session.hex()}.{number}"


def read_frame_id(request_id: str) -> tuple[bytes, int] | None:
    """Session and number; None for an id of something else."""
    found = _FRAME_ID.fullmatch(request_id)
    return None if found is None else (bytes.fromhex(found[1]), int(found[2]))


class SessionOpen(Frozen):
    """What holds for all frames of a session. Raises RequestError or StreamTooLargeError, also pydantic's error.

    fingerprint: the bundle's whole one. session: see `new_session`. grid: h, w of every latent. details: whether sizes
    and times come with each answer. answers_wait_ms: how long one that says little may wait, to be sent with others.
    """

    fingerprint: bytes = Field(min_length=KEY_BYTES, max_length=KEY_BYTES)
    session: bytes = Field(min_length=SESSION_BYTES, max_length=SESSION_BYTES)
    camera: str = ""
    grid: tuple[int, int]
    wanted: Wanted = Wanted()
    replies: Replies = "all"
    compression: Compression = "none"
    details: bool = False
    answers_wait_ms: int = Field(default=0, ge=0, le=10_000)

    @field_validator("camera")
    @classmethod
    def _is_a_name(cls, camera: str) -> str:
        return check_camera(camera)

    @field_validator("grid")
    @classmethod
    def _is_a_grid(cls, grid: tuple[int, int]) -> tuple[int, int]:
        check_grid(*grid)
        return grid

    @property
    def key(self) -> bytes:
        """What enters the check of each frame."""
        return session_key(self.fingerprint, self.session, self.grid)

    @property
    def short_fingerprint(self) -> bytes:
        """As a packet has it."""
        return self.fingerprint[:FINGERPRINT_BYTES]

    def request_id(self, number: int) -> str:
        """The id of one frame, for archives and logs."""
        return frame_id(self.session, number)


class SessionReady(Frozen):
    """What a session's answers leave out, and what its server allows.

    tasks: in the order of results. base_tasks: names of those that a base alone answers. references_max: latents that
    the server keeps. frames_max: worked on at once. idle_ms: a session in which nothing is sent ends after so long.
    """

    bundle: str
    tasks: tuple[TaskInfo, ...]
    base_tasks: tuple[str, ...] = ()
    references_max: int
    frames_max: int
    idle_ms: int


@dataclass(frozen=True)
class SentFrame:
    """One frame on its way. number: from 1. data: its bytes in a session. captured_at: None if unknown."""

    number: int
    data: bytes
    captured_at: datetime | None = None


@dataclass(frozen=True)
class Answered:
    """The results. missing: tasks without one, because only the frame's base was sent."""

    results: Results
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class SameAs:
    """As the frame of this number, whose results are those sent last."""

    number: int


@dataclass(frozen=True)
class NeedIntra:
    """The reference is not there, or the frame is damaged: a frame of type I is needed."""


@dataclass(frozen=True)
class Received:
    """Decoded, and answered with nothing."""


@dataclass(frozen=True, eq=False)
class Refused:
    """The frame cannot be answered. error: on the edge a RemoteRejectedError."""

    error: Exception


Outcome = Answered | SameAs | NeedIntra | Received | Refused


def confirms(outcome: Outcome) -> bool:
    """Whether later frames may refer to the one that is answered so."""
    return isinstance(outcome, Answered | SameAs | Received)


@dataclass(frozen=True)
class FrameReply:
    """The answer to one frame. bytes, times: only in a session with details."""

    number: int
    outcome: Outcome
    bytes: ByteCount | None = None
    times: Times | None = None


@dataclass(frozen=True)
class RefineAsked:
    """The cloud wants the refinement of the frame of this number, whose base was sent."""

    number: int
