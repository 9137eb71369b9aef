"""Prints a SHA-256 of what the exact path makes of a random codec, for comparison between processes.

python -m support.exact_digest [BACKEND]       BACKEND: numpy (default) or torch; run in tests/, root on the path
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np

from shared.codec.exact import Backend, ExactPath
from support.random_codec import random_latents, random_tensors

# The last layer is large enough that BLAS uses all its threads.
SIZES = {"n": 16, "tau": 128, "grid": (5, 5), "v_size": 64, "hidden": (256,), "predictor": (32,)}
GRIDS = ((5, 5), (3, 7))
BATCHES = (1, 7, 32)


def digest(backend: Backend | None = None) -> str:
    """Over both grids, three batch sizes, folded and not. Raises AssertionError where these differ."""
    total = hashlib.sha256()
    for weight_bits in (7, 13):
        tensors = random_tensors(9, **SIZES, weight_bits=weight_bits)  # type: ignore[arg-type]
        path = ExactPath(tensors, backend)
        v, _ = random_latents(tensors, max(BATCHES), (1, 1), seed=3, wild=0.02)
        for h, w in GRIDS:
            whole = None
            for batch in BATCHES:
                for fold in (False, True):
                    parts = [path(v[at : at + batch], h, w, fold) for at in range(0, len(v), batch)]
                    index, offset = (np.concatenate(half) for half in zip(*parts, strict=True))
                    made = index.astype("<i8").tobytes() + offset.astype("<i4").tobytes()
                    assert whole in (None, made), f"batch {batch}, fold {fold}, grid {h} x {w} differs"
                    whole = made
            total.update(whole or b"")
    return total.hexdigest()


if __name__ == "__main__":
    if sys.argv[1:] == ["torch"]:
        from cloud.engine.exact_torch import TorchBackend

        print(digest(TorchBackend()))
    else:
        print(digest())
