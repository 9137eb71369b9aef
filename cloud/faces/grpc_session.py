"""AnalyzeSession and Refine over gRPC: messages in, messages and statuses out. Knows no codec and no model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import grpc

from cloud.faces.grpc_guard import Context, abort
from cloud.faces.grpc_streams import Stream, Streams, for_each
from cloud.sessions.live import Desk, LiveSession
from shared.errors import IsthmusError, NotReadyError, RequestError
from shared.session_packets import Compression, SentFrame, SessionReady
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
        live = desk.open(opened, lambda asked: stream.push(writers[0].message(asked)))
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
        async def one(sent: SentFrame) -> None:
            try:
                reply = await live.frame(sent)
            except NotReadyError as error:
                stream.answer(None)
                stream.end(error)
            else:
                stream.answer(writer.message(reply) if reply else None)

        await for_each(_frames(requests, live), stream, one)


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
