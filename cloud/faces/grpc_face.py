"""The gRPC face of the cloud: messages in, messages and statuses out. Knows no model and no bundle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cloud.faces.grpc_guard import Context, abort, log_unexpected
from shared.errors import DeadlineError, IsthmusError, NotReadyError, RequestError
from shared.times import captured_at_of
from shared.types import Analysis, BundleInfo, Wanted, new_request_id
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerServicer

_WAKE = pb.AnalyzeStreamResponse()  # put among a stream's answers so that it looks up; compared by identity


class Analyzer(Protocol):
    """The part of `cloud.pipeline.Pipeline` that the servicer calls."""

    def info(self) -> BundleInfo: ...

    async def analyze(
        self,
        data: bytes,
        wanted: Wanted,
        request_id: str,
        deadline_s: float | None = None,
        camera: str = "",
        captured_at: datetime | None = None,
    ) -> Analysis: ...


@dataclass(eq=False)
class _Stream:
    """One open AnalyzeStream.

    places: each request takes one when it is read and gives it back when its answer is sent, so a client that does not
    read its answers is no longer read from, instead of filling the queue. running: requests read but not answered.
    """

    places: asyncio.Semaphore
    answers: asyncio.Queue[pb.AnalyzeStreamResponse | None] = field(default_factory=asyncio.Queue)
    running: int = 0

    @property
    def quiet(self) -> bool:
        """Everything that was read has been answered and sent."""
        return not self.running and self.answers.empty()


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
        self._analyzer, self._stream_requests_max = analyzer, stream_requests_max
        self._stream_idle_s = stream_idle_s
        self._streams: set[_Stream] = set()
        self._ending = False

    def end(self) -> None:
        """Ends each open stream with UNAVAILABLE once what it has sent so far is answered."""
        self._ending = True
        for stream in self._streams:
            stream.answers.put_nowait(_WAKE)

    async def Analyze(  # noqa: N802 - the names are the contract's
        self, request: pb.AnalyzeRequest, context: Context
    ) -> pb.AnalyzeResponse:
        try:
            request_id = request.request_id or new_request_id()
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
        loop, call = asyncio.get_running_loop(), asyncio.current_task()
        assert call is not None
        stream = _Stream(asyncio.Semaphore(self._stream_requests_max))
        reader = asyncio.create_task(self._read(requests, stream, context))
        self._streams.add(stream)
        try:
            while (answer := await self._next(stream, context)) is not None:
                # A client that reads no answer would hold the stream for ever.
                too_late = loop.call_later(self._stream_idle_s, call.cancel)
                yield answer
                too_late.cancel()
                stream.places.release()
            await reader
        except IsthmusError as error:  # bytes that are no message: whose request they were cannot be known
            await abort(context, error)
        finally:
            self._streams.discard(stream)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def Describe(  # noqa: N802
        self, request: pb.DescribeRequest, context: Context
    ) -> pb.DescribeResponse:
        try:
            return convert.describe_message([self._analyzer().info()])
        except Exception as error:  # the outermost boundary of a call: any error becomes a status
            await abort(context, error)
            raise

    async def _next(self, stream: _Stream, context: Context) -> pb.AnalyzeStreamResponse | None:
        """The next answer; None after the last one. Ends an idle stream, and a quiet one while the server ends."""
        while True:
            if self._ending and stream.quiet:
                await abort(context, NotReadyError("the server is ending; open the stream again"))
            try:
                async with asyncio.timeout(self._stream_idle_s):
                    answer = await stream.answers.get()
            except TimeoutError:
                # If a request was read meanwhile it is running, or its answer would have come.
                if not stream.running:
                    late = f"no request for {self._stream_idle_s:g} s; open a stream when there is one"
                    await abort(context, DeadlineError(late))
            else:
                if answer is not _WAKE:
                    return answer

    async def _read(
        self, requests: AsyncIterator[pb.AnalyzeRequest], stream: _Stream, context: Context
    ) -> None:
        """Starts a task for each request of a stream and puts None after the last answer.

        Raises RequestError for bytes that are no message, once everything before them is answered.
        """

        async def one(request: pb.AnalyzeRequest) -> None:
            try:
                stream.answers.put_nowait(await self._stream_answer(request, context.time_remaining()))
            finally:
                stream.running -= 1

        unreadable: RequestError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    async for request in requests:
                        stream.running += 1
                        await stream.places.acquire()
                        group.create_task(one(request))
                except RequestError as error:  # raising it here would cancel the requests that run
                    unreadable = error
            if unreadable is not None:
                raise unreadable
        finally:
            stream.answers.put_nowait(None)

    async def _stream_answer(
        self, request: pb.AnalyzeRequest, deadline_s: float | None
    ) -> pb.AnalyzeStreamResponse:
        try:
            if not request.request_id:
                raise RequestError(
                    "a request of a stream needs a request id, so that its answer can be matched"
                )
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
