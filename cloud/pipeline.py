"""From a packet to its answers: the cloud's whole way, top to bottom. Knows neither gRPC nor HTTP.

    bytes -> Bitstream.unpack -> is it of this bundle? -> which tasks?           (at once, in the event loop)
          -> queue -> a batch of one latent grid                                 (cloud.engine.batcher)
          -> LatentCodec.decode -> z -> CloudModel.answer -> results             (in the batch thread)
          -> Analysis, cached by its request id; the bytes go to the archive, where there is one

An image that is sent to the cloud itself goes through the same `Encoder` as on an edge, and then the same way.

Legend: B images of a batch, N channels of z, h x w latent grid.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.answer_cache import AnswerCache
from cloud.engine.batcher import Batcher
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.latent_codec import LatentCodec
from shared.encoder import Encoder, count_bytes
from shared.errors import (
    BundleMismatchError,
    CorruptPayloadError,
    DeadlineError,
    RequestError,
    StreamTooLargeError,
)
from shared.kinds import KINDS
from shared.times import captured_at_number
from shared.types import (
    Analysis,
    BundleInfo,
    TaskQuery,
    TaskResult,
    Times,
    Wanted,
    check_camera,
    check_request_id,
)

Results = dict[str, TaskResult]


class Model(Protocol):
    """What the pipeline needs of `cloud.engine.bundle_model.CloudModel`."""

    codec: LatentCodec

    def answer(
        self, z: NDArray[np.int32], queries: Sequence[Sequence[TaskQuery]], qualities: Sequence[int]
    ) -> list[Results]:
        """z (B, N, h, w) int32, queries and a quality per image -> one dict of results per image."""

    def warm_up(self) -> None: ...


class RecordSink(Protocol):
    """What the pipeline needs of `cloud.archive.archive.Archive`."""

    def append(
        self,
        camera: str,
        received_at: datetime,
        request_id: str,
        data: bytes,
        captured_at: datetime | None = None,
    ) -> bool:
        """Never waits and never raises."""


@dataclass(frozen=True, eq=False)
class _Served:
    """A bundle with the tasks that it has at one time, and the model that answers them.

    A request takes it once, when it comes, and ends with it, whatever is swapped meanwhile.
    """

    bundle: Bundle
    model: Model


@dataclass(frozen=True)
class _Request:
    """One bitstream to answer; the fields are those of `Pipeline.analyze`."""

    data: bytes
    wanted: Wanted
    request_id: str
    camera: str
    captured_at: datetime | None
    received_at: datetime


@dataclass(frozen=True)
class _Job:
    stream: Bitstream
    queries: tuple[TaskQuery, ...]
    served: _Served


@dataclass(frozen=True)
class _Done:
    results: Results
    decode_ms: float
    tails_ms: float


class Pipeline:
    """One loaded bundle, ready to answer. Must be made and used in one event loop.

    archive: gets each bitstream that was answered, once for all repeats of a request; None keeps nothing.
    """

    def __init__(
        self,
        bundle: Bundle,
        model: Model,
        encoder: Encoder,
        settings: PipelineSettings,
        archive: RecordSink | None = None,
    ) -> None:
        self._served = _Served(bundle, model)
        self.encoder, self.settings = encoder, settings
        self._archive = archive
        self._batcher: Batcher[_Job, _Done] = Batcher(
            self._work,
            key=lambda job: (job.stream.h, job.stream.w, job.served),
            batch_max=settings.batch_max,
            wait_ms=settings.batch_wait_ms,
            queue_max=settings.queue_max,
        )
        self._answers = AnswerCache(settings.answers_kept, settings.answers_bytes_max)
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")

    @property
    def bundle(self) -> Bundle:
        """The bundle that the next request is answered with."""
        return self._served.bundle

    def swap(self, bundle: Bundle, model: Model) -> None:
        """Serves the same bundle with other added tasks from the next request on; those that run end as they began."""
        self._served = _Served(bundle, model)

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._batcher.waiting

    def info(self) -> BundleInfo:
        return self.bundle.info()

    async def analyze(
        self,
        data: bytes,
        wanted: Wanted,
        request_id: str,
        deadline_s: float | None = None,
        camera: str = "",
        captured_at: datetime | None = None,
    ) -> Analysis:
        """Answers a packed bitstream.

        deadline_s: from now; None, or more than the settings allow, means the settings' deadline.
        camera: its name, for the archive; empty if it has none. captured_at: with its zone; None if unknown.

        Raises BitstreamError or a subclass, BundleMismatchError, UnknownTaskError, RequestError, OverloadedError,
        NotReadyError or DeadlineError.
        """
        check_request_id(request_id)
        check_camera(camera)
        request = _Request(data, wanted, request_id, camera, captured_at, datetime.now(UTC))
        async with self._deadline(deadline_s):
            return await self._answer(request, self._served)

    async def analyze_image(
        self,
        image: bytes,
        wanted: Wanted,
        request_id: str,
        quality: int | None = None,
        bytes_max: int | None = None,
        camera: str = "",
        captured_at: datetime | None = None,
    ) -> Analysis:
        """Answers an image file's bytes by way of the same bitstream that an edge would send.

        quality, bytes_max: see `Encoder.encode`. camera, captured_at: see `analyze`.

        Raises what `analyze` raises, and ImageError or a subclass.
        """
        check_request_id(request_id)
        check_camera(camera)
        served = self._served
        _queries(served.bundle, wanted)  # an unknown task is refused before the work of encoding
        received_at = datetime.now(UTC)
        loop = asyncio.get_running_loop()
        async with self._deadline(None):
            encode = self.encoder.encode
            encoded = await loop.run_in_executor(self._encoding, encode, image, quality, bytes_max)
            request = _Request(encoded.data, wanted, request_id, camera, captured_at, received_at)
            analysis = await self._answer(request, served)
        edge = encoded.times
        times = analysis.times.model_copy(
            update={"read_ms": edge.read_ms, "front_ms": edge.front_ms, "code_ms": edge.code_ms}
        )
        return analysis.model_copy(
            update={"times": times, "warnings": (*encoded.warnings, *analysis.warnings)}
        )

    async def close(self) -> None:
        """Finishes what waits; new requests get NotReadyError."""
        await self._batcher.close()
        self._encoding.shutdown()

    async def _answer(self, request: _Request, served: _Served) -> Analysis:
        """The answer to a request, computed once for all its repeats."""
        stream = Bitstream.unpack(request.data)
        self._check(stream, served.bundle)
        queries = _queries(served.bundle, request.wanted)

        async def compute() -> Analysis:
            done, queue_ms = await self._batcher.submit(_Job(stream, queries, served))
            if self._archive is not None:
                self._archive.append(
                    request.camera, request.received_at, request.request_id, request.data, request.captured_at
                )
            return Analysis(
                request_id=request.request_id,
                bundle=served.bundle.manifest.name,
                fingerprint=served.bundle.fingerprint.hex(),
                quality=stream.quality,
                results={query.name: done.results[query.name] for query in queries},
                bytes=count_bytes(stream, len(request.data), served.bundle),
                times=Times(queue_ms=queue_ms, decode_ms=done.decode_ms, tails_ms=done.tails_ms),
                captured_at=request.captured_at,
            )

        return await self._answers.get(request.request_id, _digest(request), compute)

    @asynccontextmanager
    async def _deadline(self, deadline_s: float | None) -> AsyncIterator[None]:
        """Cancels what runs inside when the time is over, which takes it out of every queue. Raises DeadlineError."""
        most_s = self.settings.deadline_ms / 1e3
        deadline_s = most_s if deadline_s is None else min(deadline_s, most_s)
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError:
            raise DeadlineError(f"no answer within {deadline_s * 1e3:.0f} ms") from None

    def _check(self, stream: Bitstream, bundle: Bundle) -> None:
        if stream.fingerprint != bundle.fingerprint:
            raise BundleMismatchError(stream.fingerprint.hex(), bundle.fingerprint.hex())
        bundle.quality(stream.quality)
        # A small stream may claim a large grid; the bundle's own is always allowed.
        cells_max = max(self.settings.grid_cells_max, math.prod(bundle.manifest.codec.get("grid", (1, 1))))
        if stream.h * stream.w > cells_max:
            raise StreamTooLargeError(
                f"a latent grid of {stream.h} x {stream.w}; this server answers {cells_max} cells at most"
            )

    def _work(self, jobs: Sequence[_Job]) -> list[_Done | Exception]:
        """A batch of one grid, in the batch thread: b_v, b_z -> z (B, N, h, w) -> results."""
        started = time.perf_counter()
        model = jobs[0].served.model  # a batch has one key, and this is a part of it
        latents = _decode(model.codec, [job.stream for job in jobs])
        decoded = time.perf_counter()
        sound = [(z, job) for z, job in zip(latents, jobs, strict=True) if isinstance(z, np.ndarray)]
        answers: list[Results] = []
        if sound:
            queries, qualities = [job.queries for _, job in sound], [job.stream.quality for _, job in sound]
            answers = model.answer(np.stack([z for z, _ in sound]), queries, qualities)
        answered = time.perf_counter()
        rest = iter(answers)
        return [
            _Done(next(rest), (decoded - started) * 1e3, (answered - decoded) * 1e3)
            if isinstance(z, np.ndarray)
            else z
            for z in latents
        ]


def _digest(request: _Request) -> bytes:
    """Digest of what makes two requests the same. "Every task" stays the same request when a task is added."""
    head = f"{request.wanted.model_dump_json()}\0{captured_at_number(request.captured_at)}\0"
    return hashlib.sha256(head.encode() + request.data).digest()


def _queries(bundle: Bundle, wanted: Wanted) -> tuple[TaskQuery, ...]:
    """The tasks to run. Raises UnknownTaskError, or RequestError for a task named twice or an impossible map."""
    queries = wanted.tasks or tuple(
        TaskQuery(name=task.name, top_k=wanted.top_k, maps=wanted.maps) for task in bundle.tasks
    )
    for query in queries:
        task = bundle.task(query.name)
        if query.maps != "none":
            KINDS[task.kind].check_maps(task.name, task.labels)
    if len({query.name for query in queries}) < len(queries):
        raise RequestError("a task is named twice")
    return queries


def _decode(
    codec: LatentCodec, streams: Sequence[Bitstream]
) -> list[NDArray[np.int32] | CorruptPayloadError]:
    """z (N, h, w) of each stream, or why it has none."""
    h, w = streams[0].h, streams[0].w
    payloads, qualities = [(s.b_v, s.b_z) for s in streams], [s.quality for s in streams]
    try:
        return list(codec.decode_batch(payloads, h, w, qualities))
    except CorruptPayloadError as error:
        if len(streams) == 1:
            return [error]
    # One of them is damaged: each alone, so that the others keep their answer.
    return [outcome for stream in streams for outcome in _decode(codec, [stream])]
