"""Packed bytes -> Analysis: what is checked before any work, and that a bad neighbour costs nobody an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cloud.pipeline import Pipeline
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.errors import (
    BundleMismatchError,
    ChecksumError,
    CorruptPayloadError,
    DeadlineError,
    NotABitstreamError,
    NotAnImageError,
    OverloadedError,
    RequestError,
    StreamTooLargeError,
    UnknownTaskError,
)
from shared.process.auth import Caller, Gate, Identity, set_caller
from shared.types import Analysis, TaskQuery, Wanted
from support.service import GatedModel, png, until

ALL = Wanted()


def changed(data: bytes, **fields: Any) -> bytes:
    """The same stream with other fields, and a CRC that fits."""
    return replace(Bitstream.unpack(data), **fields).pack()


async def test_an_answer_has_every_field(pipeline: Pipeline, packed_1: list[bytes], bundle: Bundle) -> None:
    analysis = await pipeline.analyze(packed_1[0], Wanted(top_k=2), "one")
    stream = Bitstream.unpack(packed_1[0])
    assert analysis.request_id == "one"
    assert (analysis.bundle, analysis.fingerprint, analysis.quality) == (
        bundle.manifest.name,
        bundle.manifest.fingerprint[:8],
        stream.quality,
    )
    assert [best.label for best in analysis.results["classification"].top] == ["red", "green"]
    size = analysis.bytes
    assert (size.b_v, size.b_z, size.total) == (len(stream.b_v), len(stream.b_z), len(packed_1[0]))
    assert size.bits_per_pixel == 8 * len(packed_1[0]) / 64**2
    times = analysis.times
    assert all(t is not None and t >= 0 for t in (times.queue_ms, times.decode_ms, times.tails_ms))
    assert times.front_ms is None
    assert analysis.captured_at is None
    assert analysis.warnings == ()


async def test_the_capture_time_is_returned_and_is_a_part_of_the_request(
    pipeline: Pipeline, packed: list[bytes], model: GatedModel
) -> None:
    when = datetime(2026, 11, 22, 13, tzinfo=UTC)
    for _ in range(2):
        analysis = await pipeline.analyze(packed[0], ALL, "timed", captured_at=when)
        assert analysis.captured_at == when
    assert len(model.batches) == 1
    with pytest.raises(RequestError, match="used before"):
        await pipeline.analyze(packed[0], ALL, "timed")
    image = await pipeline.analyze_image(png(1), ALL, "image", captured_at=when)
    assert image.captured_at == when


async def test_a_swap_of_bundles_leaves_running_requests_with_theirs(
    pipeline: Pipeline, packed: list[bytes], model: GatedModel, bundle: Bundle
) -> None:
    model.gate.clear()
    running = asyncio.create_task(pipeline.analyze(packed[0], ALL, "running"))
    await asyncio.to_thread(model.entered.wait, 30)
    # Another bundle altogether: another name and another fingerprint.
    manifest = bundle.manifest.model_copy(update={"name": "next", "fingerprint": "00" * 32})
    pipeline.bundles.swap(Bundle(bundle.path, manifest), model)
    assert pipeline.infos()[0].name == "next"
    model.gate.set()
    analysis = await running
    assert (analysis.bundle, analysis.fingerprint) == (bundle.manifest.name, bundle.fingerprint.hex())
    with pytest.raises(BundleMismatchError, match="bundle 00000000 is loaded"):
        await pipeline.analyze(packed[0], ALL, "later")


async def test_an_image_gets_the_answer_of_its_bitstream(
    pipeline: Pipeline, packed: list[bytes], model: GatedModel
) -> None:
    ours = await pipeline.analyze_image(png(0), ALL, "image")
    assert ours.bytes.total == len(packed[0])
    assert ours.times.front_ms is not None
    # The id stands for the bitstream that the image became: sent as such, it is a repeat.
    assert (await pipeline.analyze(packed[0], ALL, "image")).results == ours.results
    assert len(model.batches) == 1


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda d: b"hello", NotABitstreamError, "0x68"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), ChecksumError, "CRC"),
        (lambda d: changed(d, fingerprint=b"\xde\xad\xbe\xef"), BundleMismatchError, "deadbeef.*{own}"),
        (lambda d: changed(d, quality=99), RequestError, "quality 99"),
        (lambda d: changed(d, h=128, w=128), StreamTooLargeError, "128 x 128"),
        (lambda d: changed(d, b_v=b"\xff" * 40), CorruptPayloadError, "damaged"),
    ],
)
async def test_bad_streams(
    pipeline: Pipeline,
    packed_1: list[bytes],
    bundle: Bundle,
    model: GatedModel,
    spoil: Callable[[bytes], bytes],
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text.format(own=bundle.fingerprint.hex())):
        await pipeline.analyze(spoil(packed_1[0]), ALL, "bad")
    assert model.batches == []
    # The id of a refused request is free again.
    await pipeline.analyze(packed_1[0], ALL, "bad")


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a b", "a\n"])
async def test_bad_request_ids(pipeline: Pipeline, packed: list[bytes], request_id: str) -> None:
    with pytest.raises(RequestError, match="request id"):
        await pipeline.analyze(packed[0], ALL, request_id)


async def test_unknown_and_doubled_tasks(pipeline: Pipeline, packed: list[bytes], model: GatedModel) -> None:
    known = TaskQuery(name="classification")
    with pytest.raises(UnknownTaskError, match=r"'nope'.*classification"):
        await pipeline.analyze(packed[0], Wanted(tasks=(known, TaskQuery(name="nope"))), "a")
    with pytest.raises(RequestError, match="twice"):
        await pipeline.analyze(packed[0], Wanted(tasks=(known, known)), "a")
    with pytest.raises(UnknownTaskError):
        await pipeline.analyze_image(b"not read", Wanted(tasks=(TaskQuery(name="nope"),)), "a")
    assert model.batches == []


async def test_what_is_no_image(pipeline: Pipeline) -> None:
    with pytest.raises(NotAnImageError):
        await pipeline.analyze_image(b"hello", ALL, "a")


async def test_a_damaged_neighbour_costs_nobody_an_answer(
    make_pipeline: Any, packed_1: list[bytes], model: GatedModel
) -> None:
    async with make_pipeline(batch_max=4, batch_wait_ms=20_000) as pipeline:
        streams = [packed_1[0], changed(packed_1[1], b_v=b"\xff" * 40), packed_1[2], packed_1[3]]
        outcomes = await asyncio.gather(
            *(pipeline.analyze(data, ALL, f"n{i}") for i, data in enumerate(streams)), return_exceptions=True
        )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Analysis, CorruptPayloadError, Analysis, Analysis]
    assert model.batches == [3]


async def test_a_whole_batch_of_damaged_streams(
    make_pipeline: Any, packed_1: list[bytes], model: GatedModel
) -> None:
    async with make_pipeline(batch_max=2, batch_wait_ms=20_000) as pipeline:
        outcomes = await asyncio.gather(
            *(pipeline.analyze(changed(packed_1[i], b_v=b"\xff" * 40), ALL, f"n{i}") for i in range(2)),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [CorruptPayloadError] * 2
    assert model.batches == []


async def test_a_deadline_takes_the_request_out_of_the_queue(
    make_pipeline: Any, packed: list[bytes], model: GatedModel
) -> None:
    async with make_pipeline(deadline_ms=20_000) as pipeline:
        model.gate.clear()
        running = asyncio.create_task(pipeline.analyze(packed[0], ALL, "running"))
        await asyncio.to_thread(model.entered.wait, 30)
        with pytest.raises(DeadlineError, match="50 ms"):
            await pipeline.analyze(packed[1], ALL, "late", deadline_s=0.05)
        model.gate.set()
        await running
        # The same id again: it was never worked on, and is now.
        await pipeline.analyze(packed[1], ALL, "late")
    assert model.batches == [1, 1]


async def test_the_settings_deadline_caps_the_clients(
    make_pipeline: Any, packed: list[bytes], model: GatedModel
) -> None:
    async with make_pipeline(deadline_ms=50) as pipeline:
        model.gate.clear()
        with pytest.raises(DeadlineError, match="50 ms"):
            await pipeline.analyze(packed[0], ALL, "late", deadline_s=1e6)


async def test_overload(make_pipeline: Any, packed: list[bytes], model: GatedModel) -> None:
    async with make_pipeline(queue_max=1) as pipeline:
        model.gate.clear()
        tasks = [asyncio.create_task(pipeline.analyze(packed[0], ALL, "running"))]
        await asyncio.to_thread(model.entered.wait, 30)
        tasks.append(asyncio.create_task(pipeline.analyze(packed[1], ALL, "waits")))
        await until(lambda: pipeline.waiting == 1)
        with pytest.raises(OverloadedError):
            await pipeline.analyze(packed[2], ALL, "turned-away")
        model.gate.set()
        await asyncio.gather(*tasks)


async def test_tokens_share_a_full_queue(make_pipeline: Any, packed: list[bytes], model: GatedModel) -> None:
    gate = Gate()

    async def analyze(name: str, number: int) -> str:
        set_caller(Caller(Identity(name, frozenset({"analyze"})), gate))
        await pipeline.analyze(packed[number % 8], ALL, f"{name}{number}")
        order.append(name)
        return name

    order: list[str] = []
    async with make_pipeline(queue_max=4, batch_max=1) as pipeline:
        model.gate.clear()
        running = asyncio.create_task(analyze("first", 0))
        await asyncio.to_thread(model.entered.wait, 30)
        many = [asyncio.create_task(analyze("many", number)) for number in range(4)]
        await until(lambda: pipeline.waiting == 4)
        with pytest.raises(OverloadedError) as refused:
            await analyze("many", 5)
        assert refused.value.retry_after_s
        few = [asyncio.create_task(analyze("few", number)) for number in range(2)]
        await until(lambda: pipeline.waiting == 6)
        model.gate.set()
        await asyncio.gather(running, *many, *few)
    assert order[:5].count("few") == 2


async def test_images_wait_for_the_encoder_in_a_bounded_queue(
    make_pipeline: Any, monkeypatch: pytest.MonkeyPatch, encoder: Any
) -> None:
    started, go = threading.Event(), threading.Semaphore(0)

    def slow(*arguments: Any) -> Any:
        started.set()
        assert go.acquire(timeout=30)
        return encode(*arguments)

    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", slow)
    async with make_pipeline(queue_max=1) as pipeline:
        tasks = [asyncio.create_task(pipeline.analyze_image(png(0), ALL, "running"))]
        await asyncio.to_thread(started.wait, 30)
        given_up = asyncio.create_task(pipeline.analyze_image(png(1), ALL, "waits"))
        await until(lambda: len(pipeline._encoding._queue) == 1)
        with pytest.raises(OverloadedError):
            await pipeline.analyze_image(png(2), ALL, "turned-away")
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        tasks.append(asyncio.create_task(pipeline.analyze_image(png(3), ALL, "follows")))
        await until(lambda: len(pipeline._encoding._queue) == 1)
        for task in tasks:  # one by one: behind the encoder is a queue for one as well
            go.release()
            assert (await task).results


async def test_grids_are_not_mixed(
    make_pipeline: Any, packed: list[bytes], packed_1: list[bytes], encoder: Any, model: GatedModel
) -> None:
    stream = Bitstream.unpack(packed_1[0])
    codec = encoder.codec
    z = codec.decode(stream.b_v, stream.b_z, stream.h, stream.w)
    wide = z.repeat(2, axis=2)
    b_v, b_z = codec.encode(codec.decode_v(stream.b_v), wide)
    other = replace(stream, w=wide.shape[2], b_v=b_v, b_z=b_z).pack()
    async with make_pipeline(batch_max=4) as pipeline:
        model.gate.clear()
        first = asyncio.create_task(pipeline.analyze(packed[0], ALL, "first"))
        await asyncio.to_thread(model.entered.wait, 30)
        rest = [
            pipeline.analyze(data, ALL, f"{i}") for i, data in enumerate((packed[1], other, packed[2], other))
        ]
        tasks = [asyncio.create_task(one) for one in rest]
        await until(lambda: pipeline.waiting == 4)
        model.gate.set()
        await asyncio.gather(first, *tasks)
    assert model.batches == [1, 2, 2]
