"""The range coder: what goes in comes out, in as few bytes as the tables allow, and always the same bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.codec.rangecoder import TOTAL, Tables, decode, encode
from shared.errors import CorruptPayloadError

INT32 = np.iinfo(np.int32)


def make(counts: list[list[int]], firsts: list[int] | None = None) -> Tables:
    return Tables(
        np.array([count for table in counts for count in table], np.uint32),
        np.cumsum([0] + [len(table) for table in counts]).astype(np.int64),
        np.array(firsts or [0] * len(counts), np.int32),
    )


def random_counts(rng: np.random.Generator, size: int, skew: float) -> list[int]:
    """Positive integers that add up to TOTAL; the larger skew, the closer to one certain symbol."""
    weights = rng.random(size) ** skew + 1e-12
    counts = np.floor(weights / weights.sum() * (TOTAL - size)).astype(np.int64) + 1
    counts[rng.integers(size)] += TOTAL - counts.sum()
    return [int(count) for count in counts]


@st.composite
def tables(draw: st.DrawFn) -> Tables:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(2, 70), min_size=1, max_size=5))
    skew = draw(st.sampled_from([0.0, 1.0, 4.0, 30.0]))
    firsts = [draw(st.integers(-80, 5) | st.sampled_from([INT32.min, INT32.max - 100])) for _ in sizes]
    return make([random_counts(rng, size, skew) for size in sizes], firsts)


@st.composite
def coded(draw: st.DrawFn) -> tuple[Tables, NDArray[np.int32], NDArray[np.intp]]:
    """Tables, values anywhere in int32 (most near a table), and the table of each value."""
    made = draw(tables())
    near = st.integers(-100, 100)
    value = near | st.integers(INT32.min, INT32.max) | st.sampled_from([INT32.min, INT32.max, -1, 0])
    pairs = draw(st.lists(st.tuples(value, st.integers(0, len(made) - 1)), max_size=60))
    values = np.array([v for v, _ in pairs], np.int32)
    return made, values, np.array([i for _, i in pairs], np.intp)


@given(coded())
@settings(deadline=None, max_examples=300)
def test_round_trip(case: tuple[Tables, NDArray[np.int32], NDArray[np.intp]]) -> None:
    made, values, indices = case
    data = encode(values, indices, made)
    decoded = decode(data, indices, made)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, values)
    assert not data.endswith(b"\0")


@pytest.mark.parametrize("first", [INT32.min, -3, 0, INT32.max - 1])
def test_escapes_reach_every_int32(first: int) -> None:
    made = make([[TOTAL - 2, 1, 1]], [first])
    edges = [INT32.min, INT32.min + 1, -2, -1, 0, 1, 2, INT32.max - 1, INT32.max]
    near = [first + d for d in range(-5, 6) if INT32.min <= first + d <= INT32.max]
    powers = [sign * 2**k + d for k in range(31) for sign in (1, -1) for d in (-1, 0, 1)]
    values = np.array(edges + near + powers, np.int32)
    indices = np.zeros(len(values), np.intp)
    np.testing.assert_array_equal(decode(encode(values, indices, made), indices, made), values)


def test_nothing_is_no_bytes() -> None:
    made = make([[1, TOTAL - 1]])
    none = np.zeros(0, np.intp)
    assert encode(none.astype(np.int32), none, made) == b""
    assert decode(b"", none, made).shape == (0,)


def test_certain_symbols_take_no_bytes_however_many() -> None:
    # All zero bits: the reader must supply them without end, far past the padding that it appends.
    made = make([[TOTAL - 2, 1, 1]])
    indices = np.zeros(200_000, np.intp)
    values = np.zeros(200_000, np.int32)
    data = encode(values, indices, made)
    assert data == b""
    np.testing.assert_array_equal(decode(data, indices, made), values)


@pytest.mark.parametrize("skew", [0.0, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("size", [2, 3, 40, 500])
@pytest.mark.parametrize("length", [1, 10, 1_000, 30_000])
def test_waste(size: int, skew: float, length: int) -> None:
    """At most 1 byte + 0.1 % over the ideal, for values that the tables cover."""
    rng = np.random.default_rng(size * length)
    counts = [random_counts(rng, size, skew) for _ in range(8)]
    made = make(counts)
    indices = rng.integers(0, 8, length).astype(np.intp)
    values = np.empty(length, np.int32)
    for table in range(8):
        # By its own probabilities, without the escape.
        p = np.array(counts[table][:-1], float)
        members = np.flatnonzero(indices == table)
        values[members] = rng.choice(size - 1, len(members), p=p / p.sum())
    data = encode(values, indices, made)
    ideal = made.bits(values, indices) / 8
    assert len(data) <= ideal * 1.001 + 1
    np.testing.assert_array_equal(decode(data, indices, made), values)


def test_ideal_bits_by_hand() -> None:
    made = make([[TOTAL // 2, TOTAL // 4, TOTAL // 4], [TOTAL - TOTAL // 8, TOTAL // 8]], [-1, 5])
    indices = np.array([0, 0, 1], np.intp)
    assert made.bits(np.array([-1, 0, 5], np.int32), indices) == pytest.approx(1 + 2 + np.log2(8 / 7))
    # 6 lies one above table 1: the escape (3 bits), the length (log2 34), no further bits.
    assert made.bits(np.array([6], np.int32), np.array([1])) == pytest.approx(3 + np.log2(34))
    # 4 lies one below: number 1 of the zigzag, one further bit.
    assert made.bits(np.array([4], np.int32), np.array([1])) == pytest.approx(4 + np.log2(34))


def test_ideal_bits_of_escapes_match_the_bytes() -> None:
    rng = np.random.default_rng(5)
    made = make([random_counts(rng, 9, 1.0) for _ in range(3)])
    values = rng.integers(INT32.min, INT32.max, 2_000, np.int64).astype(np.int32)
    indices = rng.integers(0, 3, 2_000).astype(np.intp)
    ideal = made.bits(values, indices) / 8
    assert ideal - 1 < len(encode(values, indices, made)) <= ideal * 1.001 + 1


class Reference:
    """The coder again, in Python's unbounded integers, as the format's second implementation."""

    def __init__(self) -> None:
        self.lower, self.width, self.scale = 0, (1 << 64) - 1, 64

    def code(self, left: int, count: int) -> None:
        """One symbol: `left` counts of 2**24 lie before it, `count` are its own."""
        step = self.width >> 24
        self.lower += step * left
        self.width = step * count
        if self.width < 1 << 32:
            self.lower, self.width, self.scale = self.lower << 32, self.width << 32, self.scale + 32

    def uniform(self, value: int, size: int) -> None:
        each = TOTAL // size
        self.code(value * each, TOTAL - value * each if value == size - 1 else each)

    def shortest(self) -> bytes:
        for size in range(self.scale // 8 + 1):
            unit = self.scale - 8 * size
            point = (self.lower + (1 << unit) - 1) >> unit
            if point << unit < self.lower + self.width and point < 1 << 8 * size:
                return point.to_bytes(size, "big")
        raise AssertionError


def reference_encode(values: list[int], indices: list[int], made: Tables) -> bytes:
    coder = Reference()
    escapes = {}
    for table in range(len(made)):
        counts = made.counts[made.starts[table] : made.starts[table + 1]].tolist()
        first, covered = int(made.firsts[table]), len(counts) - 1
        for place, (value, index) in enumerate(zip(values, indices, strict=True)):
            if index == table:
                at = value - first
                if not 0 <= at < covered:
                    escapes[place] = 2 * (at - covered) if at >= covered else -2 * at - 1
                    at = covered
                coder.code(sum(counts[:at]), counts[at])
    for place in sorted(escapes):
        number = escapes[place] + 1
        bits = number.bit_length() - 1
        coder.uniform(bits, 34)
        rest = number - (1 << bits)
        for shift in range(0, bits, 16):
            width = min(16, bits - shift)
            coder.uniform(rest >> shift & (1 << width) - 1, 1 << width)
    return coder.shortest()


@given(coded())
@settings(deadline=None, max_examples=200)
def test_bytes_equal_the_second_implementation(
    case: tuple[Tables, NDArray[np.int32], NDArray[np.intp]],
) -> None:
    made, values, indices = case
    assert encode(values, indices, made) == reference_encode(values.tolist(), indices.tolist(), made)


# The encoder's output is part of the format. A constriction that writes other bytes cannot read old streams.
GOLDEN_TABLES = make(
    [
        [8_000_000, 4_000_000, 4_000_000, 777_215, 1],
        [1, 1, TOTAL - 3, 1],
        [3, TOTAL - 1_000_003, 1_000_000],
    ],
    [-1, -5, 100],
)


@pytest.mark.parametrize(
    ("values", "indices", "golden"),
    [
        ([], [], ""),
        ([-1], [0], ""),  # the first half of all strings, the empty one among them
        ([1], [0], "b8"),  # 12,000,000 / 2**24 = 0.b71b hexadecimal; the next short string is 0.b8
        ([-1, 0, 1, 2, -1, -1, 0, 1], [0] * 8, "55b1"),
        ([-5, -4, -3, -3], [1] * 4, "000000000001"),
        ([0, 101, -4, 1, 100, -3], [0, 2, 1, 0, 2, 1], "a5b9df018c196d"),
        (
            [7, -1_000_000, 2_147_483_647, -2_147_483_648],
            [0, 1, 2, 0],
            "fffffffffe000000fff22d8010595a6f4bab02037399a5",
        ),
    ],
)
def test_golden_bytes(values: list[int], indices: list[int], golden: str) -> None:
    at = np.array(indices, np.intp)
    assert encode(np.array(values, np.int32), at, GOLDEN_TABLES).hex() == golden
    assert decode(bytes.fromhex(golden), at, GOLDEN_TABLES).tolist() == values


def test_symbols_are_grouped_by_table_in_rising_order() -> None:
    # Table 0 is uniform and owns the first bytes, table 1 is all but certain and takes none.
    made = make([[TOTAL // 256] * 256, [TOTAL - 1, 1]])
    assert encode(np.array([0, 200, 0, 17], np.int32), np.array([1, 0, 1, 0], np.intp), made) == bytes(
        [200, 17]
    )


def model_counts(model: Any, size: int) -> list[int]:
    """What constriction really gives each symbol: the interval of an encoder that has coded it alone."""
    out, end = [], 0
    for symbol in range(size):
        encoder = constriction.stream.queue.RangeEncoder()
        scale = encoder.pos()[1][1] // TOTAL
        encoder.encode(np.array([symbol], np.int32), model)
        words, (lower, width) = encoder.pos()
        # An interval below 2**32 has been renormalised: one word has left the encoder.
        if words:
            sealed = encoder.get_compressed()
            whole = int(sealed[0]) << 64
            lower = whole + (lower - whole) % 2**64 if lower >= whole % 2**64 else lower + whole
            lower, width = lower >> 32, width >> 32
        assert width // scale in (width / scale, width // scale)
        out.append(round(width / scale))
        assert round(lower / scale) == end, "symbols do not lie end to end"
        end += out[-1]
    return out


@pytest.mark.parametrize(
    "counts",
    [
        [1, TOTAL - 1],
        [TOTAL - 1, 1],
        [1, TOTAL - 2, 1],
        [TOTAL // 3, TOTAL // 3, TOTAL - 2 * (TOTAL // 3)],
        [1] * 99 + [TOTAL - 99],
        [TOTAL - 99] + [1] * 99,
        [2, 1, TOTAL - 7, 3, 1],
    ],
)
def test_counts_are_honoured_exactly(counts: list[int]) -> None:
    assert model_counts(make([counts]).model(0), len(counts)) == counts


@given(st.integers(0, 2**32), st.integers(2, 200), st.sampled_from([0.0, 1.0, 5.0, 40.0]))
@settings(deadline=None, max_examples=60)
def test_random_counts_are_honoured_exactly(seed: int, size: int, skew: float) -> None:
    counts = random_counts(np.random.default_rng(seed), size, skew)
    assert model_counts(make([counts]).model(0), size) == counts


@given(tables(), st.binary(max_size=40), st.integers(0, 50))
@settings(deadline=None, max_examples=300)
def test_garbage_gives_values_or_corrupt_payload(made: Tables, data: bytes, length: int) -> None:
    indices = np.arange(length, dtype=np.intp) % len(made)
    for payload in (data, b"\xff" * len(data), data[:3]):
        with contextlib.suppress(CorruptPayloadError):
            assert decode(payload, indices, made).shape == (length,)


def test_damage_that_no_encoder_makes_is_told() -> None:
    at = np.zeros(4, np.intp)
    with pytest.raises(CorruptPayloadError, match="damaged"):  # behind the last symbol's interval
        decode(b"\xff" * 40, at, make([[TOTAL - 1, 1]]))
    data = encode(np.full(4, INT32.max, np.int32), at, make([[TOTAL - 1, 1]], [0]))
    with pytest.raises(CorruptPayloadError, match="32 bits"):  # as far above 1000 as INT32.max is above 0
        decode(data, at, make([[TOTAL - 1, 1]], [1000]))


@pytest.mark.parametrize(
    ("counts", "starts", "firsts"),
    [
        ([TOTAL], [0, 1], [0]),  # no escape
        ([TOTAL - 1, 0, 1], [0, 3], [0]),  # a count of 0
        ([TOTAL - 1, 2], [0, 2], [0]),  # one too many
        ([TOTAL - 1, 1], [0, 3], [0]),  # starts past the end
        ([TOTAL - 1, 1], [1, 2], [0]),
        ([TOTAL - 1, 1], [0, 2], [0, 0]),  # a first without a table
        ([TOTAL - 1, 1, TOTAL - 1, 1], [0, 4, 2], [0, 0]),  # backwards
        ([TOTAL - 1, 1], [0, 2], [INT32.max]),  # fits: covers exactly the last int32
        ([TOTAL - 2, 1, 1], [0, 3], [INT32.max]),  # covers what is no int32
    ],
)
def test_tables_that_do_not_hold_together(counts: list[int], starts: list[int], firsts: list[int]) -> None:
    def made() -> Tables:
        return Tables(np.array(counts, np.uint32), np.array(starts, np.int64), np.array(firsts, np.int32))

    if counts == [TOTAL - 1, 1] and firsts == [INT32.max]:
        assert (made().firsts[0], made().covered[0]) == (INT32.max, 1)
    else:
        with pytest.raises(ValueError, match="table"):
            made()
