"""The reference networks, and a network's split into front and tail. Knows no codec.

Legend: B pictures, H x W pixels, C feature channels, s stride of the feature.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from shared.types import Frozen

REFERENCE_CLASSIFIER = "reference-classifier"


class ClassifierConfig(Frozen):
    """Sizes of the reference classifier.

    stride: pixels per feature cell, a power of two. feature_channels: C. widths: channels at strides 2, 4, 8 ..., the
    last repeated as needed. head_widths: channels of the tail's convolutions.
    """

    classes: int = Field(ge=2)
    stride: int = Field(16, ge=2, le=64)
    feature_channels: int = Field(8, ge=1)
    widths: tuple[int, ...] = (16, 32, 64, 96)
    head_widths: tuple[int, ...] = (96, 128)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class ReferenceClassifier(nn.Sequential):
    """Image (B, 3, H, W) -> logits (B, classes), as a plain sequence, so that any layer can be the split.

    Layers 1..m: one convolution block per halving, one more at the last stride, and a convolution to C channels: the
    feature (B, C, H/s, W/s). Then convolution blocks, global pooling and a linear layer. The method's own table of
    this network is lost; the depth and widths are ours.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        halvings = config.stride.bit_length() - 1
        if 1 << halvings != config.stride:
            raise ValueError(f"stride must be a power of two, not {config.stride}")
        widths = [config.widths[min(i, len(config.widths) - 1)] for i in range(halvings)]
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers.append(_block(channels, width, 2))
            channels = width
        layers.append(_block(channels, channels, 1))
        layers.append(nn.Conv2d(channels, config.feature_channels, 1))
        self_split = len(layers)
        channels = config.feature_channels
        for i, width in enumerate(config.head_widths):
            layers.append(_block(channels, width, 1 if i == 0 else 2))
            channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, config.classes)]
        super().__init__(*layers)
        self.config = config
        self.split_layer = self_split


def build_network(name: str, config: dict[str, Any]) -> ReferenceClassifier:
    """A network from its name and plain values, as a manifest or a checkpoint holds them. Raises ValueError."""
    if name != REFERENCE_CLASSIFIER:
        raise ValueError(f"unknown network {name!r}; known: {REFERENCE_CLASSIFIER}")
    return ReferenceClassifier(ClassifierConfig.model_validate(config))


def split(network: nn.Sequential, layer: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Front (layers 1..layer) and tail (the rest), sharing the network's modules; either may be empty.

    Raises ValueError where the network has no such layer.
    """
    if not 0 <= layer <= len(network):
        raise ValueError(f"split layer {layer}: the network has layers 0..{len(network)}")
    children = list(network.children())
    return nn.Sequential(*children[:layer]), nn.Sequential(*children[layer:])


def feature_shape(front: nn.Module, height: int, width: int) -> tuple[int, ...]:
    """Shape of one picture's feature, without the batch."""
    import torch

    was = front.training
    front.eval()
    with torch.no_grad():
        shape = tuple(front(torch.zeros(1, 3, height, width)).shape[1:])
    front.train(was)
    return shape


def logits(tail: nn.Module, feature: Tensor) -> Tensor:
    """(B, classes). A tail with no layers means that the feature already is the output."""
    out: Tensor = tail(feature)
    return out.flatten(1)
