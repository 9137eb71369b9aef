"""The batcher alone: what goes together, what is turned away, what is dropped, who gets which error."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from cloud.engine.batcher import Batcher
from cloud.engine.fair_queue import Share
from shared.errors import CorruptPayloadError, NotReadyError, OverloadedError
from support.service import until


class Work:
    """Doubles numbers once the gate is open; an exception as an item is given back as that item's result."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[Any]] = []

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.gate.wait(30)
        if "boom" in items:
            raise RuntimeError("boom")
        return [item if isinstance(item, Exception) else item * 2 for item in items]


Make = Callable[..., AbstractAsyncContextManager[Batcher[Any, Any]]]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def make(work: Work) -> Make:
    @asynccontextmanager
    async def make(
        batch_max: int = 4, wait_ms: float = 0, queue_max: int = 8, key: Callable[[Any], Any] = lambda item: 0
    ) -> AsyncIterator[Batcher[Any, Any]]:
        batcher: Batcher[Any, Any] = Batcher(work, key, batch_max, wait_ms, queue_max)
        try:
            yield batcher
        finally:
            work.gate.set()
            await batcher.close()

    return make


async def busy(batcher: Batcher[Any, Any], work: Work) -> asyncio.Task[Any]:
    """Gives the worker a batch of its own that lasts until the gate opens, so that all else waits."""
    task = asyncio.create_task(batcher.submit(-1))
    await asyncio.to_thread(work.entered.wait, 30)
    return task


async def waiting(batcher: Batcher[Any, Any], count: int) -> None:
    await until(lambda: batcher.waiting == count)


async def test_what_arrives_during_a_batch_forms_the_next_in_order(make: Make, work: Work) -> None:
    async with make() as batcher:
        first = await busy(batcher, work)
        rest = [asyncio.create_task(batcher.submit(i)) for i in range(6)]
        await waiting(batcher, 6)
        work.gate.set()
        assert [(await task)[0] for task in (first, *rest)] == [-2, 0, 2, 4, 6, 8, 10]
    assert work.batches == [[-1], [0, 1, 2, 3], [4, 5]]


async def test_what_the_loop_had_no_time_to_take_in_joins_the_next_batch(make: Make, work: Work) -> None:
    """A request takes some turns of the event loop from its bytes to the queue."""

    async def arrives(item: int) -> Any:
        for _ in range(3):
            await asyncio.sleep(0)
        return await batcher.submit(item)

    work.gate.set()
    async with make() as batcher:
        await asyncio.gather(batcher.submit(0), arrives(1), arrives(2))
    assert work.batches == [[0, 1, 2]]


async def test_full_batches_follow_while_the_event_loop_is_busy(make: Make, work: Work) -> None:
    async with make(queue_max=9) as batcher:
        first = await busy(batcher, work)
        rest = [asyncio.create_task(batcher.submit(i)) for i in range(9)]
        await waiting(batcher, 9)
        work.gate.set()
        until_s = time.monotonic() + 30
        while len(work.batches) < 3:  # on purpose without a turn for the loop
            assert time.monotonic() < until_s
        assert not first.done()
        assert [(await task)[0] for task in (first, *rest)] == [-2, *range(0, 18, 2)]
    assert work.batches == [[-1], [0, 1, 2, 3], [4, 5, 6, 7], [8]]


async def test_nothing_is_lost_while_the_loop_and_the_worker_use_the_queue(work: Work) -> None:
    """Callers come, give up and are answered while the worker takes batch after batch."""
    work.gate.set()
    batcher: Batcher[int, int] = Batcher(
        work,
        lambda item: item % 2,
        batch_max=3,
        wait_ms=0,
        queue_max=1000,
        share=lambda item: Share(f"s{item % 5}", 1 + item % 5),
    )

    async def caller(number: int) -> int:
        """How many of its items were answered."""
        answered = 0
        for item in range(number, 4000, 40):
            asked = asyncio.ensure_future(batcher.submit(item))
            await asyncio.sleep(0)
            if item % 7 == 0:
                asked.cancel()
            try:
                assert (await asked)[0] == 2 * item
                answered += 1
            except asyncio.CancelledError:
                pass
        return answered

    async with asyncio.timeout(60):
        answered = sum(await asyncio.gather(*map(caller, range(40))))
        await batcher.close()
    assert answered >= 4000 - len(range(0, 4000, 7))
    done = [item for batch in work.batches for item in batch]
    assert len(done) == len(set(done)) >= answered
    assert batcher.waiting == 0


