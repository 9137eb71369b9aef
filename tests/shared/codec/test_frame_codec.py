"""Latents of frames to payloads and back: by themselves, given a reference, base alone, refinement, batches."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.engine.exact_torch import TorchBackend
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.errors import CorruptPayloadError, RequestError
from support.context_tensors import context_tensors
from support.random_codec import random_latents, random_tensors

PLAIN = random_tensors(11, n=4, v_size=5, grid=(3, 4))
TENSORS = PLAIN | context_tensors()
CODEC = FrameCodec(LatentCodec(TENSORS))
NO_CONTEXT = FrameCodec(LatentCodec(PLAIN))
INT32 = np.iinfo(np.int32)


def latent(seed: int, grid: tuple[int, int] = (3, 4), wild: float = 0.0) -> Latent:
    v, z = random_latents(PLAIN, 1, grid, seed=seed, wild=wild)
    return Latent(v[0], z[0], grid, 50)


def changed(old: Latent, seed: int, share: float = 0.1) -> Latent:
    """The latent of a frame soon after, with a v of its own."""
    rng = np.random.default_rng(seed)
    assert old.z is not None
    z = old.z + (rng.random(old.z.shape) < share) * rng.integers(-3, 4, old.z.shape)
    return Latent(old.v + rng.integers(-1, 2, old.v.shape), z.astype(np.int32), old.grid, old.quality)


def decoded(codec: FrameCodec, coded: Coded) -> Latent:
    (one,) = codec.decode([coded])
    assert isinstance(one, Latent), one
    return one


def assert_same(one: Latent, other: Latent) -> None:
    np.testing.assert_array_equal(one.v, other.v)
    np.testing.assert_array_equal(one.z, other.z)
    assert one.digest == other.digest


@given(st.integers(0, 10**6), st.tuples(st.integers(1, 6), st.integers(1, 6)), st.sampled_from([0.0, 0.3]))
@settings(deadline=None, max_examples=60)
def test_round_trip_by_itself(seed: int, grid: tuple[int, int], wild: float) -> None:
    whole = latent(seed, grid, wild)
    for codec in (CODEC, NO_CONTEXT):
        assert_same(decoded(codec, Coded(codec.encode(whole), grid, 50)), whole)


@given(st.integers(0, 10**6), st.tuples(st.integers(1, 6), st.integers(1, 6)), st.booleans())
@settings(deadline=None, max_examples=60)
def test_round_trip_given_a_reference(seed: int, grid: tuple[int, int], own_v: bool) -> None:
    first = latent(seed, grid, wild=0.1)
    second = changed(first, seed)
    if not own_v:
        second = Latent(first.v, second.z, grid, 50)
    payload = CODEC.encode(second, own_v, given=first)
    assert_same(decoded(CODEC, Coded(payload, grid, 50, own_v, True, first, True)), second)


@pytest.mark.parametrize("fill", [INT32.min, INT32.max])
def test_extremes_given_the_opposite_extreme(fill: int) -> None:
    first = Latent(latent(1).v, np.full((4, 3, 4), fill, np.int32), (3, 4), 50)
    second = Latent(first.v, np.full((4, 3, 4), -1 - fill, np.int32), (3, 4), 50)
    payload = CODEC.encode(second, False, given=first)
    assert_same(decoded(CODEC, Coded(payload, (3, 4), 50, False, True, first, True)), second)


def test_a_base_and_its_refinement_are_the_whole() -> None:
    whole = latent(3)
    base = decoded(CODEC, Coded(CODEC.encode(whole.base), (3, 4), 50, has_z=False))
    assert base.z is None
    assert base.digest == whole.base.digest != whole.digest
    refinement = CODEC.encode(whole, own_v=False)
    assert_same(decoded(CODEC, Coded(refinement, (3, 4), 50, own_v=False, reference=base)), whole)


@pytest.mark.parametrize("given_reference", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_a_batch_equals_its_frames_alone(batch: int, given_reference: bool) -> None:
    firsts = [latent(seed, wild=0.05) for seed in range(batch)]
    seconds = [changed(one, seed) for seed, one in enumerate(firsts)]
    refs = firsts if given_reference else [None] * batch
    coded = [
        Coded(CODEC.encode(one, given=ref), (3, 4), 50, True, True, ref, given_reference)
        for one, ref in zip(seconds, refs, strict=True)
    ]
    for together, one, alone in zip(CODEC.decode(coded), seconds, coded, strict=True):
        assert isinstance(together, Latent)
        assert_same(together, one)
        assert_same(decoded(CODEC, alone), one)


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_decodes_what_numpy_encodes(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        other = FrameCodec(LatentCodec(TENSORS, TorchBackend()))
        first = latent(5, (6, 6))
        second = changed(first, 6)
        assert_same(decoded(other, Coded(CODEC.encode(first), (6, 6), 50)), first)
        payload = CODEC.encode(second, given=first)
        assert payload == other.encode(second, given=first)
        assert_same(decoded(other, Coded(payload, (6, 6), 50, True, True, first, True)), second)
    finally:
        torch.set_num_threads(before)


def test_what_an_earlier_pass_has_not_settled_is_not_read() -> None:
    """Changing one element changes the tables of no element of its own pass, or of an earlier one."""
    context = LatentCodec(TENSORS).context
    assert context is not None
    whole, maps = latent(8, (4, 4)), np.zeros((1, 4, 16))
    assert whole.z is not None

    def tables(z: np.ndarray) -> list[np.ndarray]:
        seen: list[np.ndarray] = []
        context.run(maps, z, None, lambda step: seen.append(np.stack([step.table, step.offset])))
        return seen

    before = tables(whole.z[None])
    order = {one.number: one for one in context.passes.all}
    affected = 0
    for number, one in order.items():
        z = whole.z[None].copy()
        z[0, one.own[0]].reshape(-1)[0 if one.half == 0 else 1] += 100
        after = tables(z)
        for earlier in range(number + 1):
            np.testing.assert_array_equal(after[earlier], before[earlier])
        affected += any(not np.array_equal(after[k], before[k]) for k in range(number + 1, len(order)))
    assert affected > 3


def test_one_damaged_payload_does_not_cost_the_others_their_frame() -> None:
    whole = [latent(seed) for seed in range(3)]
    coded = [Coded(CODEC.encode(one), (3, 4), 50) for one in whole]
    rng = np.random.default_rng(0)
    failures = 0
    for _ in range(50):
        coded[1] = Coded(b"\xff" * int(rng.integers(1, 8)) + rng.bytes(12), (3, 4), 50)
        out = CODEC.decode(coded)
        for i in (0, 2):
            assert isinstance(out[i], Latent)
            assert_same(out[i], whole[i])
        failures += isinstance(out[1], CorruptPayloadError)
    assert failures


def test_what_does_not_go_together() -> None:
    whole = latent(1)
    with pytest.raises(ValueError, match="needs a reference"):
        Coded(b"", (3, 4), 50, own_v=False)
    with pytest.raises(ValueError, match="without z"):
        Coded(b"", (3, 4), 50, has_z=False, reference=whole, given=True)
    with pytest.raises(RequestError, match="no context"):
        NO_CONTEXT.encode(whole, given=whole)
    with pytest.raises(RequestError, match="not known"):
        CODEC.encode(whole, given=whole.base)


def test_digests_differ_with_every_part() -> None:
    one = latent(1)
    assert one.z is not None
    others = [
        Latent(one.v + 1, one.z, one.grid, 50),
        Latent(one.v, one.z + 1, one.grid, 50),
        Latent(one.v, one.z, one.grid, 51),
        Latent(one.v, one.z.reshape(4, 4, 3), (4, 3), 50),
        one.base,
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 6
    assert Latent(one.v.copy(), one.z.copy(), one.grid, 50).digest == one.digest


# First bytes and SHA-256 of the payloads of one pair of latents: what is coded must not change unnoticed.
GOLDEN = {
    "I": "be7bcafffe26d165 33982b58e8f71e40",
    "I base": "be7bcafffe26d165 0f41ea309098c38c",
    "I refinement": "fffffffffe000000 ae7ff4729237323c",
    "P": "000030ffff41fec1 7845b7c5cd55ebbd",
    "P with its own v": "418433fffe0fdf13 7a2703b21259d129",
}


def payloads() -> dict[str, bytes]:
    first = latent(21, (3, 4), wild=0.05)
    second = changed(changed(changed(first, 22, share=0.5), 23), 24, share=0.5)
    as_first = Latent(first.v, second.z, first.grid, 50)
    return {
        "I": CODEC.encode(first),
        "I base": CODEC.encode(first.base),
        "I refinement": CODEC.encode(first, own_v=False),
        "P": CODEC.encode(as_first, own_v=False, given=first),
        "P with its own v": CODEC.encode(second, given=first),
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_payloads(name: str) -> None:
    payload = payloads()[name]
    assert f"{payload[:8].hex()} {hashlib.sha256(payload).hexdigest()[:16]}" == GOLDEN[name]


@given(st.integers(0, 10**6), st.tuples(st.integers(1, 6), st.integers(1, 6)), st.sampled_from([0.0, 0.3]))
@settings(deadline=None, max_examples=20)
def test_bits_by_cell_add_up_to_those_of_z(seed: int, grid: tuple[int, int], wild: float) -> None:
    first = latent(seed, grid, wild)
    second = changed(first, seed)
    for codec, reference in ((CODEC, None), (NO_CONTEXT, None), (CODEC, first)):
        cells = codec.cell_bits(second, reference)
        assert cells.shape == grid
        assert cells.sum() == pytest.approx(codec.bits(second, reference)[1], rel=1e-9)


@pytest.mark.parametrize("codec", [CODEC, NO_CONTEXT], ids=["context", "plain"])
def test_bits_by_cell_are_the_length_of_b_z(codec: FrameCodec) -> None:
    """z is coded after v in one run, so the payload is both; within a byte and 1 %."""
    whole = latent(5, (6, 6))
    h_v = codec.bits(whole)[0]
    assert 8 * len(codec.encode(whole)) == pytest.approx(h_v + codec.cell_bits(whole).sum(), rel=0.01, abs=8)


@pytest.mark.parametrize("codec", [CODEC, NO_CONTEXT], ids=["context", "plain"])
def test_a_surprise_costs_in_its_own_cell(codec: FrameCodec) -> None:
    calm = latent(6)
    assert calm.z is not None
    z = calm.z.copy()
    z[:, 1, 2] += 10_000  # an escape in every channel
    before, after = codec.cell_bits(calm), codec.cell_bits(Latent(calm.v, z, calm.grid, 50))
    assert np.unravel_index(np.argmax(after - before), (3, 4)) == (1, 2)


def test_a_base_has_no_bits_in_its_cells() -> None:
    assert not CODEC.cell_bits(latent(7).base).any()
