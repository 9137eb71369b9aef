"""What training reads: labelled pictures as arrays. Knows no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import to_input
from train.rooms import CATEGORIES, LAYERS, SEMANTIC_CLASSES, open_shards, read_index

DenseTask = Literal["normals", "segmentation"]
IGNORE = 255  # the class of a pixel that nobody labelled


class Pictures(Protocol):
    """M labelled pictures of one size, read in any order."""

    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int: ...

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of the pictures that `indices` (B,) name."""


class Maps(Protocol):
    """M pictures of one size with a label a pixel. names: of the classes, or of a normal's components."""

    names: tuple[str, ...]

    def __len__(self) -> int: ...

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of the pictures that `indices` (B,) name."""

    def maps(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Classes (B, H, W) uint8, IGNORE where there is none; or normals (B, H, W, 3) int8, 127 n, 0 where none."""


class RoomPictures:
    """The pictures of a set that `isthmus train rooms` wrote, or of a part of it: start..stop. Raises DataError."""

    def __init__(self, directory: Path, start: int = 0, stop: int | None = None) -> None:
        self._directory = directory
        try:
            self._images = open_shards(directory, "image")
        except ValueError as error:
            raise DataError(str(error)) from None
        count = sum(len(shard) for shard in self._images)
        self._chosen = np.arange(count)[start:stop]
        if not len(self._chosen):
            if stop is not None and stop < 0:
                raise DataError(
                    f"--holdout {-stop} leaves none of the {count} rooms in {directory} to train on"
                )
            raise DataError(f"{directory} has {count} rooms, none of them in {start}..{stop}")
        self.size = (self._images[0].shape[1], self._images[0].shape[2])

    def __len__(self) -> int:
        return len(self._chosen)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._rows(self._images, indices)

    def _labels(self, layer: str) -> list[NDArray[Any]]:
        """A layer of labels. Raises DataError."""
        try:
            index = read_index(self._directory)
            if layer not in index.layers:
                raise DataError(lacks_layer(self._directory, index.layers, layer))
            return open_shards(self._directory, layer)
        except ValueError as error:
            raise DataError(str(error)) from None

    def _rows(self, shards: list[NDArray[Any]], indices: NDArray[np.int64]) -> NDArray[Any]:
        shard, row = np.divmod(self._chosen[indices], len(shards[0]))
        return np.stack([shards[s][r] for s, r in zip(shard, row, strict=True)])


class Rooms(RoomPictures):
    """Rooms with their categories. Raises DataError."""

    def __init__(self, directory: Path, start: int = 0, stop: int | None = None) -> None:
        super().__init__(directory, start, stop)
        categories = np.concatenate(self._labels("category"))
        self.labels = categories[self._chosen].astype(np.int64)
        self.names = CATEGORIES


class DenseRooms(RoomPictures):
    """Rooms with their normals or their classes a pixel, and their categories (M,) if they have been rendered too.

    Raises DataError.
    """

    def __init__(self, directory: Path, task: DenseTask, start: int = 0, stop: int | None = None) -> None:
        super().__init__(directory, start, stop)
        self._maps = self._labels("normals" if task == "normals" else "semantic")
        self.names = ("x", "y", "z") if task == "normals" else SEMANTIC_CLASSES
        self.categories: NDArray[np.int64] | None = None
        if "category" in read_index(directory).layers:
            self.categories = np.concatenate(self._labels("category"))[self._chosen].astype(np.int64)

    def maps(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        return self._rows(self._maps, indices)


def lacks_layer(directory: Path, layers: Sequence[str], layer: str) -> str:
    """That a set of rooms has no such layer, and what to do."""
    wanted = ",".join(name for name in LAYERS if name in {*layers, layer})
    return f"{directory} has no {layer}; render a set that has: `isthmus train rooms OUT --layers {wanted}`"


def mirror(maps: NDArray[Any], flip: NDArray[np.bool_]) -> NDArray[Any]:
    """The labels of pictures that `network_input` mirrors. maps: as in `Maps`; flip (B,).

    A normal's x, which points right, changes its sign.
    """
    maps = maps.copy()
    maps[flip] = maps[flip][:, :, ::-1]
    if maps.ndim == 4:
        maps[flip, :, :, 0] = -maps[flip, :, :, 0]
    return maps


def network_input(
    pixels: NDArray[np.uint8], preprocess: Preprocess, flip: NDArray[np.bool_] | None = None
) -> Tensor:
    """(B, 3, H, W) as the edge makes it; flip (B,): mirror these left to right."""
    if flip is not None:
        pixels = np.where(flip[:, None, None, None], pixels[:, :, ::-1], pixels)
    return torch.from_numpy(to_input(pixels, preprocess))


def in_order(size: int, batch: int) -> Iterator[NDArray[np.int64]]:
    """0..size-1 in pieces."""
    for start in range(0, size, batch):
        yield np.arange(start, min(start + batch, size))
