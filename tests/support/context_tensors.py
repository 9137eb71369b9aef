"""Random integers that make a codec with a context, small and fast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.codec.context import KINDS, SLICES, Passes
from shared.codec.exact import MEAN_STEPS, SCALE_STEPS, Rounding
from train.codec.integer_tables import gaussian_tables

HIDDEN = 6


def context_tensors(
    slices: tuple[int, ...] = (0, 1, 1, 2),
    maps_reach: int = 2047,
    seed: int = 0,
    kinds: tuple[str, ...] = KINDS,
) -> dict[str, NDArray[Any]]:
    """The context's tensors for channels with these slices."""
    rng = np.random.default_rng(seed)
    out: dict[str, NDArray[Any]] = {SLICES: np.array(slices, np.int64)}
    passes = Passes(out[SLICES])

    def layer(name: str, outputs: int, inputs: int, rounding: Rounding) -> None:
        out[f"{name}.weight"] = rng.integers(-40, 41, (outputs, inputs)).astype(np.int16)
        out[f"{name}.bias"] = rng.integers(-900, 901, outputs).astype(np.int64)
        out[f"{name}.rounding"] = rounding.tensor()

    for kind in kinds:
        for one in passes.all:
            name, inputs = f"{kind}.{one.number}", len(passes.reaches(kind, one, maps_reach))
            layer(f"{name}.hidden.0", HIDDEN, inputs, Rounding(6, 0, 1023))
            for output, rounding in (
                ("mean", Rounding(9, -(1 << 19), 1 << 19)),
                ("scale", Rounding(10, 0, SCALE_STEPS - 1)),
            ):
                layer(f"{name}.{output}", len(one.own), HIDDEN + inputs, rounding)
    out |= {f"p.tables.{part}": array for part, array in gaussian_tables().items()}
    assert len(out["p.tables.firsts"]) == MEAN_STEPS * SCALE_STEPS
    return out
