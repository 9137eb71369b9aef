"""Requests of version 2: a packet by itself is answered like a bitstream, and a base with what it can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.frame import Frame, FrameType, Packet
from shared.codec.frame_codec import FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.encoder import Encoder
from shared.errors import (
    BundleMismatchError,
    ChecksumError,
    CorruptPayloadError,
    RequestError,
    StreamTooLargeError,
    UnknownTaskError,
)
from shared.types import Analysis, Wanted
from support.service import GatedBaseModel, OneBundle
from support.tasks import write_task

ALL = Wanted()
GRID, QUALITY = (2, 2), 50  # of the tiny bundle


class Packets:
    """Makes packets of a bundle's codec."""

    def __init__(self, codec: LatentCodec, fingerprint: bytes) -> None:
        self.latents, self._codec, self._mark = codec, FrameCodec(codec), fingerprint

    def latent(self, seed: int, grid: tuple[int, int] = GRID) -> Latent:
        rng = np.random.default_rng(seed)
        v = rng.integers(-3, 4, self.latents.path.v_size).astype(np.int32)
        return Latent(v, rng.integers(-3, 4, (self.latents.channels, *grid)).astype(np.int32), grid, QUALITY)

    def whole(self, seed: int = 0, grid: tuple[int, int] = GRID, mark: bytes | None = None) -> bytes:
        frame = Frame(FrameType.I, QUALITY, True, True, self._codec.encode(self.latent(seed, grid)))
        return Packet(mark or self._mark, frame, None if grid == GRID else grid).pack()

    def base(self, seed: int = 0) -> bytes:
        frame = Frame(FrameType.I, QUALITY, True, False, self._codec.encode(self.latent(seed).base))
        return Packet(self._mark, frame).pack()

    def v1(self, seed: int = 0) -> bytes:
        latent = self.latent(seed)
        assert latent.z is not None
        return Bitstream(self._mark, QUALITY, *GRID, *self.latents.encode(latent.v, latent.z, QUALITY)).pack()


@pytest.fixture(scope="module")
def added(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a task `mood`, which no base answers."""
    bundle = Bundle.open(tiny_bundle)
    folder = write_task(tiny_bundle, tmp_path_factory.mktemp("added") / "mood")
    return bundle.with_added(bundle.read_added(folder))


@pytest.fixture
def packets(encoder: Encoder, bundle: Bundle) -> Packets:
    return Packets(encoder.codec, bundle.fingerprint)


@pytest.fixture
def model(encoder: Encoder) -> GatedBaseModel:
    return GatedBaseModel(encoder.codec, frozenset({"classification"}))


@pytest.fixture
async def pipeline(
    added: Bundle, encoder: Encoder, model: GatedBaseModel, settings: PipelineSettings
) -> AsyncIterator[Pipeline]:
    made = Pipeline(OneBundle(added, model, encoder), settings)
    yield made
    model.gate.set()
    await made.close()


async def test_a_packet_is_answered_like_a_bitstream(pipeline: Pipeline, packets: Packets) -> None:
    data = packets.whole()
    analysis = await pipeline.analyze(data, ALL, "one")
    assert set(analysis.results) == {"classification", "mood"}
    assert analysis.warnings == ()
    size = analysis.bytes
    assert (size.b_v + size.b_z, size.total) == (len(data) - 11, len(data))
    assert size.b_v == FrameCodec(packets.latents).v_bytes(packets.latent(0).v, QUALITY) > 0
    assert size.bits_per_pixel == 8 * len(data) / 64**2


async def test_a_base_is_answered_with_what_it_can_and_names_the_rest(
    pipeline: Pipeline, packets: Packets, model: GatedBaseModel
) -> None:
    data = packets.base()
    analysis = await pipeline.analyze(data, ALL, "base")
    assert set(analysis.results) == {"classification"}
    [warning] = analysis.warnings
    assert "only the base" in warning
    assert warning.endswith(": mood")
    assert (analysis.bytes.b_v, analysis.bytes.b_z) == (len(data) - 11, 0)
    assert (model.batches, model.bases) == ([], [1])
    named = await pipeline.analyze(data, Wanted.same(["classification"], 1), "named")
    assert named.warnings == ()


async def test_what_a_base_cannot_answer_is_refused_when_it_is_named(
    pipeline: Pipeline, packets: Packets, model: GatedBaseModel
) -> None:
    with pytest.raises(RequestError, match=r"does not answer mood; send the whole image"):
        await pipeline.analyze(packets.base(), Wanted.same(["classification", "mood"], 1), "a")
    with pytest.raises(UnknownTaskError):
        await pipeline.analyze(packets.base(), Wanted.same(["nope"], 1), "a")
    model.base_tasks = frozenset()
    with pytest.raises(RequestError, match="none of this bundle's tasks"):
        await pipeline.analyze(packets.base(), ALL, "a")
    assert (model.batches, model.bases) == ([], [])


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (Frame(FrameType.P, QUALITY, True, True, b"abc"), "P"),
        (Frame(FrameType.S, QUALITY, False, False, b""), "S"),
        (Frame(FrameType.I, QUALITY, False, True, b"abc"), "I refinement"),
    ],
)
async def test_frames_that_need_another_one_are_refused(
    pipeline: Pipeline, bundle: Bundle, frame: Frame, name: str
) -> None:
    data = Packet(bundle.fingerprint, frame, None, bytes(8)).pack()
    with pytest.raises(RequestError, match=f"a frame {name} needs another frame.*in a session"):
        await pipeline.analyze(data, ALL, "a")


async def test_packets_that_are_refused(pipeline: Pipeline, packets: Packets, bundle: Bundle) -> None:
    cases: list[tuple[bytes, type[Exception], str]] = [
        (packets.whole(mark=b"\xde\xad\xbe\xef"), BundleMismatchError, "deadbeef"),
        (packets.whole(grid=(40, 40)), StreamTooLargeError, "40 x 40"),
        (packets.whole()[:-1], ChecksumError, "CRC"),
        (
            Packet(bundle.fingerprint, Frame(FrameType.I, 9, True, True, b"")).pack(),
            RequestError,
            "quality 9",
        ),
        (
            Packet(bundle.fingerprint, Frame(FrameType.I, QUALITY, True, True, b"\xff" * 40)).pack(),
            CorruptPayloadError,
            "damaged",
        ),
    ]
    for data, error, text in cases:
        with pytest.raises(error, match=text):
            await pipeline.analyze(data, ALL, "a")


async def test_both_versions_and_bases_share_a_batch(
    pipeline: Pipeline, packets: Packets, model: GatedBaseModel
) -> None:
    model.gate.clear()
    first: asyncio.Task[Any] = asyncio.create_task(pipeline.analyze(packets.v1(), ALL, "first"))
    await asyncio.to_thread(model.entered.wait, 30)
    # Those that come meanwhile form the next batch, the damaged one without a result.
    bad = Packet(packets._mark, Frame(FrameType.I, QUALITY, True, True, b"\xff" * 40)).pack()
    rest = [packets.v1(1), packets.whole(2), packets.base(3), bad, packets.whole(4), packets.base(5)]
    waiting = [asyncio.create_task(pipeline.analyze(data, ALL, f"n{i}")) for i, data in enumerate(rest)]
    while pipeline.waiting < len(rest):
        await asyncio.sleep(0)
    model.gate.set()
    outcomes = await asyncio.gather(first, *waiting, return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Analysis] * 4 + [CorruptPayloadError] + [Analysis] * 2
    assert (model.batches, model.bases) == ([1, 3], [2])
