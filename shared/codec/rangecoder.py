"""Range coding of integer symbols with integer tables. Knows no latent and no model.

The coder is `constriction`'s (https://bamler-lab.github.io/constriction). A `Tables` holds many integer probability
tables; each symbol is coded with the table that its index names. Symbols are coded grouped by table: groups in
ascending order of their index, symbols within a group in their given order. Both sides know the indices, so both know
the order.

A table covers the integers first .. first + len - 2; its last entry is an escape. Escaped values follow after all
groups, in their given order: the distance outside (zigzag, so that both signs are small) as an Elias-gamma-like pair of
bit length and bits, all uniform. So every int32 is codable.

Two things are ours. Counts are passed as floats that hold integers, chosen so that constriction's fixed-point tables
equal ours to the last count. And the end of the stream: constriction seals with whole 32-bit words; we take the
shortest byte string inside the coder's final interval, and the reader appends zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptPayloadError

PRECISION = 24  # bits of constriction's fixed-point probabilities
TOTAL = 1 << PRECISION

Ints = NDArray[np.int32]

_INT32 = np.iinfo(np.int32)
_STATE_BITS = 64
_WORD = 32
_MAX_ESCAPE_BITS = 34


@dataclass(frozen=True)
class Tables:
    """T integer probability tables.

    counts: uint32, all tables one after another, each count >= 1, each table's sum 2**24; a table's last entry is its
    escape. starts: int64 (T + 1,), where each table begins. firsts: int32 (T,), the integer that entry 0 stands for.
    known: constriction's models that were built already, by table.
    """

    counts: NDArray[np.uint32]
    starts: NDArray[np.int64]
    firsts: NDArray[np.int32]
    known: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError if the tables are inconsistent."""
        if (
            len(self.starts) != len(self.firsts) + 1
            or self.starts[0] != 0
            or self.starts[-1] != len(self.counts)
        ):
            raise ValueError("table starts, firsts and counts do not fit together")
        if np.any(np.diff(self.starts) < 2):
            raise ValueError("a table needs at least one value and its escape")
        if np.any(self.firsts + np.diff(self.starts) - 2 > _INT32.max):
            raise ValueError("a table covers numbers beyond 32 bits")
        sums = np.add.reduceat(self.counts.astype(np.int64), self.starts[:-1])
        if np.any(sums != TOTAL) or np.any(self.counts < 1):
            raise ValueError(f"every table's counts must be at least 1 and add up to {TOTAL}")

    def __len__(self) -> int:
        return len(self.firsts)

    @cached_property
    def covered(self) -> NDArray[np.int64]:
        """The number of integers that each table covers, (T,)."""
        covered: NDArray[np.int64] = np.diff(self.starts) - 1
        return covered

    @cached_property
    def lefts(self) -> NDArray[np.uint32]:
        """For each entry the sum of the counts before it in its table."""
        before = np.cumsum(self.counts, dtype=np.int64) - self.counts
        first = np.repeat(before[self.starts[:-1]], np.diff(self.starts))
        lefts: NDArray[np.uint32] = (before - first).astype(np.uint32)
        return lefts

    def model(self, index: int) -> Any:
        """Returns constriction's model of one table, built on first use."""
        model = self.known.get(index)
        if model is None:
            counts = self.counts[self.starts[index] : self.starts[index + 1]]
            # constriction gives each of the n symbols 1 and shares TOTAL - n in proportion; counts - 1 add up to
            # exactly that, and floats below 2**24 add exactly, so what it builds is `counts`.
            model = constriction.stream.model.Categorical((counts - 1).astype(np.float64), perfect=False)
            self.known[index] = model
        return model

    def bits(self, values: Ints, indices: NDArray[np.intp]) -> float:
        """Returns the ideal code length in bits of `values` under the tables that `indices` name, escapes included."""
        return float(np.sum(self.symbol_bits(values, indices)))

    def symbol_bits(self, values: Ints, indices: NDArray[np.intp]) -> NDArray[np.float64]:
        """The ideal code length in bits of each of `values` (M,) under the tables that `indices` (M,) name."""
        first = self.firsts[indices].astype(np.int64)
        covered = self.covered[indices]
        at = values.astype(np.int64) - first
        escaped = (at < 0) | (at >= covered)
        entry = self.starts[indices] + np.where(escaped, covered, at)
        bits: NDArray[np.float64] = PRECISION - np.log2(self.counts[entry].astype(np.float64))
        for position, distance in zip(
            np.flatnonzero(escaped), _outside(at[escaped], covered[escaped]), strict=True
        ):
            bits[position] += float(np.log2(_MAX_ESCAPE_BITS)) + int(distance + 1).bit_length() - 1
        return bits


class Writer:
    """Codes several groups of symbols into one string; `Reader` reads them in the same order."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def put(self, values: Ints, indices: NDArray[np.intp], tables: Tables) -> None:
        """Codes `values` (M,) int32, each with the table that `indices` (M,) names."""
        at = values.astype(np.int64) - tables.firsts[indices]
        covered = tables.covered[indices]
        outside = (at < 0) | (at >= covered)
        order, groups = _grouped(indices, len(tables))
        entries = np.where(outside, covered, at).astype(np.int32)[order]
        encode, known = self._encoder.encode, tables.known
        for index, start, end in groups:
            encode(entries[start:end], known.get(index) or tables.model(index))
        for distance in _outside(at[outside], covered[outside]).tolist():
            _encode_escape(self._encoder, distance)

    def finish(self) -> bytes:
        """The string: the shortest that decodes to what was put."""
        return _shortest(self._encoder)


class SymbolReader(Protocol):
    """Decodes what a `Writer` coded: `Reader`, and the cloud's own in a compiled loop."""

    def get(self, indices: NDArray[np.intp], tables: Tables) -> Ints:
        """The next values (M,) int32. Raises CorruptPayloadError if they cannot come from `put` with these indices."""


