"""Open sessions at work: frames become jobs of the engine, and answers go back. Knows no transport.

SessionOpen -> Desk.open -> LiveSession, found by its camera's name until it is closed
SentFrame   -> Session.receive -> job -> the batch it shares with other sessions -> Session.settle -> FrameReply
                                                                    and the frame, by itself, -> the archive
Refine      -> the camera's session -> RefineAsked -> its refinement comes as a frame -> the operator's answer
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from cloud.archive.late_archive import archived
from cloud.engine.batch_work import Done, Job, Served, base_tasks_of
from cloud.engine.batcher import within
from cloud.observer import NEED_INTRA, Observer, Seen
from cloud.requests import RecordSink, check_grid, own_grid, queries_of, split_for_base
from cloud.sessions.session import FrameJob, Session, SessionCodec, SessionLimits, Settled
from shared.bundle import Bundle
from shared.codec.bitstream import FINGERPRINT_BYTES
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.encoder import byte_count, count_frame
from shared.errors import (
    BundleMismatchError,
    FrameGoneError,
    IsthmusError,
    NotReadyError,
    RequestError,
    UnknownCameraError,
)
from shared.session_packets import (
    Answered,
    FrameReply,
    NeedIntra,
    Outcome,
    RefineAsked,
    Refused,
    SentFrame,
    SessionOpen,
)
from shared.types import Analysis, ByteCount, TaskInfo, TaskQuery, Times, Wanted

log = logging.getLogger("isthmus.cloud.sessions")


@dataclass(frozen=True)
class Services:
    """What sessions need of the pipeline.

    use: what a frame is answered with, by the bundle's fingerprint in headers, for as long as the frame runs. submit: a
    job's result, and its wait in ms. deadline_s, cells_max: the most that a frame may take, and cells of a grid.
    observer: gets a report of each frame. archived_first: whether an answer waits until the archive has the frame.
    """

    use: Callable[[bytes], AbstractAsyncContextManager[Served]]
    submit: Callable[[Job], Awaitable[tuple[Done, float]]]
    archive: RecordSink | None
    deadline_s: float
    cells_max: int
    observer: Observer
    archived_first: bool = False


@dataclass(frozen=True)
class Refined:
    """A frame of which everything has come. base: digest of its base. number: of the frame with the rest."""

    base: bytes
    number: int
    latent: Latent
    bytes: ByteCount
    captured_at: datetime | None


@dataclass(eq=False)
class _Asked:
    """A refinement that the edge was asked for. number: of the base's frame."""

    number: int
    answer: asyncio.Future[Refined]
    waiters: int = 0

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class LiveSession:
    """One open session. ask: sends a RefineAsked to its edge. Close it.

    It holds no model: its bundle may be unloaded between two frames. served: what it is opened with. tasks: those that
    it answers, in the order of results. base_tasks: names of those that a base answers.
    """

    def __init__(
        self,
        opened: SessionOpen,
        served: Served,
        services: Services,
        limits: SessionLimits,
        ask: Callable[[RefineAsked], None],
    ) -> None:
        """Raises BundleMismatchError, StreamTooLargeError, UnknownTaskError or RequestError."""
        self.opened, self._services, self._ask = opened, services, ask
        bundle = self._bundle = served.bundle
        if opened.fingerprint.hex() != bundle.manifest.fingerprint:
            raise BundleMismatchError(opened.fingerprint.hex(), bundle.manifest.fingerprint)
        check_grid(opened.grid, bundle, services.cells_max)
        self._queries = queries_of(bundle, opened.wanted)
        answered, self._missing = split_for_base(self._queries, base_tasks_of(served.model))
        self._base_queries = answered
        infos = {task.name: task for task in bundle.info().tasks}
        self.bundle = bundle.manifest.name
        self.tasks: tuple[TaskInfo, ...] = tuple(infos[query.name] for query in self._queries)
        self.base_tasks = tuple(query.name for query in answered)
        predicts = FrameCodec(served.model.codec).predicts
        knows = SessionCodec(bundle.quality, own_grid(bundle), predicts)
        self.session = Session(opened, knows, limits)
        self._base_captured: tuple[bytes, datetime | None] = (b"", None)
        self._refined: Refined | None = None  # the last
        self._archiving = asyncio.Lock()
        self._refining: dict[bytes, _Asked] = {}  # by the base's digest

    async def frame(self, sent: SentFrame) -> FrameReply | None:
        """The answer to a frame; None for a repeat of one that is in work.

        Raises NotReadyError where a session has to be opened anew: the bundle or its tasks have changed, it cannot be
        loaded now, or the archive does not take what answers wait for.
        """
        received_at = datetime.now(UTC)
        async with self._use() as served:
            given = self.session.receive(sent.number, sent.data)
            if isinstance(given, FrameJob):
                return await self._work(sent, given, served, received_at)
            if given is None:
                return None
            count = byte_count(0, 0, len(sent.data), served.bundle)
            return await self._reply(sent, given, received_at, count, Times())

    def declined(self, number: int) -> None:
        """The edge no longer has the frame of that number, whose refinement was asked."""
        for asked in self._refining.values():
            if asked.number == number:
                asked.fail(FrameGoneError("the camera no longer has the rest of its last frame"))

    async def refined(self) -> Refined:
        """The last frame of which only the base came, with the rest of it.

        Raises FrameGoneError if there is none, or the edge does not have it.
        """
        last = self.session.last_base()
        if last is None:
            raise FrameGoneError(
                "the camera has sent no frame of which only the base came, or too long ago; call again after the next"
            )
        number, base = last
        if self._refined is not None and self._refined.base == base:
            return self._refined
        asked = self._refining.get(base)
        if asked is None:
            asked = self._refining[base] = _Asked(number, asyncio.get_running_loop().create_future())
            self._ask(RefineAsked(number))
        asked.waiters += 1
        try:
            return await asyncio.shield(asked.answer)
        finally:
            asked.waiters -= 1
            if not asked.waiters and self._refining.get(base) is asked:
                del self._refining[base]

    def close(self) -> None:
        """Ends whoever waits for a refinement."""
        for asked in self._refining.values():
            asked.fail(FrameGoneError("the camera's session has ended"))

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[Served]:
        """What a frame is answered with. Raises NotReadyError."""
        async with AsyncExitStack() as stack:
            try:
                served = await stack.enter_async_context(self._services.use(self._bundle.fingerprint))
            except BundleMismatchError:
                raise NotReadyError("the bundle is no longer served; open the session again") from None
            self._check_same(served.bundle)
            yield served

    def _check_same(self, bundle: Bundle) -> None:
        """Raises NotReadyError unless the bundle answers the session's tasks as the one did that it began with."""
        before = self._bundle
        if bundle is before:
            return
        if bundle.manifest.fingerprint != before.manifest.fingerprint or any(
            _version(bundle, query) != _version(before, query) for query in self._queries
        ):
            raise NotReadyError("the bundle's tasks have changed; open the session again")
        self._bundle = bundle

    async def _work(
        self, sent: SentFrame, job: FrameJob, served: Served, received_at: datetime
    ) -> FrameReply:
        asked = self.opened.replies != "none"
        queries = (self._base_queries if job.is_base else self._queries) if asked else ()
        missing = self._missing if job.is_base else ()
        try:
            async with within(None, self._services.deadline_s):
                done, queue_ms = await self._services.submit(Job(job.source, queries, served))
        except Exception as error:  # the outermost boundary of a frame: its error must not end the session
            if not isinstance(error, IsthmusError):
                log.error("unexpected error", exc_info=error)
            if job.refines is not None and job.refines in self._refining:
                self._refining[job.refines].fail(error)
            refused = self.session.fail(job, error).outcome
            self._report(refused, None, received_at)
            return FrameReply(sent.number, refused)
        except BaseException:
            self.session.fail(job, NotReadyError("the session has ended"))
            raise
        assert done.latent is not None  # as for every job of version 2
        answer = Answered({query.name: done.results[query.name] for query in queries}, missing)
        settled = self.session.settle(job, done.latent, answer if asked else None)
        count = byte_count(0, 0, len(sent.data), served.bundle)
        if isinstance(job.source, Coded):
            codec = FrameCodec(served.model.codec)
            count = count_frame(job.source, done.latent, len(sent.data), codec, served.bundle)
        if job.is_base:
            self._base_captured = done.latent.digest, sent.captured_at
        if job.refines is not None:
            self._got(Refined(job.refines, sent.number, done.latent, count, self._captured(job, sent)))
        times = Times(queue_ms=queue_ms, decode_ms=done.decode_ms, tails_ms=done.tails_ms)
        return await self._reply(sent, settled, received_at, count, times)

    async def _reply(
        self, sent: SentFrame, settled: Settled, received_at: datetime, count: ByteCount, times: Times
    ) -> FrameReply:
        """Raises NotReadyError where the archive does not take the frame and answers wait for it."""
        archive, accepted = self._services.archive, settled.accepted
        if archive is not None and accepted is not None:
            kept = archive.append(
                self.opened.camera,
                received_at,
                self.opened.request_id(sent.number),
                accepted.packet,
                sent.captured_at,
                accepted.chunk,
            )
            if self._services.archived_first:
                # One at a time, in the order in which frames were settled: an answer may mean an earlier one.
                async with self._archiving:
                    await archived(archive, kept)
        self._report(settled.outcome, count, received_at)
        if not self.opened.details:
            return FrameReply(sent.number, settled.outcome)
        return FrameReply(sent.number, settled.outcome, count, times)

    def _report(self, outcome: Outcome, count: ByteCount | None, received_at: datetime) -> None:
        """Reports a frame to whoever counts them."""
        seen = Seen("frame", self.opened.camera, self._bundle)
        seen.ms = (datetime.now(UTC) - received_at).total_seconds() * 1e3
        if isinstance(outcome, Refused):
            seen.failed(outcome.error)
        elif isinstance(outcome, NeedIntra):
            seen.outcome = NEED_INTRA
        elif count is not None:
            results = dict(outcome.results) if isinstance(outcome, Answered) else None
            seen.answered(count, results=results)
        self._services.observer.image(seen)

    def _captured(self, job: FrameJob, sent: SentFrame) -> datetime | None:
        """When the image of a refinement was captured: its own time, or that of its base."""
        base, captured_at = self._base_captured
        return sent.captured_at or (captured_at if base == job.refines else None)

    def _got(self, refined: Refined) -> None:
        self._refined = refined
        asked = self._refining.get(refined.base)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(refined)


