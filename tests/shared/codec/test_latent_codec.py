"""Latents to bytes and back: every int32, one or many pictures at once, and a fingerprint that misses nothing."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared.codec.latent_codec import LEVELS, LatentCodec, Levels, fingerprint
from shared.errors import CorruptPayloadError, RequestError
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


# Several levels.

QUALITIES = (5, 20, 21, 60)
LEVELLED = random_tensors(12, n=N, v_size=V, grid=(3, 4), qualities=QUALITIES)
LEVELS_CODEC = LatentCodec(LEVELLED)
valid = st.integers(QUALITIES[0], QUALITIES[-1])


def level_by_hand(quality: int) -> int:
    """The nearest by `train.codec.entropy_model.level_of`'s formula, on an exact position."""
    knots = list(pairwise(QUALITIES))
    [at] = [i for i, (a, b) in enumerate(knots) if a <= quality < b] or [len(knots)]
    if at == len(knots):
        return at
    below, above = knots[at]
    return math.floor(at + Fraction(quality - below, above - below) + Fraction(1, 2))


@given(
    arrays.arrays(np.int32, V, elements=number), arrays.arrays(np.int32, (N, 2, 3), elements=number), valid
)
@settings(deadline=None)
def test_round_trip_at_any_quality(v: np.ndarray, z: np.ndarray, quality: int) -> None:
    b_v, b_z = LEVELS_CODEC.encode(v, z, quality)
    np.testing.assert_array_equal(LEVELS_CODEC.decode_v(b_v, quality), v)
    np.testing.assert_array_equal(LEVELS_CODEC.decode(b_v, b_z, 2, 3, quality), z)


@given(arrays.arrays(np.int32, V, elements=st.integers(-9, 9)), valid, valid)
@settings(deadline=None)
def test_a_wrong_quality_never_crashes(v: np.ndarray, quality: int, other: int) -> None:
    z = np.arange(N * 6, dtype=np.int32).reshape(N, 2, 3) % 5
    stream = LEVELS_CODEC.encode(v, z, quality)
    try:
        decoded = LEVELS_CODEC.decode(*stream, 2, 3, other)
    except CorruptPayloadError:
        return
    assert (decoded.dtype, decoded.shape) == (np.int32, z.shape)


def test_a_batch_of_several_qualities() -> None:
    v, z = random_latents(LEVELLED, 8, (3, 4), wild=0.05)
    qualities = [5, 60, 20, 21, 40, 41, 12, 13]
    streams = [LEVELS_CODEC.encode(*one) for one in zip(v, z, qualities, strict=True)]
    np.testing.assert_array_equal(LEVELS_CODEC.decode_batch(streams, 3, 4, qualities), z)


def test_each_quality_has_the_tables_of_its_nearest_level() -> None:
    """At a level the codec is the plain one with that level's tables; between two, that of the nearer."""
    starts, firsts = LEVELLED["v.tables.starts"], LEVELLED["v.tables.firsts"]
    plain = []
    for level in range(len(QUALITIES)):
        first, end = level * V, (level + 1) * V
        own = {
            "v.tables.counts": LEVELLED["v.tables.counts"][starts[first] : starts[end]],
            "v.tables.starts": starts[first : end + 1] - starts[first],
            "v.tables.firsts": firsts[first:end],
        }
        plain.append(LatentCodec({k: t for k, t in LEVELLED.items() if k != LEVELS} | own))
    v, z = random_latents(LEVELLED, 1, (3, 4))
    seen = set()
    for quality in range(QUALITIES[0], QUALITIES[-1] + 1):
        stream = LEVELS_CODEC.encode(v[0], z[0], quality)
        assert stream == plain[level_by_hand(quality)].encode(v[0], z[0])
        seen.add(stream)
    assert len(seen) == len(QUALITIES)
    assert LEVELS_CODEC.encode(v[0], z[0]) == LEVELS_CODEC.encode(v[0], z[0], QUALITIES[0])


def test_bits_are_those_of_the_quality() -> None:
    v, z = random_latents(LEVELLED, 1, (3, 4))
    for quality in QUALITIES:
        b_v, _ = LEVELS_CODEC.encode(v[0], z[0], quality)
        h_v, _ = LEVELS_CODEC.bits(v[0], z[0], quality)
        assert h_v / 8 - 1 < len(b_v) <= h_v / 8 + 1


@pytest.mark.parametrize("quality", [0, 4, 61, 100])
def test_a_quality_outside_the_levels(quality: int) -> None:
    v, z = random_latents(LEVELLED, 1, (3, 4))
    with pytest.raises(RequestError, match=f"quality {quality} is not one of this bundle's: 5 to 60"):
        LEVELS_CODEC.encode(v[0], z[0], quality)
    with pytest.raises(CorruptPayloadError, match=f"quality {quality}"):
        LEVELS_CODEC.decode(*LEVELS_CODEC.encode(v[0], z[0]), 3, 4, quality)


def test_one_level_without_a_name_takes_any_quality() -> None:
    v, z = random_latents(TENSORS, 1, (3, 4))
    assert CODEC.levels is None
    assert CODEC.encode(v[0], z[0], 77) == CODEC.encode(v[0], z[0])
    np.testing.assert_array_equal(CODEC.decode(*CODEC.encode(v[0], z[0]), 3, 4, 3), z[0])


@given(st.sets(st.integers(0, 100), min_size=1).map(lambda known: Levels(tuple(sorted(known)))))
def test_positions_rise_from_level_to_level(levels: Levels) -> None:
    assert [levels.position(q) for q in levels.qualities] == list(range(len(levels.qualities)))
    positions = [levels.position(q) for q in range(levels.lowest, levels.highest + 1)]
    assert positions == sorted(set(positions))
    for quality, position in zip(range(levels.lowest, levels.highest + 1), positions, strict=True):
        assert levels.nearest(quality) == math.floor(position + 0.5)


@pytest.mark.parametrize("qualities", [(), (3, 3), (4, 3), (-1, 3), (3, 101)])
def test_no_levels(qualities: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must rise within"):
        Levels(qualities)


def test_levels_without_tables() -> None:
    with pytest.raises(ValueError, match=f"{V} tables for {V} elements of v at 2 levels"):
        LatentCodec(TENSORS | {LEVELS: np.array([1, 2], np.int64)})


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


def test_fingerprint_covers_the_levels() -> None:
    levelled = [SMALL | {LEVELS: np.array(q, np.int64)} for q in ([50], [51], [0, 50], [1, 50])]
    assert len({fingerprint(other) for other in [SMALL, *levelled]}) == 5


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
