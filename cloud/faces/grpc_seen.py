"""What is seen of each gRPC call: its count, its time and its trace. Knows no method by name.

A stream stays open for days, so it has no span; its messages have, in the context that came with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from cloud.faces.grpc_guard import Context, Continuation, PerMethod, behaviour_name
from shared.process import tracing
from shared.process.metrics import OTHER, RequestMetrics

NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallsSeen(grpc.aio.ServerInterceptor):
    """Counts every call, by method and status. The first of the interceptors, so that refused calls count too."""

    def __init__(self, requests: RequestMetrics) -> None:
        self._requests = requests
        self._handlers = PerMethod(self._wrapped)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._requests.ended("grpc", OTHER, grpc.StatusCode.UNIMPLEMENTED.name)
            return handler
        return self._handlers.of(handler, str(handler_call_details.method))

    def _wrapped(self, handler: Any, method: str) -> Any:
        name = behaviour_name(handler)
        # Behind `AccessInterceptor` every request is read as a stream is.
        return handler._replace(
            **{name: self._seen(getattr(handler, name), method.removeprefix("/"), handler.response_streaming)}
        )

    def _seen(self, behaviour: Callable[..., Any], method: str, is_stream: bool) -> Callable[..., Any]:
        @contextlib.contextmanager
        def call(context: Context) -> Iterator[None]:
            started, status = time.perf_counter(), ""
            try:
                yield
            except (asyncio.CancelledError, GeneratorExit):  # its client left, or its time is over
                status = grpc.StatusCode.CANCELLED.name
                raise
            except Exception:  # what `abort` raises, or what gRPC answers as UNKNOWN
                status = _status(context) or grpc.StatusCode.UNKNOWN.name
                raise
            finally:
                seconds = None if is_stream else time.perf_counter() - started
                name = status or grpc.StatusCode.OK.name
                self._requests.ended("grpc", method, name, seconds, tracing.exemplar())

        async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
            tracing.adopt(_context(context))
            with call(context):
                async for answer in behaviour(request, context):
                    yield answer

        async def answer(request: Any, context: Context) -> Any:
            with tracing.span(method, "server", _context(context)), call(context):
                return await behaviour(request, context)

        # grpc.aio distinguishes the two in the same way.
        return answers if inspect.isasyncgenfunction(behaviour) else answer


def _context(context: Context) -> dict[str, str]:
    """The trace's context among a call's metadata."""
    given = context.invocation_metadata() or ()
    return {key: value for key, value in given if key in tracing.CONTEXT and isinstance(value, str)}


def _status(context: Context) -> str:
    """The name of the status that a call was ended with; empty if it was not."""
    code = context.code()
    name = code.name if isinstance(code, grpc.StatusCode) else NAMES.get(code or 0, OTHER)
    return "" if name == grpc.StatusCode.OK.name else name
