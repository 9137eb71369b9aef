"""What stands between gRPC and every method: bounds on open streams, bytes that are no message, and the server's end.

Knows no method by name. gRPC's own answers to these cases are a Python class name in UNKNOWN and a traceback for each
unreadable message, and CANCELLED for calls that arrive while a server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from shared.errors import IsthmusError, NotReadyError, OverloadedError, RequestError, exit_of
from shared.process.auth import caller
from shared.process.rates import Seat, Seats
from shared.wire import convert

RETRY_HINT = "grpc-retry-pushback-ms"

log = logging.getLogger("isthmus.cloud.grpc")

Context = grpc.aio.ServicerContext[Any, Any]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


async def abort(context: Context, error: Exception) -> None:
    """Ends a call with an error's status; one that was not raised on purpose is logged and answered INTERNAL."""
    log_unexpected(error)
    code, text = convert.status_of(error)
    await context.abort(code, text, _hint(error))


def _hint(error: Exception) -> tuple[tuple[str, str], ...]:
    """When the call may be made again, as gRPC's own retries read it."""
    seconds: float | None = exit_of(error).retry_after_s
    if isinstance(error, OverloadedError) and error.retry_after_s is not None:
        seconds = error.retry_after_s  # not rounded to whole seconds, as in HTTP
    return () if seconds is None else ((RETRY_HINT, str(round(1000 * seconds))),)


def log_unexpected(error: Exception) -> None:
    if not isinstance(error, IsthmusError):
        log.error("unexpected error", exc_info=error)


class PerMethod:
    """What an interceptor makes of each method's handler, made once: it costs a tenth of a refused call."""

    def __init__(self, make: Callable[[Any, str], Any]) -> None:
        """make: gets a handler and the method's name."""
        self._make = make
        self._made: dict[str, tuple[Any, Any]] = {}  # of methods that there are: bounded

    def of(self, handler: Any, method: str) -> Any:
        known = self._made.get(method)
        if known is None or known[0] is not handler:
            known = self._made[method] = handler, self._make(handler, method)
        return known[1]


class _Unreadable:
    """Stands for a message whose bytes cannot be parsed, until the method's wrapper refuses it."""


class ReadableMessages(grpc.aio.ServerInterceptor):
    """Answers bytes that are no message of the method's type with INVALID_ARGUMENT, for every method."""

    def __init__(self) -> None:
        self._handlers = PerMethod(self._wrapped)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return self._handlers.of(handler, str(handler_call_details.method))

    @staticmethod
    def _wrapped(handler: Any, method: str) -> Any:
        parse = handler.request_deserializer

        def deserialize(data: bytes) -> Any:
            try:
                return parse(data)
            except Exception:  # protobuf's class for it differs between its implementations
                return _Unreadable()

        name = behaviour_name(handler)
        checked = _checked(getattr(handler, name), method, handler.request_streaming)
        return handler._replace(request_deserializer=deserialize, **{name: checked})


def _checked(behaviour: Callable[..., Any], method: str, request_streaming: bool) -> Callable[..., Any]:
    """The behaviour of a method, never called with a request that could not be read."""

    def check(request: Any) -> Any:
        if isinstance(request, _Unreadable):
            raise RequestError(f"the bytes sent are not a message that {method} takes")
        return request

    async def each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield check(request)

    def prepared(request: Any) -> Any:
        return each(request) if request_streaming else check(request)

    async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for answer in behaviour(prepared(request), context):
                yield answer
        except IsthmusError as error:
            await abort(context, error)

    async def answer(request: Any, context: Context) -> Any:
        try:
            return await behaviour(prepared(request), context)
        except IsthmusError as error:
            await abort(context, error)

    # grpc.aio distinguishes the two in the same way.
    return answers if inspect.isasyncgenfunction(behaviour) else answer


