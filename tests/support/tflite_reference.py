"""DeepLab as its operations.json lists it, one operation after the other: an independent reference for our modules.

Maps are (1, C, H, W). Padding is computed from each map's size, as TensorFlow's "SAME" does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = {None: lambda x: x, "relu": torch.relu, "relu6": lambda x: x.clamp(0, 6)}


def same(x: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    def both(side: int) -> tuple[int, int]:
        missing = max(0, (-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side)
        return missing // 2, missing - missing // 2

    return F.pad(x, (*both(x.shape[3]), *both(x.shape[2])))


def _resize(x: Tensor, size: tuple[int, int], corners: bool) -> Tensor:
    """Bilinear, without half-pixel centres, by gathering each value's four neighbours."""
    for axis, side in ((2, size[0]), (3, size[1])):
        old = x.shape[axis]
        scale = (old - 1) / max(1, side - 1) if corners else old / side
        at = np.arange(side) * scale
        low = np.minimum(np.floor(at).astype(np.int64), old - 1)
        share = torch.tensor(at - low, dtype=x.dtype).reshape((-1, 1) if axis == 2 else (-1,))
        high = torch.from_numpy(np.minimum(low + 1, old - 1))
        x = x.index_select(axis, torch.from_numpy(low)) * (1 - share) + x.index_select(axis, high) * share
    return x


@torch.no_grad()
def run(folder: Path, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """Logits (1, K, H, W) of the network's own input x (1, 3, H, W). skip: a constant (C,) in place of operation 64."""
    weights = load_file(folder / "weights.safetensors")
    described = json.loads((folder / "operations.json").read_text())
    operations: list[dict[str, Any]] = described["operations"]
    full = operations[-2]["output_shape_nhwc"][1]
    values: dict[int, Tensor] = {described["input"][0]: x}
    for operation in operations[:-1]:  # without ARG_MAX
        given = [values[i] for i in operation["inputs"] if i in values]
        name, number = operation["name"], operation["op"]
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weight, stride, dilation = (
                weights[f"op{number}.weight"],
                operation["stride"],
                operation["dilation"],
            )
            y = same(given[0], weight.shape[2], stride, dilation)
            y = F.conv2d(
                y, weight, weights[f"op{number}.bias"], stride, 0, dilation, operation.get("groups", 1)
            )
            y = ACTIVATIONS[operation["activation"]](y)
            if number == 64 and skip is not None:
                y = skip[None, :, None, None].expand_as(y)
        elif name == "ADD":
            y = given[0] + given[1]
        elif name == "AVERAGE_POOL_2D":
            y = given[0].mean((2, 3), keepdim=True)
        elif name == "CONCATENATION":
            y = torch.cat(given, 1)
        elif name == "RESIZE_BILINEAR":
            # The list is for one size of image; here it may be another.
            step = round(full / operation["output_shape_nhwc"][1])
            size = tuple(-(-side // step) for side in x.shape[2:])
            y = _resize(given[0], size, operation["align_corners"])
        else:
            assert name == "QUANTIZE", name
            y = given[0]
        values[operation["output"]] = y
    return y
