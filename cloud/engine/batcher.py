"""Gathers single requests into batches for a blocking worker. Knows no protobuf, no image and no model.

    submit(item) -> queue (bounded, shared fairly) -> batch of one key -> work(batch) in one thread -> each its result

A batch starts when it is full, or when its first item has waited `wait_ms`, and never while another one is running:
what arrives meanwhile forms the next, at once where that is full, and otherwise once the event loop, which the worker
may have kept from running, has taken in what there is. While several shares send, it is kept to about `shared_ms`:
what another one sends would have to wait for its end. Who comes first and who may wait is decided by
`cloud.engine.fair_queue`. Items that their caller has given up (cancelled, or past its deadline, which asyncio turns
into a cancellation) leave the queue at once and are never worked on.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from cloud.engine.fair_queue import NOBODYS, FairQueue, Share
from shared.errors import DeadlineError, IsthmusError, NotReadyError, OverloadedError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    lane: Hashable
    key: Hashable
    share: Share
    since: float
    done: asyncio.Future[tuple[Result, float]]


@dataclass(frozen=True)
class Pace:
    """How batches of a kind are formed: items in one, and how long its first one waits for more."""

    batch_max: int
    wait_ms: float


RATE_MEMORY = 0.7  # of an image's time, from batch to batch
SHARED_S = 2.0  # after two shares have sent in turn
IDLE_TURNS = 5  # of the event loop, from a request's bytes to its place in the queue


class Batcher(Generic[Item, Result]):
    """One queue and one worker thread.

    work: gets a batch of 1..batch_max items of one key, in the worker's thread; returns for each item, in order, its
    result or the exception that only this item gets. An exception that it raises goes to the whole batch.
    key: items with equal keys may share a batch. lane: `queue_max` items of each lane may wait. share: who an item is
    from, and gets a batch and a place in its turn. shared_ms: see the module. abreast: items like this one that take
    about as long together as one alone; a batch is not made smaller than that. pace: of batches of items like this one,
    in place of batch_max and wait_ms.
    Must be made and used in one event loop.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        key: Callable[[Item], Hashable],
        batch_max: int,
        wait_ms: float,
        queue_max: int,
        lane: Callable[[Item], Hashable] = lambda _: None,
        share: Callable[[Item], Share] = lambda _: NOBODYS,
        shared_ms: float = math.inf,
        abreast: Callable[[Item], int] = lambda _: 1,
        pace: Callable[[Item], Pace] | None = None,
    ) -> None:
        self._work, self._key, self._lane, self._share, self._abreast = work, key, lane, share, abreast
        same = Pace(batch_max, wait_ms)
        self._pace = pace or (lambda _: same)
        self._queue: FairQueue[_Waiting[Item, Result]] = FairQueue(queue_max)
        self._shared_s, self._shared_until, self._sender = shared_ms / 1e3, 0.0, ""
        self._item_s = 0.0  # how long an item of a batch takes, lately
        self._arrived = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._loop = asyncio.get_running_loop()
        self._running = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        """Items in the queue, without those that are being worked on."""
        return len(self._queue)

    def refusal(self, lane: Hashable, share: Share) -> IsthmusError | None:
        """What `submit` would raise at once now for such an item; None if it would take it."""
        if self._closing:
            return NotReadyError("the server is ending; send the request again")
        if self._queue.has_room(lane, share):
            return None
        waiting = self._queue.in_lane(lane)
        again_s = max(waiting * self._item_s, 0.1)
        return OverloadedError(f"{waiting} requests are waiting already; try again later", again_s)

    async def submit(self, item: Item) -> tuple[Result, float]:
        """The item's result, and how long it waited for its batch, in ms.

        Raises OverloadedError when the queue is full, with the time in which what waits now is done; NotReadyError when
        the batcher is closing; and what `work` gave.
        """
        lane, share = self._lane(item), self._share(item)
        if (error := self.refusal(lane, share)) is not None:
            raise error
        done: asyncio.Future[tuple[Result, float]] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(item, lane, self._key(item), share, time.perf_counter(), done)
        self._queue.put(waiting)
        if share.name != self._sender:
            self._shared_until = waiting.since + SHARED_S if self._sender else 0.0
            self._sender = share.name
        self._arrived.set()
        try:
            return await done
        finally:
            self._queue.discard(waiting)

    async def close(self) -> None:
        """Finish what waits, then end the thread. Submitting is refused from here on."""
        self._closing = True
        self._arrived.set()
        await self._running
        self._thread.shutdown()

    async def _run(self) -> None:
        while len(self._queue) or not self._closing:
            self._drop_given_up()
            if not len(self._queue):
                if self._closing:
                    break
                self._arrived.clear()
                await self._arrived.wait()
                continue
            batch = await self._gather()
            if batch:
                await self._loop.run_in_executor(self._thread, self._work_on, batch)

    def _drop_given_up(self) -> None:
        # Its caller would take a cancelled item out, but only when it next runs.
        self._queue.drop(lambda waiting: waiting.done.done())

    async def _gather(self) -> list[_Waiting[Item, Result]]:
        """The items whose turn it is, removed from the queue; empty where all were given up."""
        await self._take_in()
        first = self._queue.first()
        if first is None:
            return []
        pace = self._pace(first.item)
        until, most = first.since + pace.wait_ms / 1e3, self._most(first.item, pace.batch_max)
        while not self._closing and self._queue.count(first.key) < most:
            left = until - time.perf_counter()
            if left <= 0:
                break
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break
        self._drop_given_up()
        return self._queue.take(first.key, most)

    def _most(self, first: Item, batch_max: int) -> int:
        """The items of a batch that starts now."""
        if time.perf_counter() > self._shared_until or not self._item_s:
            return batch_max
        wanted = self._shared_s / self._item_s
        if wanted >= batch_max:
            return batch_max
        # Whole rounds: cores that wait for the last item of a batch gain nobody anything.
        abreast = max(1, self._abreast(first))
        return min(batch_max, max(1, int(wanted // abreast)) * abreast)

    async def _take_in(self) -> None:
        """Let the event loop run for as long as it brings new items."""
        turns, seen = 0, len(self._queue)
        while turns < IDLE_TURNS and not self._is_full():
            await asyncio.sleep(0)
            turns, seen = (turns + 1 if len(self._queue) == seen else 0), len(self._queue)

    def _is_full(self) -> bool:
        """Whether the batch whose turn it is has all that it takes."""
        first = self._queue.first()
        return first is not None and self._queue.count(first.key) >= self._pace(first.item).batch_max

    def _work_on(self, batch: list[_Waiting[Item, Result]]) -> None:
        """In the worker's thread: works on a batch, and on those that follow for as long as they are full."""
        while batch:
            started = time.perf_counter()
            results = self._results([waiting.item for waiting in batch])
            took = (time.perf_counter() - started) / len(batch)
            self._item_s = took if not self._item_s else RATE_MEMORY * self._item_s + (1 - RATE_MEMORY) * took
            self._loop.call_soon_threadsafe(_hand_over, batch, results, started)
            batch = self._next_full()

    def _results(self, items: list[Item]) -> Sequence[Result | Exception]:
        try:
            results = self._work(items)
            if len(results) != len(items):
                raise RuntimeError(f"work gave {len(results)} results for {len(items)} items")
            return results
        except Exception as error:  # handed to every caller of the batch; the queue must go on for the others
            return [error] * len(items)

    def _next_full(self) -> list[_Waiting[Item, Result]]:
        """The next batch where it can be no larger: the event loop, which is behind under load, need not form it."""
        self._drop_given_up()
        first = self._queue.first()
        if first is None:
            return []
        most = self._most(first.item, self._pace(first.item).batch_max)
        return self._queue.take(first.key, most) if self._queue.count(first.key) >= most else []


def _hand_over(
    batch: Sequence[_Waiting[Item, Result]], results: Sequence[Result | Exception], started: float
) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if waiting.done.done():
            continue
        if isinstance(result, Exception):
            waiting.done.set_exception(result)
        else:
            waiting.done.set_result((result, (started - waiting.since) * 1e3))


@asynccontextmanager
async def within(deadline_s: float | None, most_s: float) -> AsyncIterator[None]:
    """Cancels what runs inside when the time is over, which takes it out of every queue. Raises DeadlineError.

    deadline_s: from now; None, or more than `most_s`, means that.
    """
    deadline_s = most_s if deadline_s is None else min(deadline_s, most_s)
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError:
        raise DeadlineError(f"no answer within {deadline_s * 1e3:.0f} ms") from None
