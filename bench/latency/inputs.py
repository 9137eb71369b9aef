"""The files that a latency run works with: images as PNG, and the networks as ONNX. All in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.latency.edge_process import LocalNetwork
from bench.latency.stages import Fronts
from bench.latency.whole_network_server import Networks
from shared.bundle import Bundle
from shared.kinds import KINDS
from train.bundle.export import export
from train.data.open_dataset import open_datasets


class Inputs:
    """Written when it is made. images: paths of PNG files. fronts: ONNX file of the bundle's fronts. whole: JSON file
    that describes the whole networks. Raises DataError."""

    def __init__(self, folder: Path, bundle: Bundle, networks: Networks, data: str, count: int) -> None:
        self._folder = folder
        preprocess = bundle.manifest.preprocess
        (dataset,) = open_datasets(data, ["classification"], 0, count, [False], preprocess=preprocess)
        self.images = list(self._written(dataset.images, len(dataset)))
        x = torch.zeros(2, 3, preprocess.height, preprocess.width)
        self.fronts = self._exported("fronts", Fronts(bundle, networks), {"x": x})
        described = [one.model_dump(mode="json") for one in self._whole(networks)]
        self.whole = self._file("networks.json", json.dumps(described).encode())

    def _written(self, images: Callable[[Any], Any], count: int) -> Iterator[str]:
        for i in range(count):
            path = self._folder / f"{i}.png"
            Image.fromarray(images(np.array([i]))[0]).save(path)
            yield str(path)

    def _file(self, name: str, data: bytes) -> str:
        path = self._folder / name
        path.write_bytes(data)
        return str(path)

    def _exported(self, name: str, network: nn.Module, x: dict[str, Tensor]) -> str:
        y = network.eval()(*x.values())
        outputs = [f"y{i}" for i in range(len(y) if isinstance(y, list) else 1)]
        return self._file(f"{name}.onnx", export(network, x, outputs))

    def _whole(self, networks: Networks) -> Iterator[LocalNetwork]:
        for i, (network, card) in enumerate(networks):
            x = torch.zeros(2, 3, card.preprocess.height, card.preprocess.width)
            path = self._exported(f"whole{i}", network, {"x": x})
            yield LocalNetwork(path=path, preprocess=card.preprocess, named=KINDS[card.task].named)
