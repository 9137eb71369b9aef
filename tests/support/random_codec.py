"""A seeded, valid set of entropy tensors with random weights, in any size: a codec without any training.

Legend: N channels of z (groups), tau codebook entries, h0 x w0 the codebook's own grid, V elements of v.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.codec.exact import MEAN_STEPS, SCALE_STEPS
from shared.codec.latent_codec import LEVELS
from shared.codec.rangecoder import TOTAL

Tensors = dict[str, NDArray[Any]]


def random_tensors(
    seed: int = 0,
    *,
    n: int = 6,
    tau: int = 10,
    grid: tuple[int, int] = (4, 4),
    v_size: int = 5,
    hidden: tuple[int, ...] = (12,),
    predictor: tuple[int, ...] = (8,),
    weight_bits: int = 8,
    qualities: tuple[int, ...] = (),
) -> Tensors:
    """Tensors that `LatentCodec` takes, under the names that a bundle's entropy.safetensors has.

    hidden: widths of the generator's layers before the last; predictor: inner widths of both branches.
    weight_bits: of generator and codebook; 8 keeps small layers within float32, 14 forces float64.
    qualities: of the levels; none: one level without a name.
    """
    rng = np.random.default_rng(seed)
    high = (1 << (weight_bits - 1)) - 1
    tensors: Tensors = {"v.reach": np.array([31], np.int64)}
    inputs, rms = v_size, 10.0
    for i, width in enumerate(hidden):
        rms = _layer(tensors, f"generator.{i}", rng, width, inputs, rms, high, (0, 255))
        inputs = width
    tensors["last.weight"] = _integers(rng, (n * tau, inputs), high)
    tensors["last.bias"] = _integers(rng, (n * tau,), high * 16)
    tensors["codebook.entries"] = _integers(rng, (tau, *grid), high)
    spread = rms * math.sqrt(inputs * tau) * high**2 / 3
    tensors["codebook.rounding"] = _rounding(spread / 60, -511, 511)
    for branch, (low, top) in {
        "mean": (-60 * MEAN_STEPS, 60 * MEAN_STEPS),
        "scale": (0, SCALE_STEPS - 1),
    }.items():
        inputs, rms = n, 60.0
        for i, width in enumerate(predictor):
            rms = _layer(tensors, f"{branch}.{i}", rng, width, inputs, rms, 127, (0, 255))
            inputs = width
        wanted = 100.0 if branch == "mean" else 20.0
        _layer(tensors, f"{branch}.{len(predictor)}", rng, n, inputs, rms, 127, (low, top), wanted)
    # Start the scale in its middle, so that both ends of the tables occur.
    shift = int(tensors[f"scale.{len(predictor)}.rounding"][0])
    tensors[f"scale.{len(predictor)}.bias"] += np.int32(20 << shift)
    v_tables = v_size * max(1, len(qualities))
    tensors |= _gaussian_tables("v.tables", np.zeros(v_tables), rng.uniform(0.5, 6, v_tables))
    if qualities:
        tensors[LEVELS] = np.array(qualities, np.int64)
    scale, fraction = np.divmod(np.arange(SCALE_STEPS * MEAN_STEPS), MEAN_STEPS)
    sigmas = 0.11 * (32 / 0.11) ** (scale / (SCALE_STEPS - 1))
    tensors |= _gaussian_tables("z.tables", fraction / MEAN_STEPS, sigmas)
    return tensors


def random_latents(
    tensors: Tensors, count: int, grid: tuple[int, int], seed: int = 0, wild: float = 0.0
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """v (count, V) and z (count, N, h, w); a share of `wild` elements is anywhere in int32."""
    rng = np.random.default_rng(seed)
    v_size = len(tensors["v.tables.firsts"]) // len(tensors.get(LEVELS, [0]))
    n = len(tensors["last.weight"]) // len(tensors["codebook.entries"])
    v = np.rint(rng.normal(0, 3, (count, v_size)))
    z = np.rint(rng.laplace(0, 4, (count, n, *grid)))
    return _made_wild(v, wild, rng), _made_wild(z, wild, rng)


def _made_wild(x: NDArray[np.float64], share: float, rng: np.random.Generator) -> NDArray[np.int32]:
    anywhere = rng.integers(-(2**31), 2**31, x.shape, np.int64)
    return np.where(rng.random(x.shape) < share, anywhere, x.astype(np.int64)).astype(np.int32)


def _integers(rng: np.random.Generator, shape: tuple[int, ...], high: int) -> NDArray[Any]:
    kind = np.int8 if high <= 127 else np.int16 if high <= 32767 else np.int32
    return rng.integers(-high, high, shape, endpoint=True).astype(kind)


def _rounding(factor: float, low: int, high: int) -> NDArray[np.int64]:
    return np.array([max(1, round(math.log2(max(factor, 2)))), low, high], np.int64)


def _layer(
    tensors: Tensors,
    name: str,
    rng: np.random.Generator,
    outputs: int,
    inputs: int,
    rms: float,
    high: int,
    limits: tuple[int, int],
    wanted: float = 100.0,
) -> float:
    """A layer whose output spreads to about `wanted`; returns that."""
    spread = rms * math.sqrt(inputs) * high / math.sqrt(3)
    tensors[f"{name}.weight"] = _integers(rng, (outputs, inputs), high)
    tensors[f"{name}.bias"] = rng.integers(-int(spread), int(spread), (outputs,)).astype(np.int32)
    tensors[f"{name}.rounding"] = _rounding(spread / wanted, *limits)
    return wanted


def _gaussian_tables(prefix: str, means: NDArray[Any], sigmas: NDArray[Any]) -> Tensors:
    counts: list[NDArray[np.uint32]] = []
    firsts = []
    for mean, sigma in zip(means, sigmas, strict=True):
        half = max(2, min(40, math.ceil(5 * sigma)))
        edges = [0.5 * math.erf((x - 0.5 - mean) / (sigma * math.sqrt(2))) for x in range(-half, half + 2)]
        mass = np.append(np.diff(edges), 0)
        table = np.floor(mass / mass.sum() * (TOTAL - len(mass))).astype(np.int64) + 1
        table[np.argmax(table)] += TOTAL - table.sum()
        counts.append(table.astype(np.uint32))
        firsts.append(-half)
    return {
        f"{prefix}.counts": np.concatenate(counts),
        f"{prefix}.starts": np.cumsum([0] + [len(table) for table in counts]).astype(np.int64),
        f"{prefix}.firsts": np.array(firsts, np.int32),
    }
