"""Latents to bytes and back: every int32, one or many pictures at once, and a fingerprint that misses nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared.codec.codec import LatentCodec, fingerprint
from shared.errors import CorruptPayloadError
from support.random_codec import random_latents, random_tensors

N, V = 4, 5
TENSORS = random_tensors(11, n=N, v_size=V, grid=(3, 4))
CODEC = LatentCodec(TENSORS)
INT32 = np.iinfo(np.int32)

number = (
    st.integers(-40, 40)
    | st.integers(INT32.min, INT32.max)
    | st.sampled_from([INT32.min, INT32.max, -(2**24), 2**24])
)


@given(
    arrays.arrays(np.int32, V, elements=number),
    st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
        lambda grid: arrays.arrays(np.int32, (N, *grid), elements=number)
    ),
)
@settings(deadline=None, max_examples=200)
def test_round_trip_of_any_int32(v: np.ndarray, z: np.ndarray) -> None:
    b_v, b_z = CODEC.encode(v, z)
    np.testing.assert_array_equal(CODEC.decode_v(b_v), v)
    decoded = CODEC.decode(b_v, b_z, *z.shape[1:])
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, z)


@pytest.mark.parametrize("fill", [INT32.min, INT32.max, 0])
def test_round_trip_of_extremes(fill: int) -> None:
    v, z = np.full(V, fill, np.int32), np.full((N, 3, 4), fill, np.int32)
    np.testing.assert_array_equal(CODEC.decode(*CODEC.encode(v, z), 3, 4), z)


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("grid", [(3, 4), (6, 2)])
def test_a_batch_equals_its_pictures_alone(batch: int, grid: tuple[int, int]) -> None:
    v, z = random_latents(TENSORS, batch, grid, seed=batch, wild=0.05)
    streams = [CODEC.encode(*pair) for pair in zip(v, z, strict=True)]
    together = LatentCodec(TENSORS).decode_batch(streams, *grid)
    np.testing.assert_array_equal(together, z)
    for stream, alone in zip(streams, together, strict=True):
        np.testing.assert_array_equal(LatentCodec(TENSORS).decode(*stream, *grid), alone)


def test_encoding_is_deterministic_and_knows_no_state() -> None:
    v, z = random_latents(TENSORS, 4, (3, 4), wild=0.05)
    first = [CODEC.encode(*pair) for pair in zip(v, z, strict=True)]
    backwards = [LatentCodec(TENSORS).encode(*pair) for pair in zip(v[::-1], z[::-1], strict=True)]
    assert backwards[::-1] == first


def test_bytes_are_within_a_byte_and_a_thousandth_of_the_ideal() -> None:
    v, _ = random_latents(TENSORS, 20, (3, 4))
    rng = np.random.default_rng(0)
    for row in v:
        # z drawn as the codec expects it, so that almost nothing escapes.
        index, offset = CODEC.path(row[None], 12, 12)
        spread = 0.11 * (32 / 0.11) ** (index[0] // 16 / 63)
        z = np.rint(rng.normal(offset[0] + index[0] % 16 / 16, spread)).astype(np.int32)
        b_v, b_z = CODEC.encode(row, z)
        h_v, h_z = CODEC.bits(row, z)
        assert len(b_v) <= h_v / 8 * 1.001 + 1
        assert h_z / 8 - 2 < len(b_z) <= h_z / 8 * 1.001 + 1


def test_a_better_guess_is_cheaper() -> None:
    """The prediction reaches the coder: z at its predicted mean costs less than z far from it."""
    v, _ = random_latents(TENSORS, 1, (1, 1))
    _, offset = CODEC.path(v, 8, 8)
    near, far = (CODEC.encode(v[0], offset[0] + add)[1] for add in (np.int32(0), np.int32(20)))
    assert len(near) * 3 < len(far)


def test_b_v_that_no_encoder_writes_is_refused() -> None:
    v, z = random_latents(TENSORS, 1, (3, 4))
    b_v, b_z = CODEC.encode(v[0], z[0])
    for other in (b_v + b"\0", b_v + b"\x01", b_v + bytes(60_000)):
        with pytest.raises(CorruptPayloadError):
            CODEC.decode(other, b_z, 3, 4)


def test_one_bad_stream_in_a_batch_is_an_error() -> None:
    v, z = random_latents(TENSORS, 2, (3, 4))
    good = CODEC.encode(v[0], z[0])
    with pytest.raises(CorruptPayloadError):
        CODEC.decode_batch([good, (good[0] + b"\x01", good[1])], 3, 4)


@pytest.mark.parametrize("prefix", ["v", "z"])
def test_too_few_tables(prefix: str) -> None:
    tensors = dict(TENSORS)
    starts = tensors[f"{prefix}.tables.starts"][:-1]
    tensors[f"{prefix}.tables.starts"] = starts
    tensors[f"{prefix}.tables.firsts"] = tensors[f"{prefix}.tables.firsts"][:-1]
    tensors[f"{prefix}.tables.counts"] = tensors[f"{prefix}.tables.counts"][: starts[-1]]
    with pytest.raises(ValueError, match="tables for"):
        LatentCodec(tensors)


# The fingerprint.

SMALL = random_tensors(2, n=2, tau=2, grid=(2, 2), v_size=2, hidden=(3,), predictor=(2,))


def test_fingerprint_changes_with_every_integer() -> None:
    seen = {fingerprint(SMALL)}
    changed = 0
    for name, tensor in SMALL.items():
        # Of the many counts of z's tables, a sample with both ends; of everything else, every single one.
        step = max(1, tensor.size // 400)
        for at in {*range(0, tensor.size, step), tensor.size - 1}:
            other = tensor.copy()
            other.flat[at] ^= 1
            seen.add(fingerprint(SMALL | {name: other}))
            changed += 1
    assert len(seen) == changed + 1


def test_fingerprint_covers_names_types_and_shapes() -> None:
    entries = SMALL["codebook.entries"]
    others = [
        SMALL | {"codebook.entries": entries.astype(np.int16)},
        SMALL | {"codebook.entries": entries.reshape(2, 4, 1)},
        SMALL | {"extra": np.zeros(1, np.int8)},
        {("other" if name == "last.bias" else name): tensor for name, tensor in SMALL.items()},
        {name: tensor for name, tensor in SMALL.items() if name != "last.bias"},
    ]
    assert len({fingerprint(other) for other in [SMALL, *others]}) == len(others) + 1


def test_fingerprint_knows_no_order_of_names_bytes_or_memory() -> None:
    expected = fingerprint(SMALL)
    assert len(expected) == 32
    assert fingerprint(dict(reversed(SMALL.items()))) == expected
    assert fingerprint({k: np.asfortranarray(t) for k, t in SMALL.items()}) == expected
    assert fingerprint({k: t.astype(t.dtype.newbyteorder(">")) for k, t in SMALL.items()}) == expected


def test_fingerprint_is_the_known_one() -> None:
    """Every stored bitstream names it: it may not change with a release."""
    tensors = {"b": np.array([[1, -2], [3, 4]], np.int16), "a": np.array([5], np.uint32)}
    by_hand = (
        b"isthmus coding 1"
        + b"\na <u4 (1,)\n"
        + b"\x05\0\0\0"
        + b"\nb <i2 (2, 2)\n"
        + b"\1\0\xfe\xff\3\0\4\0"
    )
    assert fingerprint(tensors) == hashlib.sha256(by_hand).digest()
    assert fingerprint(tensors).hex()[:8] == "ca57a7df"
