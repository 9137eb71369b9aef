"""Range coding of integer symbols with integer tables. Knows no latent and no model.

The coder is `constriction`'s (https://bamler-lab.github.io/constriction). A `Tables` holds many integer probability
tables; a symbol is coded with the table that its index names. Symbols are coded grouped by table, groups in rising
order of their index, symbols of a group in their given order: both sides know the indices, so both know the order.

A table covers the integers first .. first + len - 2; its last entry is an escape. Escaped values follow after all
groups, in their given order: how far outside (zigzag, so that both signs are small) as an Elias-gamma-like pair of
bit length and bits, all of it uniform. So every int32 is codable.

Two things are ours. Counts go in as floats that hold integers, made so that constriction's fixed-point tables equal
ours to the last count. And the end of the stream: constriction seals with whole 32-bit words; we take the shortest
string of bytes inside the coder's final interval, and the reader supplies zeros behind the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

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

    counts: uint32, all tables behind one another, each >= 1, each table's sum 2**24; the last entry of a table is its
    escape. starts: int64 (T + 1,), where each table begins. firsts: int32 (T,), the integer that entry 0 stands for.
    """

    counts: NDArray[np.uint32]
    starts: NDArray[np.int64]
    firsts: NDArray[np.int32]
    _models: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError where the tables do not hold together."""
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

    def span(self, index: int) -> tuple[int, int]:
        """First integer covered, and how many are."""
        return int(self.firsts[index]), int(self.starts[index + 1] - self.starts[index]) - 1

    def model(self, index: int) -> Any:
        """constriction's model of one table, built when first used."""
        model = self._models.get(index)
        if model is None:
            counts = self.counts[self.starts[index] : self.starts[index + 1]]
            # constriction gives each of the n symbols 1 and shares TOTAL - n in proportion; counts - 1 add up to
            # exactly that, and floats below 2**24 add exactly, so what it builds is `counts`.
            model = constriction.stream.model.Categorical((counts - 1).astype(np.float64), perfect=False)
            self._models[index] = model
        return model

    def bits(self, values: Ints, indices: NDArray[np.intp]) -> float:
        """Ideal code length in bits of `values` under the tables that `indices` name, escapes included."""
        first = self.firsts[indices].astype(np.int64)
        covered = np.diff(self.starts)[indices] - 1
        at = values.astype(np.int64) - first
        escaped = (at < 0) | (at >= covered)
        entry = self.starts[indices] + np.where(escaped, covered, at)
        bits = float(np.sum(PRECISION - np.log2(self.counts[entry].astype(np.float64))))
        for distance in _outside(at[escaped], covered[escaped]):
            bits += float(np.log2(_MAX_ESCAPE_BITS)) + int(distance + 1).bit_length() - 1
        return bits


def encode(values: Ints, indices: NDArray[np.intp], tables: Tables) -> bytes:
    """Code `values` (M,) int32, each with the table that `indices` (M,) names."""
    encoder = constriction.stream.queue.RangeEncoder()
    escapes: list[tuple[NDArray[np.intp], NDArray[np.int64]]] = []
    for index, members in _groups(indices):
        first, covered = tables.span(index)
        at = values[members].astype(np.int64) - first
        outside = (at < 0) | (at >= covered)
        if outside.any():
            escapes.append((members[outside], _outside(at[outside], np.int64(covered))))
            at = np.where(outside, covered, at)
        encoder.encode(at.astype(np.int32), tables.model(index))
    if escapes:
        positions = np.concatenate([p for p, _ in escapes])
        distances = np.concatenate([d for _, d in escapes])
        for distance in distances[np.argsort(positions)]:
            _encode_escape(encoder, int(distance))
    return _shortest(encoder)


def decode(data: bytes, indices: NDArray[np.intp], tables: Tables) -> Ints:
    """The inverse of `encode`: values (M,) int32.

    Raises CorruptPayloadError where `data` cannot have been made by `encode` with these indices. Damage that happens
    to decode is not noticed here; the container's CRC is there for that.
    """
    values = np.zeros(len(indices), np.int32)
    padded = data + bytes(-len(data) % 4 + 8)
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
    escaped: list[NDArray[np.intp]] = []
    try:
        for index, members in _groups(indices):
            first, covered = tables.span(index)
            at = decoder.decode(tables.model(index), len(members))
            values[members] = at + first
            outside = at == covered
            if outside.any():
                escaped.append(members[outside])
        if escaped:
            for position in np.sort(np.concatenate(escaped)):
                first, covered = tables.span(int(indices[position]))
                values[position] = _value_outside(_decode_escape(decoder), first, covered)
    except AssertionError as error:  # constriction's word for bits that no symbol of the model has
        raise CorruptPayloadError(f"the payload is damaged: {error}") from None
    return values


def _groups(indices: NDArray[np.intp]) -> list[tuple[int, NDArray[np.intp]]]:
    if len(indices) == 0:
        return []
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    cuts = np.flatnonzero(np.diff(ordered)) + 1
    heads = ordered[np.concatenate(([0], cuts))]
    return [(int(head), members) for head, members in zip(heads, np.split(order, cuts), strict=True)]


def _outside(at: NDArray[np.int64], covered: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    """How far outside a table a value is: 0, 2, 4 .. above, 1, 3, 5 .. below."""
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
    """The shortest bytes that lie in the encoder's final interval when zeros follow them."""
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
