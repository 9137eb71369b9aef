"""The exact path gives one answer: in floats or in Python's integers, folded or not, in any batch, anywhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.exact import (
    FLOAT32_EXACT,
    FLOAT64_EXACT,
    ExactPath,
    InexactError,
    Rounding,
    resize_entries,
)
from support.exact_digest import digest
from support.random_codec import Tensors, random_latents, random_tensors

ROOT = Path(__file__).parents[3]


# The reference: loops over Python integers, written from the text of shared/codec/exact.py and nothing else.


def rounded(x: int, spec: Any) -> int:
    shift, low, high = (int(s) for s in spec)
    return min(max((x + (1 << (shift - 1))) >> shift, low), high)


def layer(tensors: Tensors, name: str, x: list[int]) -> list[int]:
    weight, bias = tensors[f"{name}.weight"].tolist(), tensors[f"{name}.bias"].tolist()
    sums = [sum(a * b for a, b in zip(row, x, strict=True)) + c for row, c in zip(weight, bias, strict=True)]
    spec = tensors.get(f"{name}.rounding")
    return sums if spec is None else [rounded(s, spec) for s in sums]


def chain(tensors: Tensors, name: str, x: list[int]) -> list[int]:
    i = 0
    while f"{name}.{i}.weight" in tensors:
        x = layer(tensors, f"{name}.{i}", x)
        i += 1
    return x


def interpolated(entry: list[list[int]], h: int, w: int) -> list[list[int]]:
    """Bilinear between cell centres, rows first, each axis rounded to the nearest integer, halves up."""

    def line(values: list[int], size: int) -> list[int]:
        old = len(values)
        out = []
        for i in range(size):
            # In units of 1 / (2 size) of an old cell, from the first old centre.
            centre = min(max((2 * i + 1) * old - size, 0), 2 * size * (old - 1))
            left, part = divmod(centre, 2 * size)
            right = min(left + 1, old - 1)
            out.append((values[left] * (2 * size - part) + values[right] * part + size) // (2 * size))
        return out

    if (len(entry), len(entry[0])) == (h, w):
        return entry
    columns = [line([row[x] for row in entry], h) for x in range(len(entry[0]))]
    return [line([column[y] for column in columns], w) for y in range(h)]


def reference(tensors: Tensors, v: list[int], h: int, w: int) -> tuple[Any, Any]:
    """-> table index and offset (n, h, w)."""
    reach = int(tensors["v.reach"][0])
    x = chain(tensors, "generator", [min(max(e, -reach), reach) for e in v])
    coefficients = layer(tensors, "last", x)
    entries = [interpolated(entry, h, w) for entry in tensors["codebook.entries"].tolist()]
    tau = len(entries)
    n = len(coefficients) // tau
    index, offset = np.zeros((n, h, w), np.int64), np.zeros((n, h, w), np.int64)
    for y in range(h):
        for x_ in range(w):
            maps = [
                rounded(
                    sum(coefficients[g * tau + t] * entries[t][y][x_] for t in range(tau)),
                    tensors["codebook.rounding"],
                )
                for g in range(n)
            ]
            mean, scale = chain(tensors, "mean", maps), chain(tensors, "scale", maps)
            for g in range(n):
                whole, sixteenths = divmod(mean[g], 16)
                index[g, y, x_], offset[g, y, x_] = 16 * scale[g] + sixteenths, whole
    return index, offset


def assert_equals_reference(tensors: Tensors, v: Any, h: int, w: int) -> None:
    path = ExactPath(tensors)
    expected = [reference(tensors, row.tolist(), h, w) for row in v]
    for fold in (False, True, None):
        index, offset = path(v, h, w, fold)
        assert offset.dtype == np.int32
        for i, (want_index, want_offset) in enumerate(expected):
            np.testing.assert_array_equal(index[i], want_index)
            np.testing.assert_array_equal(offset[i], want_offset)


@pytest.mark.parametrize("weight_bits", [3, 8, 14, 18])
@pytest.mark.parametrize("hidden", [(), (12,), (9, 17)])
@pytest.mark.parametrize("grid", [(4, 4), (1, 1), (7, 3)])
def test_equals_the_reference(weight_bits: int, hidden: tuple[int, ...], grid: tuple[int, int]) -> None:
    tensors = random_tensors(len(hidden) + weight_bits, hidden=hidden, weight_bits=weight_bits)
    v, _ = random_latents(tensors, 3, grid, seed=1, wild=0.3)
    assert_equals_reference(tensors, v, *grid)


@given(
    st.integers(0, 2**20),
    st.integers(1, 5),
    st.integers(1, 6),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(1, 5),
    st.lists(st.integers(1, 6), max_size=2),
    st.integers(2, 16),
)
@settings(deadline=None, max_examples=40)
def test_equals_the_reference_in_any_size(
    seed: int,
    n: int,
    tau: int,
    own: tuple[int, int],
    grid: tuple[int, int],
    v_size: int,
    hidden: list[int],
    weight_bits: int,
) -> None:
    tensors = random_tensors(
        seed,
        n=n,
        tau=tau,
        grid=own,
        v_size=v_size,
        hidden=tuple(hidden),
        predictor=(3,),
        weight_bits=weight_bits,
    )
    v, _ = random_latents(tensors, 2, grid, seed, wild=0.2)
    assert_equals_reference(tensors, v, *grid)


def test_random_codec_exercises_the_path() -> None:
    tensors = random_tensors(0)
    v, _ = random_latents(tensors, 32, (4, 4))
    index, offset = ExactPath(tensors)(v, 4, 4)
    assert len(np.unique(index)) > 200
    assert len(np.unique(offset)) > 8
    assert index.min() >= 0
    assert index.max() < 1024


def test_both_floats_are_used() -> None:
    kinds = {kind for _, kind in ExactPath(random_tensors(0)).bounds().values()}
    assert kinds == {"float32", "float64"}
    narrow = random_tensors(0, tau=2, weight_bits=4)
    assert ExactPath(narrow).bounds()["codebook"][1] == "float32"


def test_one_digest_for_batches_folds_threads_processes_and_libraries() -> None:
    here = digest()
    backends = ["numpy"] + (["torch"] if importlib.util.find_spec("torch") else [])
    for backend in backends:
        for threads in ("1", "2"):
            names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
            done = subprocess.run(
                [sys.executable, "-m", "support.exact_digest", backend],
                env=os.environ
                | dict.fromkeys(names, threads)
                | {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip() == here, f"{backend} with {threads} threads"


# The digest of the same seeds on every machine, library version and release.
DIGEST = "eca672af0dc2160fe04c2dca12081c07727c25baece0f31d6a7f44ec4047e132"


def test_digest_is_the_known_one() -> None:
    assert digest() == DIGEST


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_equals_numpy(device: str) -> None:
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from cloud.engine.exact_torch import TorchBackend

    if device == "cuda":  # on the CPU, the digest is compared in processes of their own
        assert digest(TorchBackend(device)) == DIGEST
    for seed in range(20):
        tensors = random_tensors(seed, weight_bits=4 + seed % 12)
        v, _ = random_latents(tensors, 5, (4, 4), seed, wild=0.2)
        for grid in ((4, 4), (5, 2)):
            for ours, theirs in zip(
                ExactPath(tensors)(v, *grid), ExactPath(tensors, TorchBackend(device))(v, *grid), strict=True
            ):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)


# The proof of the bounds.


def plain(**changes: Any) -> Tensors:
    """The smallest path: one v, one group, one entry, every weight 1, so that a bound can be read off."""
    one, none = np.ones((1, 1), np.int64), np.zeros(1, np.int64)
    tensors: Tensors = {
        "v.reach": np.array([1]),
        "last.weight": one,
        "last.bias": none,
        "codebook.entries": np.ones((1, 1, 1), np.int64),
        "codebook.rounding": np.array([1, -8, 8]),
        "mean.0.weight": one,
        "mean.0.bias": none,
        "mean.0.rounding": np.array([1, -100, 100]),
        "scale.0.weight": one,
        "scale.0.bias": none,
        "scale.0.rounding": np.array([1, 0, 63]),
    }
    return tensors | changes


def generator(weight: int, bias: int, shift: int = 1) -> Tensors:
    return {
        "generator.0.weight": np.array([[weight]]),
        "generator.0.bias": np.array([bias]),
        "generator.0.rounding": np.array([shift, -1, 1]),
    }


def test_bound_is_reached_by_a_constructed_worst_case() -> None:
    tensors = random_tensors(4, hidden=(11,), weight_bits=9)
    weight, bias = (tensors[f"generator.0.{part}"].astype(object) for part in ("weight", "bias"))
    reach, half = int(tensors["v.reach"][0]), 1 << (int(tensors["generator.0.rounding"][0]) - 1)
    bias = np.abs(bias)
    tensors["generator.0.bias"] = bias.astype(np.int64)
    bound, _ = ExactPath(tensors).bounds()["generator.0"]
    row = int(np.argmax(np.abs(weight).sum(axis=1) * reach + bias))
    worst = np.sign(weight[row].astype(np.int64)) * reach
    assert int(weight[row] @ worst + bias[row]) + half == bound


def test_codebook_bound_is_reached_by_a_constructed_worst_case() -> None:
    rng = np.random.default_rng(0)
    last = rng.integers(1, 100, (6, 4))  # 2 groups x tau 3; positive, and so are the generator's outputs
    entries = rng.integers(1, 100, (3, 2, 2))
    entries[:, 0, 0] = entries.max(axis=(1, 2))
    narrow = np.ones((2, 2), np.int64)
    tensors = plain(
        **{
            "v.reach": np.array([50]),
            "last.weight": last,
            "last.bias": np.full(6, 77),
            "codebook.entries": entries,
            "codebook.rounding": np.array([12, -8, 8]),
            "mean.0.weight": narrow,
            "mean.0.bias": np.zeros(2, np.int64),
            "scale.0.weight": narrow,
            "scale.0.bias": np.zeros(2, np.int64),
        }
    )
    coefficients = (last.sum(axis=1) * 50 + 77).reshape(2, 3)
    reached = int((coefficients @ entries[:, 0, 0]).max()) + (1 << 11)
    assert ExactPath(tensors).bounds()["codebook"][0] == reached


def test_a_bound_just_inside_float32_runs_in_float32_and_is_exact() -> None:
    for over, kind in ((0, "float32"), (1, "float64")):
        # |w| + |b| + half = 2**24 - 1 + over
        tensors = plain(**generator(FLOAT32_EXACT - 1 - 5 - 1 + over, 5, shift=1))
        path = ExactPath(tensors)
        assert path.bounds()["generator.0"] == (FLOAT32_EXACT - 1 + over, kind)
        tensors["generator.0.rounding"] = np.array([1, -(FLOAT32_EXACT - 1), FLOAT32_EXACT - 1])
        for v in (-1, 0, 1):
            assert_equals_reference(tensors, np.array([[v]], np.int32), 1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        # v.reach x weight = 2**53 with the bias, one too many
        generator(1 << 30, FLOAT64_EXACT - 1 - (1 << 30)),
        generator(1, FLOAT64_EXACT),
        generator(1, -FLOAT64_EXACT),
        generator(1, np.iinfo(np.int64).min),
        generator(1, 0, shift=54),
        {"last.bias": np.array([FLOAT64_EXACT])},
        {"codebook.rounding": np.array([54, -8, 8])},
        {"codebook.entries": np.full((1, 1, 1), 1 << 30), "last.bias": np.array([1 << 24])},
        {"mean.0.bias": np.array([FLOAT64_EXACT])},
        {"scale.0.bias": np.array([-FLOAT64_EXACT])},
        # What would overflow the proof's own sums and look small.
        {"last.weight": np.full((1, 4), 1 << 62)} | {"v.reach": np.array([1])},
        {"last.weight": np.array([[np.iinfo(np.int64).min]])},
        {"last.weight": np.full((1, 1), (1 << 64) - 1, np.uint64)},
        {"codebook.entries": np.full((1, 1, 1), np.iinfo(np.int64).min)},
        # float32 would round v itself before the first layer.
        {"v.reach": np.array([FLOAT32_EXACT])},
        {"v.reach": np.array([-1])},
    ],
)
def test_a_broken_bound_is_refused(changes: Tensors) -> None:
    with pytest.raises(InexactError):
        ExactPath(plain(**changes))


def test_the_largest_bound_is_taken_and_exact() -> None:
    tensors = plain(**generator(1 << 30, FLOAT64_EXACT - 2 - (1 << 30)))
    assert ExactPath(tensors).bounds()["generator.0"] == (FLOAT64_EXACT - 1, "float64")
    for v in (-1, 0, 1):
        assert_equals_reference(tensors, np.array([[v]], np.int32), 1, 1)


def test_lowest_int8_counts_in_full() -> None:
    tensors = plain(**{"last.weight": np.full((1, 1), -128, np.int8), "v.reach": np.array([10])})
    assert ExactPath(tensors).bounds()["codebook"][0] == 1280 + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"scale.0.rounding": np.array([1, 0, 64])},
        {"scale.0.rounding": np.array([1, -1, 63])},
        {"mean.0.rounding": np.array([0, -8, 8])},
        {"mean.0.rounding": np.array([1, 9, 8])},
        {"mean.0.rounding": np.array([1, -8, FLOAT32_EXACT])},
        {"mean.0.rounding": np.array([1, -8])},
        {"mean.0.bias": np.zeros(2, np.int64)},
        {"mean.0.weight": np.ones((1, 2), np.int64)},
        {"mean.0.weight": np.ones((2, 1), np.int64), "mean.0.bias": np.zeros(2, np.int64)},
        {"last.weight": np.ones((2, 1, 1), np.int64)},
        {"last.bias": np.zeros(2, np.int64)},
        {"codebook.entries": np.ones((2, 1, 1), np.int64)},
        {"codebook.entries": np.ones((1, 1), np.int64)},
        generator(1, 0) | {"last.weight": np.ones((1, 2), np.int64)},
        {"generator.0.weight": np.ones((0, 1), np.int64), "generator.0.bias": np.zeros(0, np.int64)},
    ],
)
def test_tensors_that_do_not_fit_together(changes: Tensors) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        ExactPath(plain(**changes))
    assert not isinstance(caught.value, InexactError)


@pytest.mark.parametrize("name", sorted(plain()))
def test_a_missing_tensor(name: str) -> None:
    tensors = plain()
    del tensors[name]
    with pytest.raises((KeyError, ValueError)):
        ExactPath(tensors)


@given(st.integers(-(2**23), 2**23), st.integers(1, 20), st.integers(-300, 0), st.integers(0, 300))
def test_rounding_is_the_integer_one(x: int, shift: int, low: int, high: int) -> None:
    from shared.codec.exact import NumpyBackend

    for kind in (np.float32, np.float64):
        made = Rounding(shift, low, high).apply(np.array([x], kind), NumpyBackend())
        assert made.dtype == kind
        assert int(made[0]) == rounded(x, (shift, low, high))
    assert Rounding.from_tensor(Rounding(shift, low, high).tensor()) == Rounding(shift, low, high)


# Grids.


def test_own_grid_is_left_as_it_is() -> None:
    entries = np.arange(12).reshape(1, 3, 4)
    np.testing.assert_array_equal(resize_entries(entries, 3, 4), entries)


def test_resizing_by_hand() -> None:
    # Old centres at 1/2 and 3/2 of two cells; new ones at 1/4, 3/4, 5/4 and 7/4: clamped, 1/4, 3/4, clamped.
    np.testing.assert_array_equal(resize_entries(np.array([[[0, 100]]]), 1, 4), [[[0, 25, 75, 100]]])
    np.testing.assert_array_equal(resize_entries(np.array([[[0], [100]]]), 1, 1), [[[50]]])
    np.testing.assert_array_equal(resize_entries(np.array([[[0, 1]]]), 1, 1), [[[1]]])  # halves up
    np.testing.assert_array_equal(resize_entries(np.array([[[0, -1]]]), 1, 1), [[[0]]])
    np.testing.assert_array_equal(resize_entries(np.full((1, 1, 1), 9), 2, 3), np.full((1, 2, 3), 9))


@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 40)] * 2))
@settings(deadline=None)
def test_a_resized_entry_never_passes_its_extremes(
    seed: int, own: tuple[int, int], grid: tuple[int, int]
) -> None:
    entries = np.random.default_rng(seed).integers(-(2**31), 2**31, (3, *own))
    made = resize_entries(entries, *grid)
    assert made.shape == (3, *grid)
    assert (made.max(axis=(1, 2)) <= entries.max(axis=(1, 2))).all()
    assert (made.min(axis=(1, 2)) >= entries.min(axis=(1, 2))).all()
    np.testing.assert_array_equal(made[0], interpolated(entries[0].tolist(), *grid))


def test_hostile_grids_do_not_pile_up() -> None:
    path = ExactPath(random_tensors(0, tau=64))
    v = np.zeros((1, 5), np.int32)
    for h in range(1, 30):
        path(v, h, 3, fold=False)
    assert len(path._grids) <= 4
    # The last layer is the largest matrix of the preset by far: all grids share one copy.
    assert len({id(weight) for weight, _, _ in path._grids.values()}) == 1


class Hesitant(OrderedDict[Any, Any]):
    """Lets another thread run between looking and taking."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        time.sleep(1e-4)
        return found


def test_many_grids_from_many_threads() -> None:
    path = ExactPath(random_tensors(0))
    path._grids = Hesitant()
    v, _ = random_latents(random_tensors(0), 1, (1, 1))
    expected = {h: ExactPath(random_tensors(0))(v, h, 2) for h in range(1, 9)}
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for h in rng.integers(1, 9, 60).tolist():
                for ours, want in zip(path(v, h, 2), expected[h], strict=True):
                    np.testing.assert_array_equal(ours, want)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
