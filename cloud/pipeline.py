"""From a packet to its answers: the cloud's whole way, top to bottom. Knows neither gRPC nor HTTP.

    bytes -> of which version? -> of which bundle? -> which tasks?               (cloud.requests, cloud.shelf)
          -> queue -> a batch of one latent grid                                 (cloud.engine.engine)
          -> decode -> z -> CloudModel.answer -> results                         (cloud.engine.batch_work)
          -> Analysis, cached by its request id; the bytes go to the archive, where there is one

A request takes its bundle once, by the fingerprint in its bytes, and ends with it. An image that is sent to the cloud
itself goes through the default bundle's `Encoder`, as on an edge, and then the same way. Frames of sessions
(cloud.sessions) join at the queue.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from cloud.answer_cache import AnswerCache
from cloud.archive.late_archive import archived
from cloud.engine.batch_work import Done, Job, Results, Served, base_tasks_of
from cloud.engine.batcher import Batcher, within
from cloud.engine.engine import MakeEngine, local_engine
from cloud.engine.fair_queue import NOBODYS, Share
from cloud.observer import Observer, Unobserved, seeing
from cloud.requests import Assigner, Bundles, RecordSink, queries_of, read_request
from cloud.sessions.live import Desk, Services
from cloud.sessions.session import SessionLimits
from cloud.settings import PipelineSettings, SessionSettings
from shared.codec.bitstream import Bitstream
from shared.codec.frame import Packet, unpack_stream
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.encoder import Encoded, count_bytes, count_frame
from shared.process import tracing
from shared.process.auth import caller
from shared.times import captured_at_number
from shared.types import (
    Analysis,
    BundleInfo,
    ByteCount,
    TaskQuery,
    Times,
    Wanted,
    check_camera,
    check_request_id,
)


@dataclass(frozen=True)
class _Request:
    """One bitstream to answer; the fields are those of `Pipeline.analyze`. stream: what its bytes say."""

    data: bytes
    stream: Bitstream | Packet
    wanted: Wanted
    request_id: str
    camera: str
    captured_at: datetime | None
    received_at: datetime
    keep: bool = True


@dataclass(frozen=True)
class _ToEncode:
    """An image that waits for the encoder."""

    encode: Callable[[], Encoded]
    share: Share


class Pipeline:
    """Bundles, ready to answer. Must be made and used in one event loop.

    archive: gets each bitstream that was answered, once for all repeats of a request; None keeps nothing. With
    `archived_first` an answer waits until it is kept.
    sessions: the desk at which sessions are opened; their frames share batches with everything else.
    observer: gets a report of each batch and each image. assigner: says which bundle a camera should run.
    engine: makes what answers the jobs.
    """

    def __init__(
        self,
        bundles: Bundles,
        settings: PipelineSettings,
        archive: RecordSink | None = None,
        sessions: SessionSettings | None = None,
        observer: Observer | None = None,
        assigner: Assigner | None = None,
        engine: MakeEngine = local_engine,
    ) -> None:
        self.bundles, self.settings = bundles, settings
        self._observer = observer or Unobserved()
        self._assigner = assigner
        self._archive = archive
        self._deadline_s = settings.deadline_ms / 1e3
        self._jobs = engine(settings, self._observer.batch)
        self._answers = AnswerCache(settings.answers_kept, settings.answers_bytes_max)
        self._encoding: Batcher[_ToEncode, Encoded] = Batcher(
            lambda images: [image.encode() for image in images],
            key=lambda _: None,
            batch_max=1,
            wait_ms=0,
            queue_max=settings.queue_max,
            share=lambda image: image.share,
        )
        self.sessions = self._desk(sessions or SessionSettings())

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._jobs.waiting

    def infos(self) -> list[BundleInfo]:
        """What can be asked for; first the bundle that answers images."""
        return self.bundles.infos()

    def check_room(self, request_id: str = "") -> None:
        """Raises OverloadedError or NotReadyError where the caller's next image would be refused whatever it is, so
        that it need not be read for that.

        request_id: of an image that may have been sent before: a repeat takes no place in a queue.
        """
        if self._answers.knows(request_id):
            return
        share, refusal = _share(), None
        for mark in self.bundles.marks():
            refusal = self._jobs.refusal(mark, share)
            if refusal is None:
                return
        if refusal is not None:
            with seeing(self._observer, "bitstream", ""):
                raise refusal

    def wanted(self, camera: str, running: str, trouble: str) -> str:
        """The fingerprint of the bundle that a camera should run, hex; empty: the one that it runs."""
        return "" if self._assigner is None else self._assigner.wanted(camera, running, trouble)

    async def analyze(
        self,
        data: bytes,
        wanted: Wanted,
        request_id: str,
        deadline_s: float | None = None,
        camera: str = "",
        captured_at: datetime | None = None,
        keep: bool = True,
    ) -> Analysis:
        """Answers a packed bitstream.

        deadline_s: from now; None, or more than the settings allow, means the settings' deadline.
        camera: its name, for the archive; empty if it has none. captured_at: with its zone; None if unknown.
        keep: whether the archive gets it.

        Raises BitstreamError or a subclass, BundleMismatchError, UnknownTaskError, RequestError, OverloadedError,
        NotReadyError or DeadlineError.
        """
        with seeing(self._observer, "bitstream", camera) as seen:
            check_request_id(request_id)
            check_camera(camera)
            stream = unpack_stream(data)
            now = datetime.now(UTC)
            request = _Request(data, stream, wanted, request_id, camera, captured_at, now, keep)
            async with within(deadline_s, self._deadline_s), self.bundles.use(stream.fingerprint) as served:
                seen.bundle = served.bundle
                analysis = await self._answer(request, served)
            seen.answered(analysis.bytes, results=analysis.results)
            return analysis

    async def ask(
        self, source: Bitstream | Coded | Latent, queries: tuple[TaskQuery, ...], served: Served
    ) -> Results:
        """Answers what was decoded or at least read before, such as a record of the archive; nothing is archived.

        queries: those that the source can be asked. served: what it was read with.

        Raises CorruptPayloadError, OverloadedError, NotReadyError or DeadlineError.
        """
        async with within(None, self._deadline_s):
            done, _ = await self._submit(Job(source, queries, served))
        return done.results

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
        with seeing(self._observer, "image", camera) as seen:
            check_request_id(request_id)
            check_camera(camera)
            received_at = datetime.now(UTC)
            async with within(None, self._deadline_s), self.bundles.use_default() as served:
                seen.bundle = served.bundle
                queries_of(served.bundle, wanted)  # an unknown task is refused before the work of encoding
                assert served.encoder is not None  # as for every bundle of a server
                encode = partial(served.encoder.encode, image, quality, bytes_max)
                encoded, _ = await self._encoding.submit(_ToEncode(encode, _share()))
                tracing.stages(time.perf_counter(), encoded.times.encoding)
                request = _Request(
                    encoded.data, encoded.packet, wanted, request_id, camera, captured_at, received_at
                )
                analysis = await self._answer(request, served)
            seen.answered(analysis.bytes, encoded.times)
        edge = encoded.times
        times = analysis.times.model_copy(
            update={"read_ms": edge.read_ms, "front_ms": edge.front_ms, "code_ms": edge.code_ms}
        )
        return analysis.model_copy(
            update={
                "times": times,
                "warnings": (*encoded.warnings, *analysis.warnings),
                "view": encoded.view,
            }
        )

    def _desk(self, settings: SessionSettings) -> Desk:
        services = Services(
            self.bundles.use,
            self._submit,
            self._archive,
            self._deadline_s,
            self.settings.grid_cells_max,
            self._observer,
            self.settings.archived_first,
        )
        limits = SessionLimits(settings.references_max, settings.references_bytes_max, settings.repeats_max)
        return Desk(services, limits)

    async def close(self) -> None:
        """Finishes what waits; new requests get NotReadyError."""
        await self._encoding.close()
        await self._jobs.close()

    async def _submit(self, job: Job) -> tuple[Done, float]:
        done, queue_ms = await self._jobs.submit(replace(job, share=_share()))
        self._observer.queued(job, queue_ms, done)
        spent_ms = {
            "queue": queue_ms,
            "decode": done.decode_ms,
            "forward": done.tails_ms - done.postprocess_ms,
            "postprocess": done.postprocess_ms,
        }
        tracing.stages(done.ended_s, spent_ms)
        return done, queue_ms

    async def _answer(self, request: _Request, served: Served) -> Analysis:
        """The answer to a request, computed once for all its repeats."""
        base_tasks, cells_max = base_tasks_of(served.model), self.settings.grid_cells_max
        asked = read_request(request.stream, request.wanted, served.bundle, base_tasks, cells_max)

        async def compute() -> Analysis:
            done, queue_ms = await self._submit(Job(asked.source, asked.queries, served))
            if self._archive is not None and request.keep:
                kept = self._archive.append(
                    request.camera, request.received_at, request.request_id, request.data, request.captured_at
                )
                if self.settings.archived_first:
                    await archived(self._archive, kept)
            return Analysis(
                request_id=request.request_id,
                bundle=served.bundle.manifest.name,
                fingerprint=served.bundle.fingerprint.hex(),
                quality=asked.source.quality,
                results={query.name: done.results[query.name] for query in asked.queries},
                bytes=_sizes(asked.source, done, len(request.data), served),
                times=Times(queue_ms=queue_ms, decode_ms=done.decode_ms, tails_ms=done.tails_ms),
                captured_at=request.captured_at,
                warnings=asked.warnings,
            )

        return await self._answers.get(request.request_id, _digest(request), compute)


def _share() -> Share:
    """Who the running call is from; the server itself shares with nobody's."""
    try:
        identity = caller().identity
    except LookupError:
        return NOBODYS
    return Share(identity.name, identity.weight)


def _digest(request: _Request) -> bytes:
    """Digest of what makes two requests the same. "Every task" stays the same request when a task is added."""
    head = f"{request.wanted.model_dump_json()}\0{captured_at_number(request.captured_at)}\0"
    return hashlib.sha256(head.encode() + request.data).digest()


def _sizes(source: Bitstream | Coded, done: Done, total: int, served: Served) -> ByteCount:
    if isinstance(source, Bitstream):
        return count_bytes(source, total, served.bundle)
    assert done.latent is not None  # as for every job of version 2
    return count_frame(source, done.latent, total, FrameCodec(served.model.codec), served.bundle)
