"""A trained codec's float entropy model -> the integers of `entropy.safetensors` (DESIGN section 5).

Floats end here: nothing in this module runs on an edge or a serving cloud. Layers become integers as `fixed_point`
says, calibrated on real v; the context's are in `quantise_context`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cloud.networks.transforms import affine
from shared.codec.exact import MEAN_STEPS, SCALE_STEPS, Rounding
from shared.codec.latent_codec import LEVELS, Levels
from train.codec.entropy_model import (
    SCALE_MAX,
    SCALE_MIN,
    HyperpriorGenerator,
    ProbabilityPredictor,
)
from train.codec.feature_codec import FeatureCodec
from train.codec.fixed_point import (
    MEAN_REACH,
    BitWidths,
    Tensors,
    fixed_layer,
    rounded,
    rounding_of,
    weight_fraction_of,
)
from train.codec.integer_tables import gaussian_tables, prior_tables
from train.codec.quantise_context import Sample, context_tensors


@torch.no_grad()
def quantise(
    codec: FeatureCodec,
    v: Tensor,
    precision: BitWidths | None = None,
    qualities: Sequence[int] = (),
    sample: Sample | None = None,
) -> Tensors:
    """Quantises a codec's entropy model to integers.

    v (M, V): real, rounded hyperpriors of all levels to calibrate on.
    qualities: one per level, ascending; not needed for a single level.
    sample: latents of all levels to calibrate a context on.

    Raises ValueError if the qualities do not fit the levels.
    """
    p = precision or BitWidths()
    if codec.context is not None and sample is None:
        raise ValueError("a context needs latents to calibrate on")
    levels = len(codec.prior.logits)
    if levels > 1 and len(qualities) != levels:
        raise ValueError(f"{len(qualities)} qualities for {levels} levels")
    out: Tensors = {}
    reach = (1 << max(6, math.ceil(math.log2(4 * float(v.abs().max()) + 1)))) - 1
    out["v.reach"] = np.array([reach], np.int64)
    coefficients, fraction = _generator(out, codec.generator, v, p)
    entries = codec.codebook.entries
    entry_fraction = weight_fraction_of(entries, p)
    out["codebook.entries"] = rounded(entries, entry_fraction, np.int16)
    maps = torch.einsum("bnt,thw->bnhw", coefficients, entries.double())
    out["codebook.rounding"], fraction = rounding_of(fraction + entry_fraction, maps, p, relu=False)
    _predictor(out, codec.predictor, maps, fraction, p)
    if codec.context is not None:
        assert sample is not None
        out |= context_tensors(codec, sample, fraction)
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
        fraction = fixed_layer(out, f"generator.{i}", weight, bias, fraction, x, p, relu=True)
    last = generator.last
    weight_fraction = weight_fraction_of(last.weight, p)
    out["last.weight"] = rounded(last.weight, weight_fraction, np.int16)
    out["last.bias"] = rounded(last.bias, fraction + weight_fraction, np.int64)
    coefficients = F.linear(x, last.weight.double(), last.bias.double())
    return coefficients.reshape(len(v), generator.groups, generator.tau), fraction + weight_fraction


def _predictor(
    out: Tensors, predictor: ProbabilityPredictor, maps: Tensor, fraction: int, p: BitWidths
) -> None:
    """Quantises both branches of the predictor, calibrated on the codebook's maps (M, n, h, w)."""
    step = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_STEPS - 1)
    ends = {
        "mean": (predictor.mean, MEAN_STEPS, 0.0, -MEAN_REACH, MEAN_REACH),
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
                at = fixed_layer(out, f"{name}.{i}", weight, bias, at, x, p, relu=True)
            else:
                weight, bias = weight.double() * factor, bias.double() * factor + offset
                weight_fraction = max(weight_fraction_of(weight, p), 1 - at)
                out[f"{name}.{i}.weight"] = rounded(weight, weight_fraction, np.int32)
                out[f"{name}.{i}.bias"] = rounded(bias, at + weight_fraction, np.int64)
                out[f"{name}.{i}.rounding"] = Rounding(at + weight_fraction, low, high).tensor()
