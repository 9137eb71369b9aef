"""The gRPC face of the cloud: messages in, messages and statuses out. Knows no model and no bundle."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Protocol

from cloud.faces.grpc_guard import Context, abort, log_unexpected
from cloud.faces.grpc_session import SessionCalls
from cloud.faces.grpc_streams import Stream, Streams, for_each
from cloud.sessions.live import Desk
from shared.errors import IsthmusError, RequestError
from shared.process import tracing
from shared.process.logs import about
from shared.times import captured_at_of
from shared.types import Analysis, BundleInfo, Wanted, check_camera, new_request_id
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerServicer


class Analyzer(Protocol):
    """The part of `cloud.pipeline.Pipeline` that the servicer calls."""

    @property
    def sessions(self) -> Desk: ...

    def infos(self) -> list[BundleInfo]: ...

    def wanted(self, camera: str, running: str, trouble: str) -> str: ...

    async def analyze(
        self,
        data: bytes,
        wanted: Wanted,
        request_id: str,
        deadline_s: float | None = None,
        camera: str = "",
        captured_at: datetime | None = None,
    ) -> Analysis: ...


class Servicer(AnalyzerServicer):
    """isthmus.v1.Analyzer.

    analyzer: returns the analyzer, or raises NotReadyError while there is none.
    stream_requests_max: requests of one stream that are worked on at once; further ones are not read until one ends.
    stream_idle_s: a stream that has nothing to read and nothing in work for this long is ended, as is one whose client
    leaves an answer unread for this long.
    """

    def __init__(
        self, analyzer: Callable[[], Analyzer], stream_requests_max: int, stream_idle_s: float = 60.0
    ) -> None:
        self._analyzer = analyzer
        self._streams: Streams[pb.AnalyzeStreamResponse] = Streams(stream_requests_max, stream_idle_s)
        self._sessions = SessionCalls(lambda: analyzer().sessions, stream_requests_max, stream_idle_s)

    def end(self) -> None:
        """Ends each open stream with UNAVAILABLE once what it has sent so far is answered."""
        self._streams.end()
        self._sessions.end()

    async def Analyze(  # noqa: N802 - the names are the contract's
        self, request: pb.AnalyzeRequest, context: Context
    ) -> pb.AnalyzeResponse:
        try:
            request_id = request.request_id or new_request_id()
            about(request_id)
            return await self._answer(request, request_id, context.time_remaining())
        except Exception as error:  # the outermost boundary of a call: any error becomes a status
            await abort(context, error)
            raise

    async def AnalyzeStream(  # noqa: N802
        self, requests: AsyncIterator[pb.AnalyzeRequest], context: Context
    ) -> AsyncIterator[pb.AnalyzeStreamResponse]:
        try:
            self._analyzer()
        except IsthmusError as error:
            await abort(context, error)
        served = self._streams.serve(context, lambda stream: self._read(requests, stream, context))
        async with contextlib.aclosing(served) as answers:
            async for answer in answers:
                yield answer

    async def AnalyzeSession(  # noqa: N802
        self, requests: AsyncIterator[pb.SessionRequest], context: Context
    ) -> AsyncIterator[pb.SessionResponse]:
        async with contextlib.aclosing(self._sessions.serve(requests, context)) as answers:
            async for answer in answers:
                yield answer

    async def Refine(  # noqa: N802
        self, request: pb.RefineRequest, context: Context
    ) -> pb.AnalyzeResponse:
        try:
            return await self._sessions.refine(request, context.time_remaining())
        except Exception as error:  # the outermost boundary of a call: any error becomes a status
            await abort(context, error)
            raise

    async def Describe(  # noqa: N802
        self, request: pb.DescribeRequest, context: Context
    ) -> pb.DescribeResponse:
        try:
            analyzer = self._analyzer()
            check_camera(request.camera)
            wanted = analyzer.wanted(request.camera, request.running, request.trouble)
            return convert.describe_message(analyzer.infos(), wanted)
        except Exception as error:  # the outermost boundary of a call: any error becomes a status
            await abort(context, error)
            raise

    async def _read(
        self,
        requests: AsyncIterator[pb.AnalyzeRequest],
        stream: Stream[pb.AnalyzeStreamResponse],
        context: Context,
    ) -> None:
        """Starts a task for each request of a stream.

        Raises RequestError for bytes that are no message, once everything before them is answered.
        """

        async def one(request: pb.AnalyzeRequest) -> None:
            stream.answer(await self._stream_answer(request, context.time_remaining()))

        await for_each(requests, stream, one)

    async def _stream_answer(
        self, request: pb.AnalyzeRequest, deadline_s: float | None
    ) -> pb.AnalyzeStreamResponse:
        about(request.request_id)
        try:
            if not request.request_id:
                raise RequestError(
                    "a request of a stream needs a request id, so that its answer can be matched"
                )
            with tracing.span("AnalyzeStream element", "server"):
                answer = await self._answer(request, request.request_id, deadline_s)
            return pb.AnalyzeStreamResponse(request_id=request.request_id, answer=answer)
        except Exception as error:  # the outermost boundary of an element: its error must not end the stream
            log_unexpected(error)
            return pb.AnalyzeStreamResponse(request_id=request.request_id, error=convert.error_message(error))

    async def _answer(
        self, request: pb.AnalyzeRequest, request_id: str, deadline_s: float | None
    ) -> pb.AnalyzeResponse:
        wanted, captured_at = convert.wanted_of(request), captured_at_of(request.captured_at)
        analysis = await self._analyzer().analyze(
            request.bitstream, wanted, request_id, deadline_s, request.camera, captured_at
        )
        return convert.response_message(analysis)
