"""Fixed-point arithmetic of the exact path: floats of a trained layer -> its integers and the shift after it.

Every linear layer gets one power of two for its weights and one for its output, so that a shift is all that stands
between layers. The powers are the largest that fit the bit widths; activations are calibrated on real ones with a
margin, and clamped beyond it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.codec.exact import Rounding

MEAN_REACH = 1 << 19  # the mean stays within +-2**15, in 1/16


@dataclass(frozen=True)
class BitWidths:
    """Bits of a weight, sign included, and of an activation; margin: the largest activation over the calibrated one."""

    weight_bits: int = 12
    activation_bits: int = 12
    margin: float = 2.0


Tensors = dict[str, NDArray[Any]]


def weight_fraction_of(weight: Tensor, p: BitWidths) -> int:
    largest = max(float(weight.abs().max()), 1e-9)
    return math.floor(math.log2(((1 << (p.weight_bits - 1)) - 1) / largest))


def rounded(values: Tensor, fraction: int, kind: Any) -> NDArray[Any]:
    scaled = torch.round(values.double() * 2.0**fraction).numpy()
    return scaled.astype(np.int64).astype(kind)


def rounding_of(
    fraction: int, calibration: Tensor, p: BitWidths, relu: bool
) -> tuple[NDArray[np.int64], int]:
    """The shift after a sum with `fraction` fractional bits, and the fractional bits that remain."""
    high = (1 << p.activation_bits) - 1
    largest = max(float(calibration.abs().max()) * p.margin, 1e-6)
    kept = min(math.floor(math.log2(high / largest)), fraction - 1)
    return Rounding(fraction - kept, 0 if relu else -high, high).tensor(), kept


def fixed_layer(
    out: Tensors, name: str, weight: Tensor, bias: Tensor, fraction: int, x: Tensor, p: BitWidths, relu: bool
) -> int:
    weight_fraction = weight_fraction_of(weight, p)
    out[f"{name}.weight"] = rounded(weight, weight_fraction, np.int16)
    out[f"{name}.bias"] = rounded(bias, fraction + weight_fraction, np.int64)
    out[f"{name}.rounding"], kept = rounding_of(fraction + weight_fraction, x, p, relu)
    return kept
