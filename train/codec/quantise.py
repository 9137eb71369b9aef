"""A trained codec's float entropy model -> the integers of `entropy.safetensors` (DESIGN section 5).

Every linear layer gets one power of two for its weights and one for its output, so that a shift is all that stands
between layers. The powers are the largest that fit `weight_bits` and `activation_bits`; activations are calibrated on
real v with a margin, and clamped beyond it. Floats end here: nothing in this module runs on an edge or a serving
cloud.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cloud.networks.transforms import affine
from shared.codec.exact import MEAN_STEPS, SCALE_STEPS, Rounding
from shared.codec.latent_codec import LEVELS, Levels
from shared.codec.rangecoder import TOTAL
from train.codec.entropy_model import (
    SCALE_MAX,
    SCALE_MIN,
    FactorisedPrior,
    HyperpriorGenerator,
    ProbabilityPredictor,
)
from train.codec.feature_codec import FeatureCodec

_SIGMAS = 5.5  # a Gaussian's mass beyond is less than one count of 2**24
_MEAN_REACH = 1 << 19  # the mean stays within +-2**15, in 1/16


@dataclass(frozen=True)
class BitWidths:
    """Bits of a weight, sign included, and of an activation; margin: the largest activation over the calibrated one."""

    weight_bits: int = 12
    activation_bits: int = 12
    margin: float = 2.0


Tensors = dict[str, NDArray[Any]]


@torch.no_grad()
def quantise(
    codec: FeatureCodec, v: Tensor, precision: BitWidths | None = None, qualities: Sequence[int] = ()
) -> Tensors:
    """Quantises a codec's entropy model to integers.

    v (M, V): real, rounded hyperpriors of all levels to calibrate on.
    qualities: one per level, ascending; not needed for a single level.

    Raises ValueError if the qualities do not fit the levels.
    """
    p = precision or BitWidths()
    levels = len(codec.prior.logits)
    if levels > 1 and len(qualities) != levels:
        raise ValueError(f"{len(qualities)} qualities for {levels} levels")
    out: Tensors = {}
    reach = (1 << max(6, math.ceil(math.log2(4 * float(v.abs().max()) + 1)))) - 1
    out["v.reach"] = np.array([reach], np.int64)
    coefficients, fraction = _generator(out, codec.generator, v, p)
    entries = codec.codebook.entries
    entry_fraction = _weight_fraction(entries, p)
    out["codebook.entries"] = _round(entries, entry_fraction, np.int16)
    maps = torch.einsum("bnt,thw->bnhw", coefficients, entries.double())
    out["codebook.rounding"], fraction = _rounding(fraction + entry_fraction, maps, p, relu=False)
    _predictor(out, codec.predictor, maps, fraction, p)
    out |= {f"z.tables.{part}": array for part, array in gaussian_tables().items()}
    out |= {f"v.tables.{part}": array for part, array in prior_tables(codec.prior, reach).items()}
    if levels > 1:
        out[LEVELS] = np.array(Levels(tuple(qualities)).qualities, np.int64)
    return out


def _generator(out: Tensors, generator: HyperpriorGenerator, v: Tensor, p: BitWidths) -> tuple[Tensor, int]:
    """Quantises the generator; returns its coefficients (M, n, tau) for v and their fraction bits."""
    fraction, x = 0, v.double()
    for i, layer in enumerate(generator.hidden):
        weight, bias = affine(layer)
        x = F.relu(F.linear(x, weight.double(), bias.double()))
        fraction = _layer(out, f"generator.{i}", weight, bias, fraction, x, p, relu=True)
    last = generator.last
    weight_fraction = _weight_fraction(last.weight, p)
    out["last.weight"] = _round(last.weight, weight_fraction, np.int16)
    out["last.bias"] = _round(last.bias, fraction + weight_fraction, np.int64)
    coefficients = F.linear(x, last.weight.double(), last.bias.double())
    return coefficients.reshape(len(v), generator.groups, generator.tau), fraction + weight_fraction


def _predictor(
    out: Tensors, predictor: ProbabilityPredictor, maps: Tensor, fraction: int, p: BitWidths
) -> None:
    """Quantises both branches of the predictor, calibrated on the codebook's maps (M, n, h, w)."""
    step = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_STEPS - 1)
    ends = {
        "mean": (predictor.mean, MEAN_STEPS, 0.0, -_MEAN_REACH, _MEAN_REACH),
        # The last layer of this branch gives steps of the scale table.
        "scale": (predictor.log_scale, 1 / step, -math.log(SCALE_MIN) / step, 0, SCALE_STEPS - 1),
    }
    for name, (branch, factor, offset, low, high) in ends.items():
        x, at = maps, fraction
        for i, layer in enumerate(branch):
            weight, bias = affine(layer)
            weight = weight[:, :, 0, 0]
            if i < len(branch) - 1:
                x = F.relu(torch.einsum("oi,bihw->bohw", weight.double(), x) + bias.double()[:, None, None])
                at = _layer(out, f"{name}.{i}", weight, bias, at, x, p, relu=True)
            else:
                weight, bias = weight.double() * factor, bias.double() * factor + offset
                weight_fraction = max(_weight_fraction(weight, p), 1 - at)
                out[f"{name}.{i}.weight"] = _round(weight, weight_fraction, np.int32)
                out[f"{name}.{i}.bias"] = _round(bias, at + weight_fraction, np.int64)
                out[f"{name}.{i}.rounding"] = Rounding(at + weight_fraction, low, high).tensor()


