"""Segmentation of photographs: DeepLabV3+ of ADE20K's 31 frequent classes, DeepLabV3 of Pascal VOC's 20 objects.

    isthmus network import train.networks.deeplab:deeplabv3plus_ade20k --weights FILE --size 256x256 --out runs/scene

FILE is a safetensors of a published TFLite model's convolutions, named by the number of their operation: opN.weight,
opN.bias, float32, with normalisation folded in (TensorFlow's models, Apache-2.0). Both networks are MobileNetV2 at
stride 16 (Sandler et al., 2018) with image pooling in place of other rates (Chen et al., 2018, "Encoder-Decoder with
Atrous Separable Convolution").

Both take images as EfficientNet-Lite0 does, so that one camera's input serves all three: the difference to their own
normalisation is in the first layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from shared.bundle import Preprocess
from shared.image import fit, read_image, to_input
from train.networks.efficientnet import PREPROCESS
from train.networks.mobile_layers import Conv, Enlarge, InvertedResidual, assign

# (blocks, stride, expansion, channels) of each stage; the last two have no stride, and cells two apart instead.
STAGES = (
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (3, 2, 6, 32),
    (4, 2, 6, 64),
    (3, 1, 6, 96),
    (3, 1, 6, 160),
    (1, 1, 6, 320),
)
DILATED = (160, 320)
RGB_SCALE = 128 / 127.5  # from (RGB - 127) / 128, as the input comes, to (RGB - ...) / 127.5
SKIP_OPERATION = 64
# What the decoder of DeepLabV3+ would get from stride 4, as one number a channel: `skip_means` of the photographs of
# which codecs learn.
# fmt: off
SKIP_MEANS = (
    1.5931, 1.7517, 1.8072, 0.8819, 1.8000, 0.1678, 4.1707, 1.6919, 2.9525, 1.3094, 1.3279, 0.0042,
    0.8692, 3.9437, 3.6502, 0.0358, 0.4776, 1.8827, 2.9439, 1.9256, 0.3239, 1.7537, 0.5166, 1.2584,
    1.3200, 3.0289, 2.4749, 0.6333, 2.3697, 0.9036, 0.2537, 1.9989, 3.0074, 1.2760, 1.4143, 2.0707,
    3.8286, 1.6737, 2.5967, 3.2114, 3.8050, 1.7124, 2.0171, 3.4070, 0.0000, 0.0021, 1.9859, 0.0000,
)
ADE20K = (
    "other", "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "window", "grass",
    "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair",
    "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair",
)
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train",
    "television",
)
# fmt: on


class MobileNetV2(nn.Module):
    """Image (B, 3, H, W) -> (B, 320, H/16, W/16). odd: H and W are 1 mod 16, and so is each map's side where halved."""

    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, 2, odd=odd, act=nn.ReLU6())
        stages, channels = [], 32
        for count, stride, expansion, width in STAGES:
            blocks = []
            for i in range(count):
                dilation = 2 if channels in DILATED else 1
                blocks.append(
                    InvertedResidual(
                        channels,
                        width,
                        stride=stride if i == 0 else 1,
                        expansion=expansion,
                        dilation=dilation,
                        odd=odd,
                    )
                )
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(self.stem(x))
        return y


