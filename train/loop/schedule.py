"""What decides a step: its learning rate and the items of its batch, from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

# Seeds everything that is drawn. torch takes no larger one, times the steps.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step: linear up to `rate` over `warmup` steps, then a cosine down to 1 % of it.

    steps: of the optimiser, warm-up included.
    """

    steps: int
    rate: float
    warmup: int = 200

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, done)))))


def batch_indices(
    size: int,
    batch: int,
    seed: int,
    start: int,
    steps: int,
) -> Iterator[NDArray[np.int64]]:
    """Indices (batch,) of the items of each step's batch, for the steps start..steps - 1.

    Each epoch visits the `size` items in its own order, drawn from (seed, epoch); a rest smaller than a batch is
    left out.
    """
    per_epoch = max(1, size // batch)
    epoch, order = -1, np.empty(0, np.int64)
    for step in range(start, steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng((seed, epoch)).permutation(size)
        at = step % per_epoch * batch
        yield order[at : at + batch]