async def test_only_items_of_one_key_share_a_batch(make: Make, work: Work) -> None:
    async with make(key=lambda item: item % 2) as batcher:
        first = await busy(batcher, work)
        rest = [asyncio.create_task(batcher.submit(i)) for i in range(4)]
        await waiting(batcher, 4)
        work.gate.set()
        await asyncio.gather(first, *rest)
    assert work.batches[1:] == [[0, 2], [1, 3]]


async def test_the_first_waits_for_more_but_not_beyond_a_full_batch(make: Make, work: Work) -> None:
    work.gate.set()
    async with make(batch_max=2, wait_ms=20_000) as batcher, asyncio.timeout(10):
        await asyncio.gather(batcher.submit(1), batcher.submit(2))
    assert work.batches == [[1, 2]]


async def test_a_batch_starts_when_its_oldest_has_waited(make: Make, work: Work) -> None:
    work.gate.set()
    async with make(wait_ms=30) as batcher:
        _, queue_ms = await batcher.submit(1)
    assert 25 < queue_ms < 5_000


async def test_a_full_queue_turns_away_and_opens_again(make: Make, work: Work) -> None:
    async with make(queue_max=2) as batcher:
        first = await busy(batcher, work)
        rest = [asyncio.create_task(batcher.submit(i)) for i in range(2)]
        await waiting(batcher, 2)
        with pytest.raises(OverloadedError, match="2 requests are waiting"):
            await batcher.submit(3)
        work.gate.set()
        await asyncio.gather(first, *rest)
        assert (await batcher.submit(4))[0] == 8


async def test_a_refusal_says_when_what_waits_is_done(make: Make, work: Work) -> None:
    async with make(queue_max=3, batch_max=1) as batcher:
        batcher._item_s = 2.0
        first = await busy(batcher, work)
        rest = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
        await waiting(batcher, 3)
        with pytest.raises(OverloadedError) as refused:
            await batcher.submit(3)
        assert refused.value.retry_after_s == 6.0
        work.gate.set()
        await asyncio.gather(first, *rest)
        assert batcher._item_s < 2.0  # it follows what batches take


async def test_a_customer_with_a_full_queue_does_not_keep_another_waiting(work: Work) -> None:
    shares = {number: Share("busy" if number < 100 else "rare") for number in range(-1, 200)}
    batcher: Batcher[int, int] = Batcher(
        work, lambda _: 0, batch_max=2, wait_ms=0, queue_max=8, share=lambda item: shares[item]
    )
    first = await busy(batcher, work)
    rest = [asyncio.create_task(batcher.submit(number)) for number in range(8)]
    await waiting(batcher, 8)
    with pytest.raises(OverloadedError):
        await batcher.submit(50)
    late = [asyncio.create_task(batcher.submit(number)) for number in (100, 101)]
    await waiting(batcher, 10)
    work.gate.set()
    await asyncio.gather(first, *rest, *late)
    await batcher.close()
    assert [sorted(batch) for batch in work.batches[1:3]] == [[0, 100], [1, 101]]


async def test_batches_are_short_while_several_send(work: Work) -> None:
    work.gate.set()
    batcher: Batcher[int, int] = Batcher(
        work,
        lambda _: 0,
        batch_max=8,
        wait_ms=20_000,
        queue_max=99,
        share=lambda item: Share("odd" if item % 2 else "even"),
        shared_ms=50,
    )
    await asyncio.gather(*(batcher.submit(2 * number) for number in range(8)))
    batcher._item_s = 0.02
    async with asyncio.timeout(20):
        await asyncio.gather(batcher.submit(1), batcher.submit(2))  # 40 ms are full enough
        batcher._shared_until = 0.0  # and long after the other one sent last
        await asyncio.gather(*(batcher.submit(2 * number) for number in range(8)))
    await batcher.close()
    assert [len(batch) for batch in work.batches] == [8, 2, 8]


