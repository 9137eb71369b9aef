"""What the pipeline says of its work to whoever counts it. Knows no metric.

batch of jobs -> `batch`;  each of its jobs -> `queued`;  each image that came, answered or not -> `image`
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from cloud.engine.batch_work import Done, Job, Results
from shared.bundle import Bundle
from shared.errors import exit_of
from shared.types import ByteCount, Times

# How an image came: as a bitstream, as an image file, or as a frame of a session.
Source = Literal["bitstream", "image", "frame"]

ANSWERED = "answered"
NEED_INTRA = "need_intra"  # a frame of a session that could not be decoded; it is sent again as a frame I
GONE = "gone"  # its client left before the answer


class Observer(Protocol):
    """Its methods never wait and never raise."""

    def batch(self, jobs: Sequence[Job], outcomes: Sequence[Done | Exception]) -> None:
        """A batch has been worked on. Called in the batch thread."""

    def queued(self, job: Job, queue_ms: float, done: Done) -> None:
        """A job has its result. queue_ms: how long it waited for its batch."""

    def image(self, seen: Seen) -> None:
        """An image has its answer or its error."""


@dataclass(eq=False)
class Seen:
    """One image and what became of it. outcome: ANSWERED, NEED_INTRA, GONE, or the gRPC code of its error.

    bundle: None where the image was refused before one was found. bytes, encoding: None if unknown; encoding: the
    stages of an image that was encoded here. results: of an answer that is not "as before". error: why it was refused,
    if it was. ms: until its end.
    """

    source: Source
    camera: str = ""
    bundle: Bundle | None = None
    outcome: str = GONE
    bytes: ByteCount | None = None
    encoding: Times | None = None
    results: Results | None = None
    error: BaseException | None = None
    ms: float = 0.0

    def answered(
        self, sizes: ByteCount, encoding: Times | None = None, results: Results | None = None
    ) -> None:
        self.outcome, self.bytes, self.encoding, self.results = ANSWERED, sizes, encoding, results

    def failed(self, error: BaseException) -> None:
        if not isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.outcome, self.error = exit_of(error).grpc, error


class Unobserved:
    """Counts nothing."""

    def batch(self, jobs: Sequence[Job], outcomes: Sequence[Done | Exception]) -> None: ...

    def queued(self, job: Job, queue_ms: float, done: Done) -> None: ...

    def image(self, seen: Seen) -> None: ...


class Observers:
    """Several observers as one, asked in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def batch(self, jobs: Sequence[Job], outcomes: Sequence[Done | Exception]) -> None:
        for one in self._observers:
            one.batch(jobs, outcomes)

    def queued(self, job: Job, queue_ms: float, done: Done) -> None:
        for one in self._observers:
            one.queued(job, queue_ms, done)

    def image(self, seen: Seen) -> None:
        for one in self._observers:
            one.image(seen)


@contextmanager
def seeing(observer: Observer, source: Source, camera: str) -> Iterator[Seen]:
    """Reports an image at the end of the block, which says that it was answered, or raises why it was not."""
    seen, started = Seen(source, camera), time.perf_counter()
    try:
        yield seen
    except BaseException as error:
        seen.failed(error)
        raise
    finally:
        seen.ms = (time.perf_counter() - started) * 1e3
        observer.image(seen)
