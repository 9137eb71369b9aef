"""The layers of networks for phones: convolutions padded as TensorFlow pads them, and inverted residual blocks.

Batch normalisation is folded into the convolutions. All padding is decided when a network is made, so torch.fx can
trace it: a convolution of stride 2 expects sides that are all even, or all odd (`odd`).

Legend: B images, C channels, H x W pixels, k kernel, s stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv(nn.Module):
    """(B, C, H, W) -> (B, C', H/s, W/s): padding, convolution with a bias, and an activation or none.

    TensorFlow's "SAME" padding of stride 2 lays one pixel less before an even side than after it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        odd: bool = False,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        uneven = stride > 1 and not odd
        before, after = (kernel - 1) // 2 - uneven, (kernel - 1) // 2
        self.pad = nn.ZeroPad2d((before, after, before, after)) if uneven else None
        padding = 0 if uneven else dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        if self.pad is not None:
            x = self.pad(x)
        y: Tensor = self.conv(x)
        return y if self.act is None else self.act(y)


class InvertedResidual(nn.Module):
    """(B, C, H, W) -> (B, C', H/s, W/s): expand, a convolution of each channel, project (Sandler et al., 2018,
    "MobileNetV2"). Where the shapes agree, the input is added."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        expansion: int = 6,
        dilation: int = 1,
        odd: bool = False,
    ) -> None:
        super().__init__()
        wide = expansion * inputs
        self.expand = Conv(inputs, wide, act=nn.ReLU6()) if expansion > 1 else None
        self.depthwise = Conv(
            wide, wide, kernel, stride, dilation=dilation, groups=wide, odd=odd, act=nn.ReLU6()
        )
        self.project = Conv(wide, outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.shortcut else y


class Enlarge(nn.Module):
    """(B, C, H, W) -> (B, C, f H, f W), bilinear; value i of the input lies on value f i of the output.

    That is TensorFlow's resize with neither aligned corners nor half-pixel centres. torch has no such mode, but one
    more row and column make its aligned corners the same.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2] * self.factor + 1, x.shape[3] * self.factor + 1)
        x = F.pad(x, (0, 1, 0, 1), mode="replicate")
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)[:, :, :-1, :-1]


def folded(tensors: Sequence[Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """Weight (O, I, k, k) and bias (O,) of a convolution that a batch normalisation follows.

    tensors: the convolution's weight; the normalisation's weight, bias, running mean and running variance.

    Raises ValueError.
    """
    weight, gamma, beta, mean, variance = tensors
    gain = gamma / torch.sqrt(variance + eps)
    return weight * gain[:, None, None, None], beta - mean * gain


def assign(network: nn.Module, tensors: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A state dict of the network's convolutions and linear layers, in order, from their weights and biases.

    Raises ValueError where there are more or fewer of them, or one has another shape.
    """
    state: dict[str, Tensor] = {}
    layers = [
        (name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    for (name, layer), (weight, bias) in zip(layers, tensors, strict=True):
        if layer.weight.shape != weight.shape:
            raise ValueError(f"{name} has shape {list(layer.weight.shape)}, the file {list(weight.shape)}")
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return state
