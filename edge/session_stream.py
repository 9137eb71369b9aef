"""One stream of a session, from its open to its end: frames out, answers in. Knows no image and never reconnects.

    ask(extract, quality) -> FrameEncoder -> queue -> SessionRequest ...
    SessionResponse ... -> confirms references, resolves "as before", sends refinements -> the frame's reply

The frame encoder runs in the thread that encodes images and nowhere else, so that it needs no lock.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, TypeVar

from edge.cloud_status import error_of_frame
from edge.frames import Extract, FrameEncoder, NextFrame
from shared.codec.frame_codec import FrameCodec
from shared.errors import CloudUnreachableError, DeadlineError, IsthmusError, RemoteError
from shared.process import tracing
from shared.session_packets import (
    Answered,
    FrameReply,
    NeedIntra,
    RefineAsked,
    Refused,
    Results,
    SameAs,
    SentFrame,
    SessionOpen,
    SessionReady,
    confirms,
)
from shared.wire import analyzer_pb2 as pb
from shared.wire.sessions import FrameWriter, ReplyReader, open_message, ready_of

PENDING_MAX = 64  # frames without an answer, also those that nobody waits for any more
RESULTS_KEPT = 16  # frames whose results a later answer may mean

T = TypeVar("T")


class SessionCall(Protocol):
    """The messages of one stream. Its methods raise CloudUnreachableError, DeadlineError, OverloadedError or
    RemoteRejectedError."""

    async def send(self, message: pb.SessionRequest) -> None: ...

    async def receive(self) -> pb.SessionResponse | None:
        """The next message; None at the end."""

    def cancel(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Reply:
    """The answer to one frame. need_intra: it was not decoded; send it as a frame I.

    results: also where the cloud said "as before". same_as: the number of the frame that this means, or None.
    missing: tasks without a result, because only the frame's base was sent. code_ms: extractor and coding.
    """

    sent: NextFrame
    reply: FrameReply
    need_intra: bool = False
    results: Results = field(default_factory=dict)
    same_as: int | None = None
    missing: tuple[str, ...] = ()
    code_ms: float = 0.0


class SessionStream:
    """Sends the frames of one session. Must be made in the event loop that uses it; close it.

    encoding: one thread. intra_every_s: see `FrameEncoder`.
    """

    def __init__(
        self,
        call: SessionCall,
        opened: SessionOpen,
        codec: FrameCodec,
        encoding: Executor,
        intra_every_s: float,
    ) -> None:
        self.opened, self.ended = opened, False
        self._call, self._codec, self._encoding = call, codec, encoding
        self._intra_every_s = intra_every_s
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[tuple[SessionReady, FrameEncoder]] = self._loop.create_future()
        self._coding = asyncio.Lock()  # frames are queued in the order of their numbers
        self._outgoing: asyncio.Queue[SentFrame | pb.SessionRequest] = asyncio.Queue()
        self._pending: dict[int, tuple[NextFrame, asyncio.Future[Reply]]] = {}
        self._results: OrderedDict[int, Answered] = OrderedDict()
        self._reading = asyncio.create_task(self._read())
        self._writing = asyncio.create_task(self._write())

    async def ready(self) -> SessionReady:
        """What the cloud answers the open with. Raises what `SessionCall` raises."""
        ready, _ = await asyncio.shield(self._ready)
        return ready

    async def ask(
        self,
        extract: Extract,
        quality: int,
        captured_at: datetime | None,
        intra: bool = False,
        number: int | None = None,
        queued: Callable[[NextFrame], None] | None = None,
    ) -> Reply:
        """Sends the frame of an image and waits for its reply. number: see `FrameEncoder.next`. queued: gets the frame
        before the wait.

        Raises CloudUnreachableError once the stream has ended, RemoteError or a subclass, OverloadedError, or
        RequestError.
        """
        _, frames = await asyncio.shield(self._ready)
        async with self._coding:
            at_s = self._loop.time()
            sent = await self._run(lambda: frames.next(extract, quality, at_s, intra, number))
            future, code_s = self._put(sent, captured_at), self._loop.time() - at_s
        if queued is not None:
            queued(sent)
        name = "AnalyzeSession frame"
        with tracing.frame_span(self.opened.request_id(sent.number), name, "client", type=sent.frame.name):
            reply = await future
        return replace(reply, code_ms=1e3 * code_s)

    async def close(self) -> None:
        self._end(CloudUnreachableError("this edge has closed the session"))
        await asyncio.gather(self._reading, self._writing, return_exceptions=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._encoding, work)

    def _put(self, sent: NextFrame, captured_at: datetime | None) -> asyncio.Future[Reply]:
        if len(self._pending) >= PENDING_MAX:
            self._end(
                CloudUnreachableError(f"the cloud left {PENDING_MAX} frames of this session unanswered")
            )
        if self.ended:
            raise CloudUnreachableError("the session has ended")
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._pending[sent.number] = sent, future
        self._outgoing.put_nowait(SentFrame(sent.number, sent.data, captured_at))
        return future

    async def _write(self) -> None:
        """Messages leave out what follows from the one before, so only what is really sent becomes one."""
        writer = FrameWriter()
        try:
            await self._call.send(open_message(self.opened))
            while True:
                one = await self._outgoing.get()
                await self._call.send(writer.message(one) if isinstance(one, SentFrame) else one)
        except CloudUnreachableError:
            pass  # reading says why
        except IsthmusError as error:
            self._end(error)

    async def _read(self) -> None:
        try:
            first = await self._call.receive()
            if first is None or first.WhichOneof("message") != "ready":
                raise RemoteError("the cloud did not answer the opening of a session")
            ready = ready_of(first.ready)
            names = {task.name for task in ready.tasks}
            frames = FrameEncoder(
                self._codec,
                self.opened.key,
                intra_every_s=self._intra_every_s,
                base_only=bool(names) and names <= set(ready.base_tasks),
            )
            self._ready.set_result((ready, frames))
            reader = ReplyReader(ready)
            while (message := await self._call.receive()) is not None:
                for reply in reader.replies(message):
                    if isinstance(reply, RefineAsked):
                        await self._refine(frames, reply.number)
                    else:
                        self._take(frames, reply)
            raise CloudUnreachableError("the cloud has ended the session")
        except DeadlineError as error:  # nothing was sent for long; what is sent now goes into another stream
            self._end(CloudUnreachableError(str(error)))
        except IsthmusError as error:
            self._end(error)

    def _take(self, frames: FrameEncoder, reply: FrameReply) -> None:
        """Raises RemoteError."""
        if reply.number not in self._pending:
            return  # an answer that was repeated
        answered, outcome = self._answered(reply), reply.outcome
        sent, future = self._pending.pop(reply.number)
        # In the encoding thread, and before anything that the caller does next.
        if confirms(outcome):
            self._encoding.submit(frames.confirm, reply.number)
        elif isinstance(outcome, NeedIntra):
            self._encoding.submit(frames.need_intra, reply.number)
        if isinstance(outcome, Refused):
            _set(future, error_of_frame(outcome.error))
            return
        same_as = outcome.number if isinstance(outcome, SameAs) else None
        results, missing = (answered.results, answered.missing) if answered else ({}, ())
        _set(future, Reply(sent, reply, isinstance(outcome, NeedIntra), results, same_as, missing))

    def _answered(self, reply: FrameReply) -> Answered | None:
        """The results that the reply has or means. Raises RemoteError."""
        outcome = reply.outcome
        if isinstance(outcome, Answered):
            self._results[reply.number] = outcome
            while len(self._results) > RESULTS_KEPT:
                self._results.popitem(last=False)
            return outcome
        if isinstance(outcome, SameAs):
            if outcome.number not in self._results:
                raise RemoteError(
                    f"the cloud answers as for frame {outcome.number}, whose results are unknown here"
                )
            self._results.move_to_end(outcome.number)
            return self._results[outcome.number]
        return None

    async def _refine(self, frames: FrameEncoder, number: int) -> None:
        async with self._coding:
            sent = await self._run(lambda: frames.refinement(number))
            if sent is not None:
                self._put(sent, None)
                return
        self._outgoing.put_nowait(pb.SessionRequest(declined=pb.RefineDeclined(number=number)))

    def _end(self, error: IsthmusError) -> None:
        """Ends the stream once; whoever waits gets the error."""
        if self.ended:
            return
        self.ended = True
        self._call.cancel()
        self._reading.cancel()
        self._writing.cancel()
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # it is no fault if nobody waits
        for _, future in self._pending.values():
            _set(future, error)
        self._pending.clear()


def _set(future: asyncio.Future[Reply], outcome: Reply | Exception) -> None:
    if future.done():  # whoever waited has left
        return
    if isinstance(outcome, Reply):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
        future.exception()
