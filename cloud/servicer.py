"""The gRPC face of the cloud: messages in, messages and statuses out. Knows no model and no bundle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
import grpc.aio

from shared.errors import IsthmusError, RequestError
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
    ) -> Analysis: ...


class Servicer(AnalyzerServicer):
    """isthmus.v1.Analyzer.

    analyzer: gives the analyzer, or raises NotReadyError while there is none.
    stream_requests_max: requests of one stream that are worked on at once; further ones are not read until one ends.
    """

    def __init__(self, analyzer: Callable[[], Analyzer], stream_requests_max: int) -> None:
        self._analyzer, self._stream_requests_max = analyzer, stream_requests_max

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
        answers: asyncio.Queue[pb.AnalyzeStreamResponse | None] = asyncio.Queue()
        # Taken by each request that is read and given back when its answer is sent, so that a client which does not
        # read its answers stops being read, instead of filling the queue.
        places = asyncio.Semaphore(self._stream_requests_max)
        reader = asyncio.create_task(self._read(requests, answers, places, context))
        try:
            while (answer := await answers.get()) is not None:
                yield answer
                places.release()
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

    async def _read(
        self,
        requests: AsyncIterator[pb.AnalyzeRequest],
        answers: asyncio.Queue[pb.AnalyzeStreamResponse | None],
        places: asyncio.Semaphore,
        context: Context,
    ) -> None:
        """Start a task for each request of a stream; end with None behind the last answer."""

        async def one(request: pb.AnalyzeRequest) -> None:
            answers.put_nowait(await self._stream_answer(request, context.time_remaining()))

        try:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    await places.acquire()
                    group.create_task(one(request))
        finally:
            answers.put_nowait(None)

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
        wanted = convert.wanted_of(request)
        analysis = await self._analyzer().analyze(
            request.bitstream, wanted, request_id, deadline_s, request.camera
        )
        return convert.response_message(analysis)


async def _abort(context: Context, error: Exception) -> None:
    _log_unexpected(error)
    code, text = convert.status_of(error)
    await context.abort(code, text)


def _log_unexpected(error: Exception) -> None:
    if not isinstance(error, IsthmusError):
        log.error("unexpected error", exc_info=error)