class Desk:
    """Opens sessions, and finds them by camera. How many there are is bounded by the face that opens them.

    Use it in one event loop.
    """

    def __init__(self, services: Services, limits: SessionLimits) -> None:
        self._services, self.limits = services, limits
        self._open: dict[LiveSession, None] = {}  # in the order in which they were opened

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, opened: SessionOpen, ask: Callable[[RefineAsked], None]) -> LiveSession:
        """A session, counted until it is closed with `close`.

        Raises what LiveSession raises, or NotReadyError if its bundle cannot be loaded now.
        """
        async with self._services.use(opened.fingerprint[:FINGERPRINT_BYTES]) as served:
            live = LiveSession(opened, served, self._services, self.limits, ask)
            self._open[live] = None
        return live

    def close(self, live: LiveSession) -> None:
        if live in self._open:
            del self._open[live]
            live.close()

    async def refine(self, camera: str, wanted: Wanted, deadline_s: float | None = None) -> Analysis:
        """All that can be said about a camera's last frame of which only the base came.

        Raises UnknownCameraError, FrameGoneError, DeadlineError, UnknownTaskError, or what a frame's decoding raises.
        """
        if not camera:
            raise RequestError("name the camera whose frame is wanted")
        live = next((one for one in reversed(self._open) if one.opened.camera == camera), None)
        if live is None:
            raise UnknownCameraError(camera)
        mark = live.opened.fingerprint[:FINGERPRINT_BYTES]
        async with within(deadline_s, self._services.deadline_s):
            async with self._services.use(mark) as served:
                queries_of(served.bundle, wanted)  # an unknown task is refused before the camera is asked
            refined = await live.refined()
            async with self._services.use(mark) as served:
                queries = queries_of(served.bundle, wanted)
                done, queue_ms = await self._services.submit(Job(refined.latent, queries, served))
        return Analysis(
            request_id=live.opened.request_id(refined.number),
            bundle=served.bundle.manifest.name,
            fingerprint=served.bundle.fingerprint.hex(),
            quality=refined.latent.quality,
            results={query.name: done.results[query.name] for query in queries},
            bytes=refined.bytes,
            times=Times(queue_ms=queue_ms, tails_ms=done.tails_ms),
            captured_at=refined.captured_at,
        )


def _version(bundle: Bundle, query: TaskQuery) -> object:
    """What answers a query: equal as long as its answers are."""
    name = query.name
    own = [task for task in bundle.manifest.tasks if task.name == name]
    return own or [added for added in bundle.added if added.task.name == name]
