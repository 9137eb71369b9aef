"""The exact path on torch tensors: the same integers as numpy's, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import RequestError


class TorchBackend:
    """A `shared.codec.exact.Backend`. device: torch's name of it.

    TF32 would round the factors of a float32 product, so it is refused rather than turned off behind the user's back
    (RequestError: it is the process that is set up so, not the bundle that is damaged).
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
            raise RequestError("the exact path needs torch.backends.cuda.matmul.allow_tf32 = False")

    def array(self, values: NDArray[Any], wide: bool) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values, np.float64 if wide else np.float32))
        return tensor.to(self.device)

    def cast(self, x: Tensor, wide: bool) -> Tensor:
        return x.to(torch.float64 if wide else torch.float32)

    def floor(self, x: Tensor) -> Tensor:
        return torch.floor(x)

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        return torch.clamp(x, low, high)

    def concatenate(self, rows: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(rows))

    def numpy(self, x: Tensor) -> NDArray[Any]:
        array: NDArray[Any] = x.cpu().numpy()
        return array
