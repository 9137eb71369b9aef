"""Request ids: a repeat is computed once, a failure may be tried again, memory is bounded."""

from __future__ import annotations

import asyncio

import pytest

from cloud.answer_cache import AnswerCache, bytes_of
from shared.errors import OverloadedError, RequestError
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.kinds.segmentation import ClassArea, SegmentationResult
from shared.maps import MapArray, MapPng
from shared.types import Analysis, ByteCount, TaskResult, Times


class Compute:
    """Counts its calls; each waits for `go`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.cancelled = 0
        self.error = error
        self.go = asyncio.Event()

    async def __call__(self) -> Analysis:
        self.calls += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return analysis(self.calls)


def analysis(b_v: int, **results: TaskResult) -> Analysis:
    return Analysis(
        request_id="a",
        bundle="b",
        fingerprint="00000000",
        quality=1,
        results=results,
        bytes=ByteCount(b_v=b_v, b_z=0, total=0, bits_per_pixel=0),
        times=Times(),
    )


async def test_a_repeat_gets_the_stored_answer() -> None:
    cache, compute = AnswerCache(4, 1 << 20), Compute()
    compute.go.set()
    first = await cache.get("a", b"1", compute)
    assert await cache.get("a", b"1", compute) is first
    assert compute.calls == 1


async def test_repeats_at_the_same_time_share_one_computation() -> None:
    cache, compute = AnswerCache(4, 1 << 20), Compute()
    tasks = [asyncio.create_task(cache.get("a", b"1", compute)) for _ in range(5)]
    await asyncio.sleep(0)
    compute.go.set()
    answers = await asyncio.gather(*tasks)
    assert compute.calls == 1
    assert all(answer is answers[0] for answer in answers)


@pytest.mark.parametrize("running", [True, False])
async def test_the_same_id_for_another_request_is_an_error(running: bool) -> None:
    cache, compute = AnswerCache(4, 1 << 20), Compute()
    first = asyncio.create_task(cache.get("a", b"1", compute))
    await asyncio.sleep(0)
    if not running:
        compute.go.set()
        await first
    with pytest.raises(RequestError, match="used before"):
        await cache.get("a", b"2", compute)
    compute.go.set()
    await first
    assert compute.calls == 1


async def test_a_failure_is_not_kept() -> None:
    cache, compute = AnswerCache(4, 1 << 20), Compute(OverloadedError("full"))
    compute.go.set()
    with pytest.raises(OverloadedError):
        await cache.get("a", b"1", compute)
    compute.error = None
    assert (await cache.get("a", b"2", compute)).bytes.b_v == 2


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others() -> None:
    cache, compute = AnswerCache(4, 1 << 20), Compute()
    first, second = (asyncio.create_task(cache.get("a", b"1", compute)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert compute.cancelled == 0
    compute.go.set()
    assert (await second).bytes.b_v == 1


async def test_when_all_give_up_it_is_cancelled_and_may_be_asked_again() -> None:
    cache, compute = AnswerCache(4, 1 << 20), Compute()
    tasks = [asyncio.create_task(cache.get("a", b"1", compute)) for _ in range(2)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert compute.cancelled == 1
    compute.go.set()
    assert (await cache.get("a", b"other content", compute)).bytes.b_v == 2


async def test_the_least_recently_used_answer_goes_first() -> None:
    cache, compute = AnswerCache(2, 1 << 20), Compute()
    compute.go.set()
    for request_id in ("a", "b", "a", "c"):
        await cache.get(request_id, b"1", compute)
    assert compute.calls == 3
    await cache.get("a", b"1", compute)
    assert compute.calls == 3
    await cache.get("b", b"1", compute)
    assert compute.calls == 4


def with_map(size: int) -> Analysis:
    packed = MapArray(dtype="uint8", shape=(1, 1), data=bytes(size))
    return analysis(0, areas=SegmentationResult(areas=(), map=packed))


async def test_the_answers_together_have_a_bound_of_bytes() -> None:
    cache, calls = AnswerCache(100, 100_000), []

    async def ask(request_id: str, size: int) -> None:
        async def compute() -> Analysis:
            calls.append(request_id)
            return with_map(size)

        await cache.get(request_id, b"1", compute)

    for request_id in ("a", "b", "a", "c"):  # 40 kB each: two have room, and b is the older one
        await ask(request_id, 40_000)
    assert calls == ["a", "b", "c"]
    await ask("a", 40_000)
    assert calls == ["a", "b", "c"]
    await ask("b", 40_000)
    assert calls == ["a", "b", "c", "b"]
    # One that is larger than the bound is answered, and takes the place of no other.
    for _ in range(2):
        await ask("large", 100_000)
    assert calls[4:] == ["large", "large"]
    await ask("b", 40_000)
    assert calls[6:] == []
    # What has gone takes no room any more.
    for i in range(20):
        await ask(f"small {i}", 100)
    await ask("small 0", 100)
    assert len(calls) == 26


async def test_an_answer_that_many_wait_for_is_counted_once() -> None:
    cache, compute = AnswerCache(100, 2 * bytes_of(analysis(0))), Compute()
    compute.go.set()
    await asyncio.gather(*(cache.get("a", b"1", compute) for _ in range(9)))
    await cache.get("b", b"1", compute)
    await cache.get("a", b"1", compute)
    assert compute.calls == 2


def test_the_bytes_of_an_answer_are_those_of_its_memory() -> None:
    best = (ClassScore(label="a", index=i, score=i / 100) for i in range(100))
    areas = (ClassArea(label="a", index=i, share=i / 100) for i in range(17))
    png = SegmentationResult(areas=tuple(areas), map=MapPng.of(bytes(30_000)))
    plain = bytes_of(analysis(0))
    assert bytes_of(analysis(0, a=ClassificationResult(top=tuple(best)))) > plain + 50_000  # as measured
    assert bytes_of(analysis(0, a=png)) > plain + 40_000
    assert bytes_of(with_map(50_000)) >= plain + 50_000