def words_of(data: bytes) -> NDArray[np.uint32]:
    """A payload as the decoder's words, followed by enough zeros."""
    return np.frombuffer(data + bytes(-len(data) % 4 + 8), ">u4").astype(np.uint32)


class Reader:
    """Decodes what a `Writer` coded, with constriction's decoder."""

    def __init__(self, data: bytes) -> None:
        self._decoder = constriction.stream.queue.RangeDecoder(words_of(data))

    def get(self, indices: NDArray[np.intp], tables: Tables) -> Ints:
        """See `SymbolReader`."""
        order, groups = _grouped(indices, len(tables))
        at = np.zeros(len(indices), np.int32)
        firsts, covered = tables.firsts[indices], tables.covered[indices]
        try:
            for index, start, end in groups:
                at[order[start:end]] = self._decoder.decode(tables.model(index), end - start)
            values = at + firsts
            for position in np.flatnonzero(at == covered):
                distance = _decode_escape(self._decoder)
                values[position] = _value_outside(distance, int(firsts[position]), int(covered[position]))
        except (
            AssertionError
        ) as error:  # what constriction raises for bits that belong to no symbol of the model
            raise CorruptPayloadError(f"the payload is damaged: {error}") from None
        return values


def encode(values: Ints, indices: NDArray[np.intp], tables: Tables) -> bytes:
    """Codes `values` (M,) int32, each with the table that `indices` (M,) names."""
    writer = Writer()
    writer.put(values, indices, tables)
    return writer.finish()


def decode(data: bytes, indices: NDArray[np.intp], tables: Tables) -> Ints:
    """Inverts `encode`; returns values (M,) int32.

    Raises CorruptPayloadError if `data` cannot come from `encode` with these indices. Damage that happens to decode is
    not noticed here; the container's check catches it.
    """
    return Reader(data).get(indices, tables)


def _grouped(indices: NDArray[np.intp], tables: int) -> tuple[NDArray[np.intp], list[tuple[int, int, int]]]:
    """Returns the coding order and, for each table in use, (table, start, end) of its symbols in that order.

    Whatever can be done for all symbols at once is done outside the loop over these groups: with few symbols per table,
    numpy calls for each group took four fifths of the coder's time.
    """
    narrow = indices.astype(np.uint16) if tables <= 1 << 16 else indices  # sorted by radix: five times faster
    order = np.argsort(narrow, kind="stable")
    ordered = indices[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    ends = [*starts[1:].tolist(), len(ordered)]
    return order, list(zip(ordered[starts].tolist(), starts.tolist(), ends, strict=False))


def _outside(at: NDArray[np.int64], covered: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    """Returns how far values lie outside their tables: 0, 2, 4 .. above, 1, 3, 5 .. below."""
    return np.where(at >= covered, 2 * (at - covered), -2 * at - 1)


def _value_outside(distance: int, first: int, covered: int) -> int:
    value = first - (distance + 1) // 2 if distance % 2 else first + covered + distance // 2
    if not _INT32.min <= value <= _INT32.max:
        raise CorruptPayloadError("the payload is damaged: an escaped value does not fit 32 bits")
    return value


def _encode_escape(encoder: Any, distance: int) -> None:
    bits = (distance + 1).bit_length() - 1
    encoder.encode(bits, _uniform(_MAX_ESCAPE_BITS))
    rest = distance + 1 - (1 << bits)
    for shift in range(0, bits, 16):
        width = min(16, bits - shift)
        encoder.encode(rest >> shift & (1 << width) - 1, _uniform(1 << width))


def _decode_escape(decoder: Any) -> int:
    bits = int(decoder.decode(_uniform(_MAX_ESCAPE_BITS)))
    rest = 0
    for shift in range(0, bits, 16):
        width = min(16, bits - shift)
        rest |= int(decoder.decode(_uniform(1 << width))) << shift
    return (1 << bits) + rest - 1


@cache
def _uniform(size: int) -> Any:
    # constriction's uniform model needs at least two symbols.
    return constriction.stream.model.Uniform(size)


def _shortest(encoder: Any) -> bytes:
    """Returns the shortest bytes that, followed by zeros, lie in the encoder's final interval."""
    words = encoder.get_compressed()
    position, (lower, width) = encoder.pos()
    scale = _WORD * position + _STATE_BITS  # bits behind the point, as far as the state reaches
    sealed = int.from_bytes(words.astype(">u4").tobytes(), "big") << scale - _WORD * len(words)
    low = sealed - (sealed - lower) % (1 << _STATE_BITS)
    size = scale // 8
    point: int
    for cut in range(_STATE_BITS, -1, -8):
        point = -(-low >> cut) << cut
        if point < low + width and point >> scale == 0:
            return point.to_bytes(size, "big").rstrip(b"\0")
    raise AssertionError("the encoder's interval is empty")
