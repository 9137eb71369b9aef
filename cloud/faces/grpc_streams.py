"""Open streams with bounds: what is read waits for a place, and silence ends them. Knows no method and no message.

    messages --> read --> a place is taken --> work --> answer in the queue --> sent --> the place is given back

A client that does not read its answers is no longer read from, instead of filling the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cloud.faces.grpc_guard import Context, abort
from shared.errors import DeadlineError, IsthmusError, NotReadyError

Answer = TypeVar("Answer")
Request = TypeVar("Request")


@dataclass(frozen=True)
class _Sent(Generic[Answer]):
    """answer: None for a request that gets none of its own. frees: whether a place is given back for it."""

    answer: Answer | None
    frees: bool


class _Wake:
    """Put among a stream's answers so that it looks up."""


_WAKE = _Wake()


@dataclass(eq=False)
class Stream(Generic[Answer]):
    """One open stream. places: one for each request in work. running: requests read but not answered."""

    places: asyncio.Semaphore
    running: int = 0
    queue: asyncio.Queue[_Sent[Answer] | _Wake | Exception | None] = field(default_factory=asyncio.Queue)

    async def enter(self) -> None:
        """Before a request is worked on; `answer` is its end."""
        self.running += 1
        await self.places.acquire()

    def answer(self, answer: Answer | None) -> None:
        """Ends a request. None: its answer is that of another."""
        self.running -= 1
        self.queue.put_nowait(_Sent(answer, frees=True))

    def push(self, answer: Answer) -> None:
        """Sends what belongs to no request."""
        self.queue.put_nowait(_Sent(answer, frees=False))

    def end(self, error: Exception) -> None:
        """Ends the stream with an error's status, after the answers that are ready."""
        self.queue.put_nowait(error)

    @property
    def quiet(self) -> bool:
        """Everything that was read has been answered and sent."""
        return not self.running and self.queue.empty()


class Streams(Generic[Answer]):
    """The open streams of one method.

    requests_max: of one stream that are worked on at once. idle_s: a stream that has nothing to read and nothing in
    work for this long is ended, as is one whose client leaves an answer unread for this long.
    """

    def __init__(self, requests_max: int, idle_s: float) -> None:
        self.requests_max, self.idle_s = requests_max, idle_s
        self._open: set[Stream[Answer]] = set()
        self._ending = False

    def end(self) -> None:
        """Ends each open stream with UNAVAILABLE once what it has sent so far is answered."""
        self._ending = True
        for stream in self._open:
            stream.queue.put_nowait(_WAKE)

    async def serve(
        self, context: Context, read: Callable[[Stream[Answer]], Coroutine[Any, Any, None]]
    ) -> AsyncGenerator[Answer]:
        """The answers of one stream. read: reads its requests to the end; its IsthmusError ends the stream, after the
        answers that are ready."""
        loop, call = asyncio.get_running_loop(), asyncio.current_task()
        assert call is not None
        stream: Stream[Answer] = Stream(asyncio.Semaphore(self.requests_max))
        reader = asyncio.create_task(_read(read, stream))
        self._open.add(stream)
        try:
            while (sent := await self._next(stream)) is not None:
                if sent.answer is not None:
                    # A client that reads no answer would hold the stream for ever.
                    too_late = loop.call_later(self.idle_s, call.cancel)
                    yield sent.answer
                    too_late.cancel()
                if sent.frees:
                    stream.places.release()
            await reader
        except IsthmusError as error:
            await abort(context, error)
        finally:
            self._open.discard(stream)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _next(self, stream: Stream[Answer]) -> _Sent[Answer] | None:
        """The next answer; None after the last. Raises what ends the stream: silence, the server's end, an error."""
        while True:
            if self._ending and stream.quiet:
                raise NotReadyError("the server is ending; open the stream again")
            try:
                async with asyncio.timeout(self.idle_s):
                    given = await stream.queue.get()
            except TimeoutError:
                # If a request was read meanwhile it is running, or its answer would have come.
                if not stream.running:
                    raise DeadlineError(
                        f"no request for {self.idle_s:g} s; open a stream when there is one"
                    ) from None
            else:
                if isinstance(given, Exception):
                    raise given
                if not isinstance(given, _Wake):
                    return given


async def _read(read: Callable[[Stream[Answer]], Coroutine[Any, Any, None]], stream: Stream[Answer]) -> None:
    """Puts None after the last answer."""
    try:
        await read(stream)
    finally:
        stream.queue.put_nowait(None)


async def for_each(
    requests: AsyncIterator[Request],
    stream: Stream[Answer],
    work: Callable[[Request], Coroutine[Any, Any, None]],
) -> None:
    """Starts `work`, which ends with `Stream.answer`, on each request as there are places, and waits for all.

    Raises what reading raised (RequestError for bytes that are no message, UnauthorizedError for a revoked token) once
    everything before it is answered.
    """
    unreadable: IsthmusError | None = None
    async with asyncio.TaskGroup() as group:
        try:
            async for request in requests:
                await stream.enter()
                group.create_task(work(request))
        except IsthmusError as error:  # raising it here would cancel the requests that run
            unreadable = error
    if unreadable is not None:
        raise unreadable