class StreamLimit(grpc.aio.ServerInterceptor):
    """At most `streams_max` open calls of each method that answers with a stream, shared as `Seats` says.

    others: methods with another limit. A stream whose place another caller takes ends with UNAVAILABLE.

    Such a call may stay open for ever (reflection and Health.Watch too), and each counts as one of the server's calls:
    without this limit idle streams would shut everybody out, health checks among them.
    """

    def __init__(self, streams_max: int, others: Mapping[str, int] | None = None) -> None:
        self._streams_max, self._others = streams_max, others or {}
        self._seats: dict[str, Seats] = {}
        self._handlers = PerMethod(self._wrapped)

    @property
    def open(self) -> int:
        """Open streams of all methods."""
        return sum(map(len, self._seats.values()))

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler
        return self._handlers.of(handler, str(handler_call_details.method))

    def _wrapped(self, handler: Any, method: str) -> Any:
        name = behaviour_name(handler)
        return handler._replace(**{name: self._limited(getattr(handler, name), method)})

    def _limited(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def writes(request: Any, context: Context) -> None:
            seat = await self._enter(method, context)
            try:
                await write_all(behaviour, request, context)
            except asyncio.CancelledError:
                await _give_way(seat, context)
                raise

        return writes

    async def _enter(self, method: str, context: Context) -> Seat:
        most = self._others.get(method, self._streams_max)
        seats = self._seats.setdefault(method, Seats(most))
        name, weight = _who()
        call = asyncio.current_task()
        assert call is not None
        try:
            seat = seats.take(name, weight, call.cancel)
        except OverloadedError as error:
            text = f"streams of {method}: {error}; try again later"
            await abort(context, OverloadedError(text))
            raise
        context.add_done_callback(lambda _: seats.give_back(seat))  # type: ignore[arg-type]  # no Protocol in the stubs
        return seat


async def write_all(behaviour: Callable[..., Any], request: Any, context: Context) -> None:
    """Runs a method that answers with a stream, and writes its answers here.

    gRPC would write what a method yields outside of it: whoever is cancelled while its client reads slowly could not
    choose the status.
    """
    # grpc.aio distinguishes the two in the same way.
    if not inspect.isasyncgenfunction(behaviour):
        await behaviour(request, context)
        return
    is_first = True
    async with contextlib.aclosing(behaviour(request, context)) as answers:
        async for answer in answers:
            if is_first:
                await _begin_answers(context)
                is_first = False
            await context.write(answer)


async def _begin_answers(context: Context) -> None:
    """Sends the head of the answers, whole also where the call is cancelled meanwhile.

    gRPC sends it with the first answer otherwise, and an `abort` before that is through would send it again, which
    gRPC refuses: the call would never end.
    """
    sending = asyncio.ensure_future(context.send_initial_metadata(()))
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await sending
        raise


async def _give_way(seat: Seat, context: Context) -> None:
    """Ends the running call with a status if it was cancelled because another caller has its place."""
    if not seat.taken:
        return
    call = asyncio.current_task()
    assert call is not None
    call.uncancel()
    text = "another caller has less than its part of the open streams and takes this place; open the stream again"
    await abort(context, NotReadyError(text))


def _who() -> tuple[str, float]:
    """Name and weight of the running call's caller; of methods that are open to everybody none is known."""
    try:
        identity = caller().identity
    except LookupError:
        return "", 1.0
    return identity.name, identity.weight


class RunningCalls(grpc.aio.ServerInterceptor):
    """Counts the calls of one service that were accepted and have not ended, so that a server can wait for them."""

    def __init__(self, service: str) -> None:
        self._prefix = f"/{service}/"
        self._running = 0
        self._ending = self._cut = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._none = asyncio.Event()
        self._none.set()
        self._handlers = PerMethod(self._wrapped)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not str(handler_call_details.method).startswith(self._prefix):
            return handler
        return self._handlers.of(handler, str(handler_call_details.method))

    def _wrapped(self, handler: Any, _: str) -> Any:
        name = behaviour_name(handler)
        return handler._replace(**{name: self._counted(getattr(handler, name))})

    async def end(self) -> None:
        """Waits until the calls that have been accepted so far have ended; later ones do not count."""
        self._ending = True
        await self._none.wait()

    async def cut(self) -> None:
        """Ends the calls that `end` waits for with UNAVAILABLE and a hint, and waits until they have ended."""
        self._cut = True
        for task in self._tasks:
            task.cancel()
        await self._none.wait()

    def _counted(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
            self._enter(context)
            try:
                async for answer in behaviour(request, context):
                    yield answer
            except asyncio.CancelledError:
                await self._refuse_cut(context)
                raise

        async def answer(request: Any, context: Context) -> Any:
            self._enter(context)
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                await self._refuse_cut(context)
                raise

        return answers if inspect.isasyncgenfunction(behaviour) else answer

    async def _refuse_cut(self, context: Context) -> None:
        """Ends the running call with a status if it was `cut`."""
        call = asyncio.current_task()
        if not self._cut or call not in self._tasks:
            return
        call.uncancel()
        text = "the server is ending and could not finish this request; send it again"
        await abort(context, NotReadyError(text))

    def _enter(self, context: Context) -> None:
        call = asyncio.current_task()
        assert call is not None

        def leave(_: Any) -> None:
            self._tasks.discard(call)
            self._running -= 1
            if not self._running:
                self._none.set()

        if self._ending:
            return
        self._tasks.add(call)
        self._running += 1
        self._none.clear()
        context.add_done_callback(leave)  # type: ignore[arg-type]  # its class in the stubs is no Protocol


def behaviour_name(handler: Any) -> str:
    """The field of a method handler that holds its behaviour, for example "unary_stream"."""
    kinds = {False: "unary", True: "stream"}
    return f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
