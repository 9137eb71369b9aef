"""The compiled reader against the one in Python: the same symbols of whatever was written, and the same refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloud.engine import compiled_reader
from cloud.engine.compiled_reader import CompiledReader
from shared.bundle import Bundle
from shared.codec.latent_codec import tables_of
from shared.codec.rangecoder import TOTAL, Ints, Reader, SymbolReader, Tables, Writer
from shared.errors import CorruptPayloadError
from shared.shipped import default_bundle

Run = tuple[Ints, NDArray[np.intp]]


def some_tables(seed: int, count: int) -> Tables:
    """Tables of 2 to 40 entries, some of which are nearly certain."""
    rng = np.random.default_rng(seed)
    counts = []
    for size in rng.integers(2, 41, count):
        weights = rng.random(size) ** rng.choice([1, 40])
        own = 1 + np.floor(weights / weights.sum() * (TOTAL - size)).astype(np.int64)
        own[rng.integers(size)] += TOTAL - own.sum()
        counts.append(own)
    starts = np.cumsum([0, *map(len, counts)])
    firsts = rng.integers(-50, 50, count).astype(np.int32)
    return Tables(np.concatenate(counts).astype(np.uint32), starts.astype(np.int64), firsts)


def runs_of(seed: int, tables: Tables, sizes: list[int], escapes: float) -> list[Run]:
    """Runs of symbols, some of them outside their tables, up to the ends of 32 bits."""
    rng = np.random.default_rng(seed)
    runs = []
    for size in sizes:
        indices = rng.integers(0, len(tables), size)
        inside = tables.firsts[indices] + np.floor(rng.random(size) * tables.covered[indices])
        far = rng.integers(-(2**31), 2**31, size) >> rng.integers(0, 32, size)
        runs.append((np.where(rng.random(size) < escapes, far, inside).astype(np.int32), indices))
    return runs


def read(reader: SymbolReader, runs: list[Run], tables: Tables) -> list[list[int] | str]:
    """What it reads for those indices, up to the first refusal."""
    out: list[list[int] | str] = []
    for _, indices in runs:
        try:
            out.append(reader.get(indices, tables).tolist())
        except CorruptPayloadError as error:
            return [*out, type(error).__name__]
    return out


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 70),
    sizes=st.lists(st.integers(0, 120), min_size=1, max_size=4),
    escapes=st.sampled_from([0.0, 0.02, 0.6]),
    damage=st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), max_size=3),
    cut=st.integers(0, 8),
)
def test_both_readers_agree(
    seed: int, count: int, sizes: list[int], escapes: float, damage: list[tuple[int, int]], cut: int
) -> None:
    tables = some_tables(seed, count)
    runs = runs_of(seed, tables, sizes, escapes)
    writer = Writer()
    for values, indices in runs:
        writer.put(values, indices, tables)
    data = writer.finish()
    assert read(CompiledReader(data), runs, tables) == [values.tolist() for values, _ in runs]
    damaged = bytearray(data[: max(0, len(data) - cut)])
    for at, flip in damage:
        if damaged:
            damaged[at % len(damaged)] ^= flip
    assert read(CompiledReader(bytes(damaged)), runs, tables) == read(Reader(bytes(damaged)), runs, tables)


def test_the_shipped_tables() -> None:
    tables = tables_of(Bundle.open(default_bundle()).entropy(), "z.tables")
    (run,) = runs_of(1, tables, [20_000], 0.01)
    writer = Writer()
    writer.put(*run, tables)
    assert np.array_equal(CompiledReader(writer.finish()).get(run[1], tables), run[0])


def test_bits_of_no_symbol_and_values_beyond_32_bits_are_refused() -> None:
    tables = some_tables(3, 8)
    indices = np.zeros(200, np.intp)
    refusals = set()
    for seed in range(200):
        data = np.random.default_rng(seed).bytes(400)
        outcomes = [
            read(reader(data), [(indices, indices)], tables)[-1] for reader in (Reader, CompiledReader)
        ]
        assert outcomes[0] == outcomes[1]
        refusals.add(isinstance(outcomes[1], str))
    assert refusals == {True, False}


def test_a_table_that_is_not_there_is_a_programmers_error() -> None:
    with pytest.raises(AssertionError, match="no such table"):
        CompiledReader(b"").get(np.array([5], np.intp), some_tables(0, 2))


def test_it_is_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locator(signature: str, cache: bool = False, nogil: bool = False) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, signature, nogil)

    monkeypatch.setattr(compiled_reader, "njit", no_locator)
    made = compiled_reader._compile("int64(int64)")(len)
    assert made == (len, "int64(int64)", True)
