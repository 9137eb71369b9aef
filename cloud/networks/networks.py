"""The reference networks, and the split of a network into front and tail. Knows no codec.

Legend: B images, H x W pixels, C feature channels, s stride of the feature.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from shared.kinds import KINDS
from shared.types import Frozen, TaskKind

REFERENCE_CLASSIFIER = "reference-classifier"
REFERENCE_DENSE = "reference-dense"
REFERENCE_EMBEDDER = "reference-embedder"


class FrontConfig(Frozen):
    """Sizes of a reference network's front.

    stride: pixels per feature cell, a power of two. feature_channels: C. widths: channels at strides 2, 4, 8 ...; the
    last repeats as needed.
    """

    stride: int = Field(16, ge=2, le=64)
    feature_channels: int = Field(8, ge=1)
    widths: tuple[int, ...] = Field((16, 32, 64, 96), min_length=1)

    @field_validator("stride")
    @classmethod
    def _power_of_two(cls, stride: int) -> int:
        if stride & (stride - 1):
            raise ValueError(f"stride must be a power of two, not {stride}")
        return stride

    @property
    def halvings(self) -> int:
        return self.stride.bit_length() - 1


class ClassifierConfig(FrontConfig):
    """Sizes of the reference classifier.

    head_widths: channels of the tail's convolutions. dilations: see `DenseConfig`; with the same ones the classifier
    has the front of a map network, and can start from its weights.
    """

    classes: int = Field(ge=2)
    dilations: tuple[int, ...] = (1,)
    head_widths: tuple[int, ...] = (96, 128)


class DenseConfig(FrontConfig):
    """Sizes of the reference network for maps.

    outputs: channels of the map, such as 3 for normals or the number of classes for segmentation. dilations: dilations
    of the front's convolution blocks at its last stride; without them a cell sees 63 pixels of the image, too few to
    distinguish a wall from a ceiling. tail_widths: channels of the tail at strides s, s/2, s/4 ...; the last repeats as
    needed. bilinear: the last doubling is a convolution and an interpolation; otherwise a transposed convolution.
    """

    outputs: int = Field(ge=1)
    dilations: tuple[int, ...] = (1, 2, 4)
    tail_widths: tuple[int, ...] = Field((128, 64, 32, 16), min_length=1)
    bilinear: bool = True


def _block(
    inputs: int, outputs: int, stride: int = 1, *, kernel: int = 3, dilation: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _front(config: FrontConfig, dilations: tuple[int, ...]) -> list[nn.Module]:
    """One convolution block per halving, one per dilation at the last stride, and a convolution to C channels."""
    layers: list[nn.Module] = []
    channels = 3
    for i in range(config.halvings):
        width = config.widths[min(i, len(config.widths) - 1)]
        layers.append(_block(channels, width, 2))
        channels = width
    layers += [_block(channels, channels, dilation=dilation) for dilation in dilations]
    layers.append(nn.Conv2d(channels, config.feature_channels, 1))
    return layers


class ReferenceClassifier(nn.Sequential):
    """Image (B, 3, H, W) -> logits (B, classes), as a plain sequence, so that any layer can be the split.

    Layers 1..m: the front, with the feature (B, C, H/s, W/s). Then convolution blocks, global pooling and a linear
    layer. The method's own table of this network is lost; the depth and widths are ours.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        layers = _front(config, config.dilations)
        self_split = len(layers)
        channels = config.feature_channels
        for i, width in enumerate(config.head_widths):
            layers.append(_block(channels, width, 1 if i == 0 else 2))
            channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, config.classes)]
        super().__init__(*layers)
        self.config = config
        self.split_layer = self_split


class ReferenceEmbedder(nn.Sequential):
    """Image (B, 3, H, W) -> vector (B, D): the reference classifier without its linear layer, D its last width.

    The layers that are left keep their names, so that it takes a classifier's weights.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        classifier = ReferenceClassifier(config)
        super().__init__(*list(classifier.children())[:-1])
        self.config = config
        self.split_layer = classifier.split_layer


class ReferenceDense(nn.Sequential):
    """Image (B, 3, H, W) -> map (B, outputs, H, W); H and W multiples of the stride. Any layer can be the split.

    Layers 1..m: the front. Then a convolution to 128 channels, a transposed convolution to 64 at stride s/2, and
    transposed convolutions that halve the channels. Normals come out unnormalised. The 5 x 5 of the first convolution,
    the 4 x 4 of the transposed ones and the floor of 16 channels are ours.
    """

    def __init__(self, config: DenseConfig) -> None:
        layers = _front(config, config.dilations)
        self_split = len(layers)
        channels = config.tail_widths[0]
        layers.append(_block(config.feature_channels, channels, kernel=5))
        for i in range(1, config.halvings):
            width = config.tail_widths[min(i, len(config.tail_widths) - 1)]
            layers.append(_double(channels, width))
            channels = width
        if config.bilinear:
            layers.append(nn.Conv2d(channels, config.outputs, 3, 1, 1))
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        else:
            layers.append(nn.ConvTranspose2d(channels, config.outputs, 4, 2, 1))
        super().__init__(*layers)
        self.config = config
        self.split_layer = self_split


ReferenceNetwork = ReferenceClassifier | ReferenceEmbedder | ReferenceDense


def build_network(name: str, config: dict[str, Any]) -> ReferenceNetwork:
    """Builds a network from its name and plain values, as a manifest or a checkpoint holds them. Raises ValueError."""
    if name == REFERENCE_CLASSIFIER:
        return ReferenceClassifier(ClassifierConfig.model_validate(config))
    if name == REFERENCE_EMBEDDER:
        return ReferenceEmbedder(ClassifierConfig.model_validate(config))
    if name == REFERENCE_DENSE:
        return ReferenceDense(DenseConfig.model_validate(config))
    known = ", ".join((REFERENCE_CLASSIFIER, REFERENCE_EMBEDDER, REFERENCE_DENSE))
    raise ValueError(f"unknown network {name!r}; known: {known}")


def split(network: nn.Sequential, layer: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Returns front (layers 1..layer) and tail (the rest), which share the network's modules; either may be empty.

    Raises ValueError if the network has no such layer.
    """
    if not 0 <= layer <= len(network):
        raise ValueError(f"split layer {layer}: the network has layers 0..{len(network)}")
    children = list(network.children())
    return nn.Sequential(*children[:layer]), nn.Sequential(*children[layer:])


def feature_shape(front: nn.Module, height: int, width: int) -> tuple[int, ...]:
    """Returns the shape of one image's feature, without the batch axis."""
    was = front.training
    front.eval()
    with torch.no_grad():
        shape = tuple(front(torch.zeros(1, 3, height, width)).shape[1:])
    front.train(was)
    return shape


def as_feature(y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Shapes a codec's output (B, C, H, W) as the tail takes it: (B, C) where the feature is a vector, `shape` (C,)."""
    return y.flatten(1) if len(shape) == 1 else y


def whole_output(network: nn.Module, x: Tensor, kind: TaskKind) -> Tensor:
    """A network's output as its tail gives it: a vector (B, K), or a map (B, C, H, W). Of several things the one
    named "out", which torchvision's segmentation networks have, or the first."""
    out = network(x)
    if isinstance(out, dict):
        out = out["out"] if "out" in out else next(iter(out.values()))
    elif isinstance(out, tuple | list):
        out = out[0]
    made: Tensor = out if KINDS[kind].mapped else out.flatten(1)
    return made