class ImagePooling(nn.Module):
    """(B, 320, h, w) -> (B, 256, h, w): each cell next to the mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Conv(320, 256, act=nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mean = Conv(320, 256, act=nn.ReLU())
        self.join = Conv(512, 256, act=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        cell = self.cell(x)
        mean = self.mean(self.pool(x)).expand_as(cell)
        y: Tensor = self.join(torch.cat([mean, cell], 1))
        return y


class Separable(nn.Module):
    """(B, C, h, w) -> (B, 256, h, w): a 3 x 3 convolution of each channel, and one across channels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.depthwise = Conv(inputs, inputs, 3, groups=inputs, act=nn.ReLU())
        self.pointwise = Conv(inputs, 256, act=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class DeepLabV3Plus(nn.Module):
    """Image (B, 3, H, W) -> logits (B, 32, H, W); H and W multiples of 16.

    body.blocks.0 to body.blocks.6 are the stages; body.blocks.3 ends with 64 channels of H/16 x W/16, the next with 96
    and 160. The decoder's second input, 48 channels of stride 4, is constant here, so that one tensor crosses a cut: it
    is its mean over photographs. That costs less than half a point of mIoU (`coco-ade` at 256 x 256).
    """

    preprocess = PREPROCESS
    multiple_of = 16
    task = "segmentation"
    labels = ADE20K

    def __init__(self) -> None:
        super().__init__()
        self.body = MobileNetV2(odd=False)
        self.pooling = ImagePooling()
        self.enlarge = Enlarge(4)
        self.skip = nn.Parameter(torch.tensor(SKIP_MEANS)[:, None, None], requires_grad=False)
        self.decoder = nn.Sequential(Separable(256 + len(SKIP_MEANS)), Separable(256))
        self.classifier = Conv(256, len(ADE20K))
        self.register_load_state_dict_pre_hook(_from_operations)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        y = self.enlarge(self.pooling(self.body(x)))
        skip = torch.zeros_like(y[:, : len(SKIP_MEANS)]) + self.skip
        y = self.classifier(self.decoder(torch.cat([y, skip], 1)))
        out: Tensor = self.enlarge(y)
        return out


class DeepLabV3(nn.Module):
    """Image (B, 3, H, W) -> logits (B, 21, H, W); H and W multiples of 16.

    Its weights were made for sides of 1 mod 16, so the last row and column are repeated once. body.blocks.3 to 5 end
    with 64, 96 and 160 channels of H/16 + 1 x W/16 + 1.
    """

    preprocess = PREPROCESS
    multiple_of = 16
    task = "segmentation"
    labels = VOC

    def __init__(self) -> None:
        super().__init__()
        self.body = MobileNetV2(odd=True)
        self.pooling = ImagePooling()
        self.classifier = Conv(256, len(VOC))
        self.register_load_state_dict_pre_hook(_from_operations)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        x = x * RGB_SCALE - 0.5 / 127.5
        x = F.pad(x, (0, 1, 0, 1), mode="replicate")
        y = self.classifier(self.pooling(self.body(x)))
        size = (16 * y.shape[2] - 15, 16 * y.shape[3] - 15)
        return F.interpolate(y, size=size, mode="bilinear", align_corners=True)[:, :, :-1, :-1]


def deeplabv3plus_ade20k() -> DeepLabV3Plus:
    """The network of ADE20K without trained weights; its decoder's second input is replaced by its means."""
    return DeepLabV3Plus()


def deeplabv3_voc() -> DeepLabV3:
    """The network of Pascal VOC without trained weights."""
    return DeepLabV3()


def _from_operations(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Turns tensors named by operation into the network's own state dict, in place. Leaves any other as it is."""
    if prefix or not state or any(re.fullmatch(r"op\d+\.(weight|bias)", name) is None for name in state):
        return
    own = _converted(network, state)
    state.clear()
    state.update(own)


def _converted(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raises RuntimeError, as torch does for a state dict that does not fit."""
    plus = isinstance(network, DeepLabV3Plus)
    numbers = sorted(
        {int(name[2:].partition(".")[0]) for name in state} - ({SKIP_OPERATION} if plus else set())
    )
    try:
        layers = [(state[f"op{number}.weight"], state[f"op{number}.bias"]) for number in numbers]
        own = assign(network, layers)
    except (KeyError, ValueError) as error:
        raise RuntimeError(f"the file is not of {type(network).__name__}: {error}") from None
    if plus:
        own |= {"skip": network.state_dict()["skip"]}
        own["body.stem.conv.weight"] = own["body.stem.conv.weight"] * RGB_SCALE
    return own


@torch.no_grad()
def skip_means(weights: Path, photographs: Sequence[Path]) -> Tensor:
    """The means (48,) behind SKIP_MEANS: operation 64 of the published network, over cells and then over photographs.

    Each photograph is scaled until it covers 256 x 256, and its middle is taken.
    """
    network, published = DeepLabV3Plus().eval(), load_file(weights)
    network.load_state_dict(dict(published))
    weight, bias = (published[f"op{SKIP_OPERATION}.{part}"] for part in ("weight", "bias"))
    preprocess = Preprocess(height=256, width=256, **PREPROCESS)
    stem, stages = network.body.stem, list(network.body.blocks)
    block, last = list(stages[1].children())
    assert isinstance(last, InvertedResidual)
    assert last.expand is not None
    means = []
    for path in photographs:
        x = torch.from_numpy(to_input(np.asarray(fit(read_image(path), preprocess)), preprocess))
        wide = last.depthwise(last.expand(block(stages[0](stem(x[None])))))  # the last map of stride 4
        means.append(torch.relu(F.conv2d(wide, weight, bias)).mean((0, 2, 3)))
    return torch.stack(means).mean(0)