async def test_a_short_batch_is_as_large_as_what_runs_side_by_side(work: Work) -> None:
    work.gate.set()
    batcher: Batcher[int, int] = Batcher(
        work,
        lambda _: 0,
        batch_max=8,
        wait_ms=20_000,
        queue_max=99,
        share=lambda item: Share("odd" if item % 2 else "even"),
        shared_ms=50,
        abreast=lambda _: 3,
    )
    batcher._shared_until = float("inf")
    batcher._sender = "even"
    async with asyncio.timeout(20):
        for item_s, size in ((0.2, 3), (0.01, 3), (0.008, 6), (0.001, 8)):
            batcher._item_s = item_s
            await asyncio.gather(*(batcher.submit(2 * number) for number in range(size)))
    await batcher.close()
    assert [len(batch) for batch in work.batches] == [3, 3, 6, 8]


async def test_a_full_lane_leaves_another_its_places(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(
        work, lambda item: item % 2, batch_max=4, wait_ms=0, queue_max=2, lane=lambda item: item % 2
    )
    first = await busy(batcher, work)
    rest = [asyncio.create_task(batcher.submit(number)) for number in (0, 2, 1)]
    await waiting(batcher, 3)
    with pytest.raises(OverloadedError):
        await batcher.submit(4)
    rest.append(asyncio.create_task(batcher.submit(3)))
    await waiting(batcher, 4)
    work.gate.set()
    await asyncio.gather(first, *rest)
    await batcher.close()


async def test_what_is_given_up_is_never_worked_on_and_frees_its_place(make: Make, work: Work) -> None:
    async with make(queue_max=2) as batcher:
        first = await busy(batcher, work)
        given_up = asyncio.create_task(batcher.submit("given up"))
        late = asyncio.create_task(asyncio.wait_for(batcher.submit("late"), 0.01))
        await waiting(batcher, 2)
        given_up.cancel()
        await asyncio.gather(given_up, late, return_exceptions=True)
        assert late.exception().__class__ is TimeoutError
        kept = asyncio.create_task(batcher.submit(5))
        await waiting(batcher, 1)
        work.gate.set()
        await first
        assert (await kept)[0] == 10
    assert work.batches == [[-1], [5]]


async def test_what_is_given_up_as_the_worker_falls_free_does_not_stop_the_queue(
    make: Make, work: Work
) -> None:
    def stuck(number: int, frame: object) -> None:
        raise AssertionError("the event loop is stuck")  # asyncio's own timeouts could not say so

    before = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(20)
    try:
        async with make() as batcher:
            first = await busy(batcher, work)
            given_up = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
            await waiting(batcher, 3)
            work.gate.set()
            # The moment that matters: the batch has ended and the queue's task is to run next, before the callers
            # that are cancelled now can take their items out.
            batcher._thread.submit(int).result()
            await asyncio.sleep(0)
            for task in given_up:
                task.cancel()
            assert (await first)[0] == -2
            assert (await batcher.submit(7))[0] == 14
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert work.batches == [[-1], [7]]


async def test_an_items_error_is_its_own(make: Make, work: Work) -> None:
    work.gate.set()
    async with make(batch_max=3, wait_ms=20_000) as batcher:
        good, bad, other = await asyncio.gather(
            batcher.submit(1),
            batcher.submit(CorruptPayloadError("bad")),
            batcher.submit(2),
            return_exceptions=True,
        )
    assert work.batches[0][0] == 1
    assert len(work.batches) == 1
    assert (good[0], other[0]) == (2, 4)
    assert isinstance(bad, CorruptPayloadError)


async def test_an_error_of_the_work_goes_to_its_batch_and_no_further(make: Make, work: Work) -> None:
    work.gate.set()
    async with make() as batcher:
        with pytest.raises(RuntimeError, match="boom"):
            await batcher.submit("boom")
        assert (await batcher.submit(2))[0] == 4


async def test_closing_finishes_what_waits_and_refuses_more(make: Make, work: Work) -> None:
    async with make() as batcher:
        first = await busy(batcher, work)
        second = asyncio.create_task(batcher.submit(1))
        await waiting(batcher, 1)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError):
            await batcher.submit(2)
        work.gate.set()
        await closing
        assert [(await first)[0], (await second)[0]] == [-2, 2]
