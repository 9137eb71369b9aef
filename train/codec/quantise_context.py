"""The context's networks -> integers. Like `train.codec.quantise`, for inputs of several kinds.

A network's inputs are whole numbers (decoded elements) and the codebook's maps, which have fractional bits. Each column
of a weight is scaled so that all products have the same ones; the deviation that training divides an input by goes into
its column.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cloud.networks.transforms import affine
from shared.codec.context import SLICES, Kind
from shared.codec.exact import MEAN_STEPS, SCALE_STEPS, Rounding
from train.codec.context_model import Latents, PassNetwork
from train.codec.entropy_model import CHANGE_SCALE_MAX, CHANGE_SCALE_MIN, SCALE_MAX, SCALE_MIN
from train.codec.feature_codec import FeatureCodec
from train.codec.fixed_point import MEAN_REACH, BitWidths, Tensors, rounded, rounding_of
from train.codec.integer_tables import change_tables

WIDTHS = BitWidths(weight_bits=18, activation_bits=15)
# Large networks have weights that fit 16 bits in a bundle, which halves its integers.
LARGE, LARGE_WIDTHS = 1_000_000, BitWidths(weight_bits=16, activation_bits=15)
SCALES: dict[Kind, tuple[float, float]] = {
    "intra": (SCALE_MIN, SCALE_MAX),
    "inter": (CHANGE_SCALE_MIN, CHANGE_SCALE_MAX),
}


class Sample(NamedTuple):
    """Latents to calibrate on, rounded: v (M, V), z (M, N, h, w), and z of frames before them, or None."""

    v: Tensor
    z: Tensor
    reference: Tensor | None = None


@torch.no_grad()
def context_tensors(codec: FeatureCodec, sample: Sample, map_fraction: int) -> Tensors:
    """The integers of a codec's context. map_fraction: fractional bits of the codebook's maps.

    Networks of the kind inter are left out where the codec has not learned any.
    """
    context = codec.context
    assert context is not None
    out: Tensors = {SLICES: context.slices.cpu().numpy().astype(np.int64)}
    maps = codec.maps(sample.v, sample.z.shape[2], sample.z.shape[3])
    widths = LARGE_WIDTHS if sum(p.numel() for p in context.parameters()) > LARGE else WIDTHS
    kinds: tuple[Kind, ...] = ("intra", "inter") if context.trained("inter") else ("intra",)
    for kind in kinds:
        # Without frames, a latent is calibrated against its neighbour in the sample: more differs than ever will.
        reference = None
        if kind == "inter":
            reference = sample.z.roll(1, 0) if sample.reference is None else sample.reference
        latents = Latents(sample.z, maps, reference)
        for one, network in zip(context.passes.all, context.of_kind(kind), strict=True):
            x = context.inputs(one, latents)[1].double()
            fractions = np.zeros(len(x), np.int64)
            fractions[: codec.config.latent_channels] = map_fraction
            _network(out, f"{kind}.{one.number}", network, x, fractions, SCALES[kind], widths)
    if "inter" in kinds:
        out |= {f"p.tables.{part}": array for part, array in change_tables().items()}
    return out


def _network(
    out: Tensors,
    name: str,
    network: PassNetwork,
    x: Tensor,
    fractions: NDArray[np.int64],
    scales: tuple[float, float],
    widths: BitWidths,
) -> None:
    """One pass's integers. x (K, M): real inputs, with `fractions` fractional bits each."""
    deviation = network.deviation.double()
    y, at = x, fractions
    for i, layer in enumerate(network.hidden):
        weight, bias = (part.double() for part in affine(layer))
        weight = weight / deviation if i == 0 else weight
        y = F.relu(weight @ y + bias[:, None])
        fraction, whole = _common(weight, at, widths)
        out[f"{name}.hidden.{i}.weight"] = whole
        out[f"{name}.hidden.{i}.bias"] = rounded(bias, fraction, np.int64)
        out[f"{name}.hidden.{i}.rounding"], kept = rounding_of(fraction, y, widths, relu=True)
        at = np.full(len(weight), kept, np.int64)
    low, high = map(math.log, scales)
    step = (high - low) / (SCALE_STEPS - 1)
    columns = np.concatenate([at, fractions]) if len(network.hidden) else fractions
    for output, layer, factor, offset, bounds in (
        ("mean", network.mean, float(MEAN_STEPS), 0.0, (-MEAN_REACH, MEAN_REACH)),
        ("scale", network.log_scale, 1 / step, -low / step, (0, SCALE_STEPS - 1)),
    ):
        weight, bias = (part.double() for part in affine(layer))
        weight[:, -len(deviation) :] /= deviation
        fraction, whole = _common(weight * factor, columns, widths)
        out[f"{name}.{output}.weight"] = whole
        out[f"{name}.{output}.bias"] = rounded(bias * factor + offset, fraction, np.int64)
        out[f"{name}.{output}.rounding"] = Rounding(fraction, *bounds).tensor()


def _common(
    weight: Tensor, fractions: NDArray[np.int64], widths: BitWidths
) -> tuple[int, NDArray[np.signedinteger[Any]]]:
    """The fractional bits that all products have, and the weight's integers, for inputs with these fractional bits."""
    most = (1 << (widths.weight_bits - 1)) - 1
    largest = weight.abs().amax(0).clamp(min=1e-9).numpy()
    # The kind of input with the largest weights for its fraction decides; none exceeds the bits.
    fraction = int(np.floor(np.log2(most / largest) + fractions).min())
    fraction = max(fraction, int(fractions.max()), 1)
    powers = torch.from_numpy(2.0 ** (fraction - fractions))
    whole = torch.round(weight * powers).numpy()
    fits = np.abs(whole).max(initial=0) <= np.iinfo(np.int16).max
    return fraction, whole.astype(np.int16 if fits else np.int32)
