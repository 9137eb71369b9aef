"""Floats of a bundle's entropy model, to train it further: what `train.codec.quantise` made integers of.

    v -> generator -> codebook -> maps -> context, and the prior of v

Most layers' powers of two are not stored. Between layers with ReLU any will do, and one is taken that gives weights of
usual size; that of the maps follows from the context's first pass, whose means began as the maps themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.codec.context import KINDS, SLICES, Kind
from shared.codec.exact import MEAN_STEPS, SCALE_STEPS, Rounding
from train.codec.entropy_model import FactorisedPrior
from train.codec.fixed_point import BitWidths
from train.codec.quantise_context import SCALES

WEIGHT_FRACTION = BitWidths().weight_bits - 1  # weights of at most 1
HIDDEN_FRACTION = 11  # of the context's hidden layers: 15 bits up to twice the largest, about 8
FITTING_STEPS, FITTING_RATE = 1500, 0.02

Integers = Mapping[str, NDArray[Any]]


def entropy_floats(integers: Integers) -> dict[str, Tensor]:
    """Generator, codebook and context, by their names in a `FeatureCodec`; they compute the same, but for rounding.

    integers: of a bundle with a context. Raises KeyError where it has none.
    """
    out = {"context.slices": torch.from_numpy(integers[SLICES].copy())}
    maps = _map_fraction(integers)
    fraction, i = 0, 0
    while f"generator.{i}.weight" in integers:
        shift = Rounding.from_tensor(integers[f"generator.{i}.rounding"]).shift
        _layer(out, f"generator.hidden.{i}", integers, f"generator.{i}", fraction)
        fraction += WEIGHT_FRACTION - shift
        i += 1
    _layer(out, "generator.last", integers, "last", fraction)
    shift = Rounding.from_tensor(integers["codebook.rounding"]).shift
    out["codebook.entries"] = _scaled(integers["codebook.entries"], maps + shift - fraction - WEIGHT_FRACTION)
    for kind in KINDS:
        number = 0
        while f"{kind}.{number}.mean.weight" in integers:
            own = {f"{kind}.{number}.{part}": tensor for part, tensor in _pass(integers, kind, number, maps)}
            out |= {f"context.networks.{name}": tensor for name, tensor in own.items()}
            number += 1
    return out


def _pass(integers: Integers, kind: Kind, number: int, maps: int) -> Iterator[tuple[str, Tensor]]:
    """The network of one pass, by the names in a `PassNetwork`. maps: fractional bits of the maps."""
    name = f"{kind}.{number}"
    outputs, i = integers[f"{name}.mean.weight"], 0
    while f"{name}.hidden.{i}.weight" in integers:
        i += 1
    hidden = len(integers[f"{name}.hidden.{i - 1}.weight"]) if i else 0
    inputs = np.zeros(outputs.shape[1] - hidden, np.int64)
    inputs[: len(integers[SLICES])] = maps
    columns = inputs
    for layer in range(i):
        source = f"{name}.hidden.{layer}"
        fraction = Rounding.from_tensor(integers[f"{source}.rounding"]).shift + HIDDEN_FRACTION
        yield f"hidden.{layer}.weight", _scaled(integers[f"{source}.weight"], fraction - columns)
        yield f"hidden.{layer}.bias", _scaled(integers[f"{source}.bias"], fraction)
        columns = np.full(len(integers[f"{source}.weight"]), HIDDEN_FRACTION)
    low, high = map(math.log, SCALES[kind])
    step = (high - low) / (SCALE_STEPS - 1)
    columns = np.concatenate([columns, inputs]) if i else inputs
    for part, to, factor, offset in (
        ("mean", "mean", 1 / MEAN_STEPS, 0.0),
        ("scale", "log_scale", step, low),
    ):
        fraction = Rounding.from_tensor(integers[f"{name}.{part}.rounding"]).shift
        yield f"{to}.weight", factor * _scaled(integers[f"{name}.{part}.weight"], fraction - columns)
        yield f"{to}.bias", factor * _scaled(integers[f"{name}.{part}.bias"], fraction) + offset


def _layer(out: dict[str, Tensor], name: str, integers: Integers, source: str, fraction: int) -> None:
    """A linear layer whose inputs have `fraction` fractional bits."""
    out[f"{name}.weight"] = _scaled(integers[f"{source}.weight"], WEIGHT_FRACTION)
    out[f"{name}.bias"] = _scaled(integers[f"{source}.bias"], fraction + WEIGHT_FRACTION)


def _scaled(values: NDArray[Any], fraction: int | NDArray[np.int64]) -> Tensor:
    """fraction: of all values, or of each column."""
    return torch.from_numpy(values.astype(np.float64) * np.exp2(-np.asarray(fraction, np.float64))).float()


def _map_fraction(integers: Integers) -> int:
    """Fractional bits of the maps with which the first pass takes its own channels' maps for means, about."""
    first = integers["intra.0.mean.weight"]
    (own,) = np.nonzero(integers[SLICES] == 0)
    linear = first[:, -len(integers[SLICES]) :]
    factors = np.abs(linear[np.arange(len(own)), own]).astype(np.float64)
    fraction = Rounding.from_tensor(integers["intra.0.mean.rounding"]).shift
    return fraction - round(math.log2(max(1.0, float(np.median(factors))) / MEAN_STEPS))


@torch.enable_grad()
def fit_prior(prior: FactorisedPrior, integers: Integers) -> float:
    """Fits the densities of v to a bundle's tables. Returns what they cost beyond them, in bits of a v on average."""
    levels, size, _ = prior.logits.shape
    starts, firsts = integers["v.tables.starts"], integers["v.tables.firsts"]
    reach = int(integers["v.reach"][0])
    mass = np.zeros((levels * size, 2 * reach + 1))
    for row, (start, end, first) in enumerate(zip(starts, starts[1:], firsts, strict=False)):
        counts = integers["v.tables.counts"][start : end - 1]  # the last is the escape
        mass[row, first + reach : first + reach + len(counts)] = counts / counts.sum()
    wanted = torch.from_numpy(mass).float().reshape(levels, size, -1).permute(0, 2, 1)
    values = torch.arange(-reach, reach + 1.0)[:, None].expand(-1, size)
    least = -(wanted * wanted.clamp(min=1e-12).log2()).sum((1, 2))
    optimiser = torch.optim.Adam(prior.parameters(), lr=FITTING_RATE)
    for _ in range(FITTING_STEPS):
        spent = torch.stack([(wanted[level] * prior.bits(values, level)).sum() for level in range(levels)])
        optimiser.zero_grad()
        spent.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return float((spent.detach() - least).mean())
