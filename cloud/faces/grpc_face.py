"""The gRPC face of the cloud: messages in, messages and statuses out. Knows no model and no bundle."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import grpc
import grpc.aio

from shared.errors import DeadlineError, IsthmusError, OverloadedError, RequestError
from shared.times import captured_at_of
from shared.types import Analysis, BundleInfo, Wanted, new_request_id
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerServicer

log = logging.getLogger("isthmus.cloud.grpc")

Context = grpc.aio.ServicerContext[Any, Any]


class Analyzer(Protocol):
    """What the servicer needs of `cloud.pipeline.Pipeline`."""

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


@dataclass
class _Stream:
    """One open AnalyzeStream.

    places: taken by each request that is read and given back when its answer is sent, so that a client which does not
    read its answers stops being read, instead of filling the queue. running: requests read and not answered yet.
    """

    places: asyncio.Semaphore
    answers: asyncio.Queue[pb.AnalyzeStreamResponse | None] = field(default_factory=asyncio.Queue)
    running: int = 0


class StreamLimit(grpc.aio.ServerInterceptor):
    """At most `streams_max` open calls of each method that answers with a stream; more are refused.

    Such a call may stay open for ever (reflection and Health.Watch too), and each counts as one of the server's calls:
    without this limit idle streams would shut everybody out, health checks among them.
    """

    def __init__(self, streams_max: int) -> None:
        self._streams_max = streams_max
        self._open: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler
        method = str(handler_call_details.method)
        if handler.request_streaming:
            limited = self._limited(handler.stream_stream, method)
            return handler._replace(stream_stream=limited)
        return handler._replace(unary_stream=self._limited(handler.unary_stream, method))

    def _limited(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._enter(method, context)
            async for answer in behaviour(request, context):
                yield answer

        async def writes(request: Any, context: Context) -> None:
            await self._enter(method, context)
            await behaviour(request, context)

        return answers if inspect.isasyncgenfunction(behaviour) else writes  # gRPC tells them apart so too

    async def _enter(self, method: str, context: Context) -> None:
        def leave(_: Any) -> None:
            self._open[method] -= 1

        if self._open[method] >= self._streams_max:
            text = f"{self._streams_max} streams of {method} are open already; try again later"
            await _abort(context, OverloadedError(text))
        self._open[method] += 1
        context.add_done_callback(leave)


class Servicer(AnalyzerServicer):
    """isthmus.v1.Analyzer.

    analyzer: gives the analyzer, or raises NotReadyError while there is none.
    stream_requests_max: requests of one stream that are worked on at once; further ones are not read until one ends.
    stream_idle_s: a stream with nothing to read and nothing in work for so long is ended, as is one whose client leaves
    an answer untaken for so long.
    """

    def __init__(
        self, analyzer: Callable[[], Analyzer], stream_requests_max: int, stream_idle_s: float = 60.0
    ) -> None:
        self._analyzer, self._stream_requests_max = analyzer, stream_requests_max
        self._stream_idle_s = stream_idle_s

    async def Analyze(  # noqa: N802 - the names are the contract's
        self, request: pb.AnalyzeRequest, context: Context
    ) -> pb.AnalyzeResponse:
        try:
            request_id = request.request_id or new_request_id()
            return await self._answer(request, request_id, context.time_remaining())
        except Exception as error:  # the outermost boundary of a call: any error becomes a status
            await _abort(context, error)
            raise

    async def AnalyzeStream(  # noqa: N802
        self, requests: AsyncIterator[pb.AnalyzeRequest], context: Context
    ) -> AsyncIterator[pb.AnalyzeStreamResponse]:
        try:
            self._analyzer()
        except IsthmusError as error:
            await _abort(context, error)
        loop, call = asyncio.get_running_loop(), asyncio.current_task()
        assert call is not None
        stream = _Stream(asyncio.Semaphore(self._stream_requests_max))
        reader = asyncio.create_task(self._read(requests, stream, context))
        try:
            while (answer := await self._next(stream, context)) is not None:
                # A client that takes no answer would hold the stream for ever.
                too_late = loop.call_later(self._stream_idle_s, call.cancel)
                yield answer
                too_late.cancel()
                stream.places.release()
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def Describe(  # noqa: N802
        self, request: pb.DescribeRequest, context: Context
    ) -> pb.DescribeResponse:
        try:
            return convert.describe_message([self._analyzer().info()])
        except Exception as error:  # the outermost boundary of a call: any error becomes a status
            await _abort(context, error)
            raise

    async def _next(self, stream: _Stream, context: Context) -> pb.AnalyzeStreamResponse | None:
        """The next answer, None behind the last; ends an idle stream with DEADLINE_EXCEEDED."""
        while True:
            try:
                async with asyncio.timeout(self._stream_idle_s):
                    return await stream.answers.get()
            except TimeoutError:
                if (
                    not stream.running
                ):  # a request that was read meanwhile runs, or its answer would have come
                    late = f"no request for {self._stream_idle_s:g} s; open a stream when there is one"
                    await _abort(context, DeadlineError(late))

    async def _read(
        self, requests: AsyncIterator[pb.AnalyzeRequest], stream: _Stream, context: Context
    ) -> None:
        """Start a task for each request of a stream; end with None behind the last answer."""

        async def one(request: pb.AnalyzeRequest) -> None:
            try:
                stream.answers.put_nowait(await self._stream_answer(request, context.time_remaining()))
            finally:
                stream.running -= 1

        try:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    stream.running += 1
                    await stream.places.acquire()
                    group.create_task(one(request))
        finally:
            stream.answers.put_nowait(None)

    async def _stream_answer(
        self, request: pb.AnalyzeRequest, deadline_s: float | None
    ) -> pb.AnalyzeStreamResponse:
        try:
            if not request.request_id:
                raise RequestError("a request of a stream needs a request id, so that its answer can be told")
            answer = await self._answer(request, request.request_id, deadline_s)
            return pb.AnalyzeStreamResponse(request_id=request.request_id, answer=answer)
        except Exception as error:  # the outermost boundary of an element: its error must not end the stream
            _log_unexpected(error)
            return pb.AnalyzeStreamResponse(request_id=request.request_id, error=convert.error_message(error))

    async def _answer(
        self, request: pb.AnalyzeRequest, request_id: str, deadline_s: float | None
    ) -> pb.AnalyzeResponse:
        wanted, captured_at = convert.wanted_of(request), captured_at_of(request.captured_at)
        analysis = await self._analyzer().analyze(
            request.bitstream, wanted, request_id, deadline_s, request.camera, captured_at
        )
        return convert.response_message(analysis)


async def _abort(context: Context, error: Exception) -> None:
    _log_unexpected(error)
    code, text = convert.status_of(error)
    await context.abort(code, text)


def _log_unexpected(error: Exception) -> None:
    if not isinstance(error, IsthmusError):
        log.error("unexpected error", exc_info=error)
