"""Cached answers by request id, which make a repeated request harmless. Knows no image and no model."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import RequestError
from shared.frozen import Frozen
from shared.types import Analysis, TaskResult

# About the memory of an answer without its results, of one packet of a list in a result, and of a number.
_ANSWER_BYTES, _PACKET_BYTES, _NUMBER_BYTES = 4096, 1024, 32


@dataclass(eq=False)
class _Running:
    content: bytes
    task: asyncio.Future[Analysis]
    waiters: int = 0


class AnswerCache:
    """Computes a request that a client repeats once.

    The same id with the same content gives the stored answer, or joins the computation that still runs; with other
    content it is a RequestError. Failures are not cached. When all who wait for a computation have given up, it is
    cancelled. At most `kept` answers are held, and about `bytes_max` of memory; the least recently used go first. An
    answer that is larger by itself is not held.
    """

    def __init__(self, kept: int, bytes_max: int) -> None:
        self._kept, self._bytes_max = kept, bytes_max
        self._bytes = 0
        self._done: OrderedDict[str, tuple[bytes, Analysis]] = OrderedDict()
        self._running: dict[str, _Running] = {}

    def knows(self, request_id: str) -> bool:
        """Whether `get` needs no new computation for that id: a stored answer, or one that still runs."""
        return request_id in self._done or request_id in self._running

    async def get(
        self, request_id: str, content: bytes, compute: Callable[[], Awaitable[Analysis]]
    ) -> Analysis:
        """The answer to `request_id`, whose content has the digest `content`."""
        stored = self._done.get(request_id)
        if stored is not None:
            _check_same(request_id, stored[0], content)
            self._done.move_to_end(request_id)
            return stored[1]
        running = self._running.get(request_id)
        if running is None:
            task = asyncio.ensure_future(compute())
            running = self._running[request_id] = _Running(content, task)
        else:
            _check_same(request_id, running.content, content)
        running.waiters += 1
        try:
            answer = await asyncio.shield(running.task)
        finally:
            running.waiters -= 1
            if running.waiters == 0:
                running.task.cancel()  # does nothing to one that has ended
                if self._running.get(request_id) is running:
                    del self._running[request_id]
        self._store(request_id, content, answer)
        return answer

    def _store(self, request_id: str, content: bytes, answer: Analysis) -> None:
        size = bytes_of(answer)
        if request_id in self._done or size > self._bytes_max:  # another waiter stored it already
            return
        self._done[request_id] = (content, answer)
        self._bytes += size
        while len(self._done) > self._kept or self._bytes > self._bytes_max:
            _, (_, oldest) = self._done.popitem(last=False)
            self._bytes -= bytes_of(oldest)


def bytes_of(answer: Analysis) -> int:
    """About the memory that an answer takes."""
    return _ANSWER_BYTES + bytes_of_results(answer.results)


def bytes_of_results(results: Mapping[str, TaskResult]) -> int:
    """About the memory that results take."""
    return sum(_bytes_of(result) for result in results.values())


def _bytes_of(value: Any) -> int:
    """About the memory of a result or a part of one, whatever its kind."""
    if isinstance(value, Frozen):
        return sum(_bytes_of(part) for _, part in value)
    if isinstance(value, tuple):
        return sum(_bytes_of(part) + _PACKET_BYTES * isinstance(part, Frozen) for part in value)
    return len(value) if isinstance(value, str | bytes) else _NUMBER_BYTES


def _check_same(request_id: str, first: bytes, second: bytes) -> None:
    if first != second:
        raise RequestError(f"request id {request_id} was used before, for another request; choose a new one")