def _weight_fraction(weight: Tensor, p: BitWidths) -> int:
    largest = max(float(weight.abs().max()), 1e-9)
    return math.floor(math.log2(((1 << (p.weight_bits - 1)) - 1) / largest))


def _round(values: Tensor, fraction: int, kind: Any) -> NDArray[Any]:
    scaled = torch.round(values.double() * 2.0**fraction).numpy()
    return scaled.astype(np.int64).astype(kind)


def _rounding(fraction: int, calibration: Tensor, p: BitWidths, relu: bool) -> tuple[NDArray[np.int64], int]:
    """The shift after a sum with `fraction` fractional bits, and the fractional bits that remain."""
    high = (1 << p.activation_bits) - 1
    largest = max(float(calibration.abs().max()) * p.margin, 1e-6)
    kept = min(math.floor(math.log2(high / largest)), fraction - 1)
    return Rounding(fraction - kept, 0 if relu else -high, high).tensor(), kept


def _layer(
    out: Tensors, name: str, weight: Tensor, bias: Tensor, fraction: int, x: Tensor, p: BitWidths, relu: bool
) -> int:
    weight_fraction = _weight_fraction(weight, p)
    out[f"{name}.weight"] = _round(weight, weight_fraction, np.int16)
    out[f"{name}.bias"] = _round(bias, fraction + weight_fraction, np.int64)
    out[f"{name}.rounding"], kept = _rounding(fraction + weight_fraction, x, p, relu)
    return kept


def gaussian_tables() -> Tensors:
    """Tables of z for 64 scales by 16 fractions of the mean: the integers within 5.5 sigmas, and an escape."""
    scales = np.exp(np.linspace(math.log(SCALE_MIN), math.log(SCALE_MAX), SCALE_STEPS))
    masses, firsts = [], []
    for scale in scales:
        reach = math.ceil(_SIGMAS * float(scale)) + 1
        for fraction in range(MEAN_STEPS):
            k = torch.arange(-reach, reach + 2, dtype=torch.float64)
            away = (k - fraction / MEAN_STEPS).abs()
            upper = torch.special.ndtr((0.5 - away) / float(scale))
            mass = (upper - torch.special.ndtr((-0.5 - away) / float(scale))).numpy()
            masses.append(mass)
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
