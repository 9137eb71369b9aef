"""AnalyzeSession and Refine over gRPC: messages in, messages and statuses out. Knows no codec and no model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import grpc

from cloud.faces.grpc_guard import Context, abort
from cloud.faces.grpc_streams import Stream, Streams, for_each
from cloud.sessions.live import Desk, LiveSession
from shared.errors import IsthmusError, NotReadyError, RequestError
from shared.process import tracing
from shared.process.logs import about
from shared.session_packets import Compression, FrameReply, Received, SameAs, SentFrame, SessionReady
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert, sessions

_COMPRESSIONS: dict[Compression, grpc.Compression] = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


class SessionCalls:
    """The sessions of one server.

    desk: returns where they are opened, or raises NotReadyError while there is none. frames_max: of one session that
    are worked on at once. idle_s: see `Streams`.
    """

    def __init__(self, desk: Callable[[], Desk], frames_max: int, idle_s: float) -> None:
        self._desk = desk
        self._streams: Streams[pb.SessionResponse] = Streams(frames_max, idle_s)

    def end(self) -> None:
        """Ends each session with UNAVAILABLE once what it has sent so far is answered."""
        self._streams.end()

    async def serve(
        self, requests: AsyncIterator[pb.SessionRequest], context: Context
    ) -> AsyncGenerator[pb.SessionResponse]:
        """The answers of one session."""
        try:
            desk = self._desk()
        except IsthmusError as error:
            await abort(context, error)

        async def read(stream: Stream[pb.SessionResponse]) -> None:
            await self._read(requests, stream, desk, context)

        async with contextlib.aclosing(self._streams.serve(context, read)) as answers:
            async for answer in answers:
                yield answer

    async def refine(self, request: pb.RefineRequest, deadline_s: float | None) -> pb.AnalyzeResponse:
        """Raises what `Desk.refine` raises."""
        analysis = await self._desk().refine(request.camera, convert.wanted_of(request), deadline_s)
        return convert.response_message(analysis)

    async def _read(
        self,
        requests: AsyncIterator[pb.SessionRequest],
        stream: Stream[pb.SessionResponse],
        desk: Desk,
        context: Context,
    ) -> None:
        """One session from its open to its last frame. Raises IsthmusError for what ends it."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "open":
            raise RequestError("a session begins with a SessionOpen; this one begins with something else")
        opened = sessions.open_of(first.open)
        writers: list[sessions.ReplyWriter] = []  # one, once the session is open
        live = await desk.open(opened, lambda asked: stream.push(writers[0].message(asked)))
        try:
            context.set_compression(_COMPRESSIONS[opened.compression])
            writers.append(sessions.ReplyWriter(live.tasks))
            stream.push(sessions.ready_message(self._ready(live, desk)))
            await self._answer_all(requests, stream, live, writers[0])
        finally:
            desk.close(live)

    def _ready(self, live: LiveSession, desk: Desk) -> SessionReady:
        return SessionReady(
            bundle=live.bundle,
            tasks=live.tasks,
            base_tasks=live.base_tasks,
            references_max=desk.limits.references_max,
            frames_max=self._streams.requests_max,
            idle_ms=int(self._streams.idle_s * 1e3),
        )

    async def _answer_all(
        self,
        requests: AsyncIterator[pb.SessionRequest],
        stream: Stream[pb.SessionResponse],
        live: LiveSession,
        writer: sessions.ReplyWriter,
    ) -> None:
        answers = _Answers(stream, writer, live.opened.answers_wait_ms / 1e3, self._streams.requests_max // 2)

        async def one(sent: SentFrame) -> None:
            request_id = live.opened.request_id(sent.number)
            about(request_id)
            try:
                with tracing.frame_span(request_id, "AnalyzeSession frame", "server"):
                    reply = await live.frame(sent)
            except NotReadyError as error:
                answers.send(None)
                stream.end(error)
            else:
                answers.send(reply)

        try:
            await for_each(_frames(requests, live), stream, one)
        finally:
            answers.flush()


class _Answers:
    """Sends answers, those that say little as one where they may wait.

    wait_s: how long they may. most: frames that wait at once.
    """

    def __init__(
        self, stream: Stream[pb.SessionResponse], writer: sessions.ReplyWriter, wait_s: float, most: int
    ) -> None:
        self._stream, self._writer = stream, writer
        self._wait_s, self._most = wait_s, most
        self._waiting: list[FrameReply] = []  # in a row, with one outcome
        self._timer: asyncio.TimerHandle | None = None

    def send(self, reply: FrameReply | None) -> None:
        """Ends a request. None: its answer is that of another."""
        if reply is None:
            self._stream.answer(None)
            return
        may_wait = self._wait_s > 0 and isinstance(reply.outcome, SameAs | Received) and reply.bytes is None
        last = self._waiting[-1] if self._waiting else None
        if last and not (may_wait and (last.number + 1, last.outcome) == (reply.number, reply.outcome)):
            self.flush()
        if not may_wait:
            self._stream.answer(self._writer.message(reply))
            return
        self._waiting.append(reply)
        if len(self._waiting) >= self._most:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self.flush)

    def flush(self) -> None:
        """Sends what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        *others, last = self._waiting
        self._waiting = []
        for _ in others:
            self._stream.answer(None)
        self._stream.answer(self._writer.message(last, also=len(others)))


async def _frames(requests: AsyncIterator[pb.SessionRequest], live: LiveSession) -> AsyncIterator[SentFrame]:
    """The frames among the messages after the open. Raises RequestError for what is none."""
    reader = sessions.FrameReader()
    async for request in requests:
        match request.WhichOneof("message"):
            case "frame":
                yield reader.frame(request.frame)
            case "declined":
                live.declined(request.declined.number)
            case "open":
                raise RequestError("a session is opened once; open another stream for another session")
            case _:
                raise RequestError(
                    "a message of a session is a frame or a RefineDeclined; this one is neither"
                )
