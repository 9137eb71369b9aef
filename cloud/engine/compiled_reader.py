"""Decodes what `shared.codec.rangecoder.Writer` coded, in a compiled loop: the symbols of its `Reader`, to the bit.

A frame of the shipped bundle has some 1,300 groups of symbols that share a table. `Reader` asks constriction for each
of them from Python, which takes ten times as long as the decoding itself, and holds the interpreter meanwhile. Here
one call decodes all groups and lets other threads run.

The arithmetic is that of constriction's range decoder (64 bits of state, words of 32) and of its uniform model: with
`scale = range >> 24`, the symbol is the one whose counts contain `(point - lower) // scale`; the interval shrinks to
it, and whenever less than 32 bits of it are left, the next word moves in.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from shared.codec.rangecoder import PRECISION, Ints, Tables, words_of
from shared.errors import CorruptPayloadError

log = logging.getLogger("isthmus.cloud")

_DAMAGED, _BEYOND, _NO_TABLE = 1, 2, 3  # what `_decode` returns instead of 0

_LOWER, _RANGE, _POINT, _NEXT = range(4)  # of the state

_U64_TOTAL = np.uint64(1 << PRECISION)
_PRECISION = np.uint64(PRECISION)
_WORD = np.uint64(32)
_ESCAPE_SIZES = 34


def _compile(signature: str) -> Any:
    """numba's decorator; without its cache on the disk where there is no folder for it."""

    def compiled(function: Any) -> Any:
        try:
            return njit(signature, cache=True, nogil=True)(function)
        except (RuntimeError, OSError) as error:  # no locator, or a folder that cannot be written after all
            log.info("compiled code is not kept between starts: %s", error)
            return njit(signature, nogil=True)(function)

    return compiled


@_compile("void(uint32[::1], uint64[::1], uint64, uint64, uint64)")
def _narrow(words, state, scale, left, count):
    """Shrinks the interval to the counts left .. left + count."""
    state[_LOWER] += scale * left
    state[_RANGE] = scale * count
    if state[_RANGE] >> _WORD == 0:
        state[_LOWER] <<= _WORD
        state[_RANGE] <<= _WORD
        word = np.uint64(0)
        if state[_NEXT] < np.uint64(len(words)):
            word = np.uint64(words[np.int64(state[_NEXT])])
        state[_NEXT] += np.uint64(1)
        state[_POINT] = state[_POINT] << _WORD | word


@_compile("int64(uint32[::1], uint64[::1], int64)")
def _uniform(words, state, size):
    """One of 0..size-1, all equally likely; the last takes what is left of the counts. -1: damaged."""
    scale = state[_RANGE] >> _PRECISION
    point = (state[_POINT] - state[_LOWER]) // scale
    if point >= _U64_TOTAL:
        return np.int64(-1)
    each = _U64_TOTAL // np.uint64(size)
    last = np.uint64(size - 1)
    symbol = min(point // each, last)
    left = symbol * each
    _narrow(words, state, scale, left, _U64_TOTAL - left if symbol == last else each)
    return np.int64(symbol)


@_compile("int64(uint32[::1], uint64[::1])")
def _escape(words, state):
    """How far a value lies outside its table. -1: damaged."""
    bits = _uniform(words, state, _ESCAPE_SIZES)
    if bits < 0:
        return np.int64(-1)
    rest = np.int64(0)
    for shift in range(0, bits, 16):
        part = _uniform(words, state, 1 << min(16, bits - shift))
        if part < 0:
            return np.int64(-1)
        rest |= part << shift
    return (np.int64(1) << bits) + rest - 1


@_compile("int64[::1](int64[::1], int64)")
def _grouped(indices, tables):
    """The coding order: by table, and within a table as they are."""
    at = np.zeros(tables + 1, np.int64)
    for index in indices:
        at[index + 1] += 1
    for table in range(tables):
        at[table + 1] += at[table]
    order = np.empty(len(indices), np.int64)
    for i, index in enumerate(indices):
        order[at[index]] = i
        at[index] += 1
    return order


@_compile("int64(uint32[::1], uint64[::1], int64[::1], uint32[::1], int64[::1], int32[::1], int32[::1])")
def _decode(words, state, indices, lefts, starts, firsts, out):
    """Fills `out` (M,). Returns 0, _DAMAGED, or _BEYOND for an escaped value beyond 32 bits."""
    for index in indices:
        if index < 0 or index >= len(firsts):
            return _NO_TABLE
    for i in _grouped(indices, len(firsts)):
        low, end = starts[indices[i]], starts[indices[i] + 1]
        scale = state[_RANGE] >> _PRECISION
        point = (state[_POINT] - state[_LOWER]) // scale
        if point >= _U64_TOTAL:
            return _DAMAGED
        first, high = low, end
        while high - low > 1:  # the last entry that begins at the point or before
            middle = (low + high) >> 1
            if np.uint64(lefts[middle]) <= point:
                low = middle
            else:
                high = middle
        left = np.uint64(lefts[low])
        right = np.uint64(lefts[low + 1]) if low + 1 < end else _U64_TOTAL
        _narrow(words, state, scale, left, right - left)
        out[i] = low - first
    for i in range(len(indices)):
        covered = starts[indices[i] + 1] - starts[indices[i]] - 1
        first = np.int64(firsts[indices[i]])
        value = first + out[i]
        if out[i] == covered:
            distance = _escape(words, state)
            if distance < 0:
                return _DAMAGED
            outside = -(distance + 1) // 2 if distance & 1 else covered + distance // 2
            value = first + outside
            if value < -(1 << 31) or value >= 1 << 31:
                return _BEYOND
        out[i] = value
    return 0


class CompiledReader:
    """A `shared.codec.rangecoder.SymbolReader`."""

    def __init__(self, data: bytes) -> None:
        self._words = words_of(data)
        first, second = (int(word) for word in self._words[:2])
        self._state: NDArray[np.uint64] = np.array([0, (1 << 64) - 1, first << 32 | second, 2], np.uint64)

    def get(self, indices: NDArray[np.intp], tables: Tables) -> Ints:
        """See `SymbolReader`."""
        at = np.ascontiguousarray(indices, np.int64)
        out = np.empty(len(at), np.int32)
        status = _decode(self._words, self._state, at, tables.lefts, tables.starts, tables.firsts, out)
        assert status != _NO_TABLE, "there is no such table"
        if status == _BEYOND:
            raise CorruptPayloadError("the payload is damaged: an escaped value does not fit 32 bits")
        if status == _DAMAGED:
            raise CorruptPayloadError("the payload is damaged: its bits belong to no symbol")
        return out
