"""What the edge's pipeline says of its work to whoever counts it. Knows no metric."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from shared.errors import RemoteRejectedError, exit_of
from shared.types import Analysis

ANSWERED = "answered"
GONE = "gone"  # its client left before the answer
SINGLE = "single"  # an image by itself, which is no frame of a session


@dataclass(eq=False)
class Seen:
    """One image and what became of it. frame: how it was sent: SINGLE, or the frame's type, such as "P".

    outcome: ANSWERED, GONE, or the gRPC code of its error.
    """

    camera: str
    frame: str = SINGLE
    outcome: str = GONE
    answer: Analysis | None = None

    def answered(self, answer: Analysis, frame: str = SINGLE) -> None:
        self.outcome, self.answer, self.frame = ANSWERED, answer, frame


class Observer(Protocol):
    """Its method never waits and never raises."""

    def image(self, seen: Seen) -> None:
        """An image has its answer or its error."""


@contextmanager
def seeing(observer: Observer | None, camera: str) -> Iterator[Seen]:
    """Reports an image at the end of the block, which says that it was answered, or raises why it was not."""
    seen = Seen(camera)
    try:
        yield seen
    except BaseException as error:
        if not isinstance(error, asyncio.CancelledError):
            seen.outcome = code_of(error)
        raise
    finally:
        if observer is not None:
            observer.image(seen)


def code_of(error: BaseException) -> str:
    """The gRPC code of an error; of one that the cloud raised, the cloud's."""
    return error.code if isinstance(error, RemoteRejectedError) else exit_of(error).grpc
