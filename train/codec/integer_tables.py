"""The integer probability tables of a bundle, made once from the densities that a codec was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.codec.exact import MEAN_STEPS, SCALE_STEPS
from shared.codec.rangecoder import TOTAL
from train.codec.context_model import upper_tail
from train.codec.entropy_model import (
    CHANGE_SCALE_MAX,
    CHANGE_SCALE_MIN,
    SCALE_MAX,
    SCALE_MIN,
    FactorisedPrior,
)
from train.codec.fixed_point import Tensors

_SIGMAS = 5.5  # a Gaussian's mass beyond is less than one count of 2**24
_CHANGE_SIGMAS = 20.0  # beyond it lie 2e-5 of the mass of Student's t


def gaussian_tables() -> Tensors:
    """Tables of z for 64 scales by 16 fractions of the mean: the integers within 5.5 sigmas, and an escape."""
    return _scaled_tables(lambda t: torch.special.ndtr(-t), SCALE_MIN, SCALE_MAX, _SIGMAS)


def change_tables() -> Tensors:
    """Tables of z minus a reference, as many: Student's t within 20 of its scales, and an escape."""
    return _scaled_tables(upper_tail, CHANGE_SCALE_MIN, CHANGE_SCALE_MAX, _CHANGE_SIGMAS)


def _scaled_tables(tail: Callable[[Tensor], Tensor], low: float, high: float, sigmas: float) -> Tensors:
    """tail: P(T > t) of a symmetric density of scale 1."""
    masses, firsts = [], []
    for scale in np.exp(np.linspace(math.log(low), math.log(high), SCALE_STEPS)):
        reach = math.ceil(sigmas * float(scale)) + 1
        for fraction in range(MEAN_STEPS):
            k = torch.arange(-reach, reach + 2, dtype=torch.float64)
            away = (k - fraction / MEAN_STEPS).abs()
            mass = tail((away - 0.5) / float(scale)) - tail((away + 0.5) / float(scale))
            masses.append(mass.numpy())
            firsts.append(-reach)
    return _pack(masses, firsts)


@torch.no_grad()
def prior_tables(prior: FactorisedPrior, reach: int) -> Tensors:
    """Tables of v, one per element and level, level by level.

    Each holds the integers with all but a millionth of the prior's mass, and an escape.
    """
    levels, size, _ = prior.logits.shape
    values = torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None].expand(-1, size)
    prior.double()
    mass = torch.cat([torch.exp2(-prior.bits(values, level)) for level in range(levels)], 1).numpy()
    prior.float()
    masses, firsts = [], []
    for column in mass.T:
        total = np.cumsum(column)
        low = int(np.searchsorted(total, 5e-7))
        high = int(np.searchsorted(total, total[-1] - 5e-7))
        low, high = min(low, reach), max(high, reach)  # zero always has an entry
        masses.append(column[low : high + 1])
        firsts.append(low - reach)
    return _pack(masses, firsts)


def _pack(masses: list[NDArray[np.float64]], firsts: list[int]) -> Tensors:
    counts = [_counts(mass) for mass in masses]
    return {
        "counts": np.concatenate(counts).astype(np.uint32),
        "starts": np.cumsum([0] + [len(c) for c in counts]).astype(np.int64),
        "firsts": np.array(firsts, np.int32),
    }


def _counts(mass: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integer counts of a table and, last, its escape: each at least 1, together 2**24."""
    whole = np.append(mass, max(0.0, 1.0 - float(mass.sum())))
    counts: NDArray[np.int64] = np.floor(whole / whole.sum() * (TOTAL - len(whole))).astype(np.int64) + 1
    counts[np.argmax(counts)] += TOTAL - counts.sum()
    return counts
