"""What training reads: labelled pictures as arrays. Knows no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud.training.rooms import CATEGORIES, open_shards
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import to_input


class Pictures(Protocol):
    """M labelled pictures of one size, read in any order."""

    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int: ...

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of the pictures that `indices` (B,) name."""


class Rooms:
    """A set that `isthmus train rooms` wrote, or a part of it: pictures start..stop. Raises DataError."""

    def __init__(self, directory: Path, start: int = 0, stop: int | None = None) -> None:
        try:
            self._shards = open_shards(directory, "image")
            categories = np.concatenate(open_shards(directory, "category"))
        except ValueError as error:
            raise DataError(str(error)) from None
        self._shard_size = len(self._shards[0])
        self._chosen = np.arange(len(categories))[start:stop]
        if not len(self._chosen):
            raise DataError(f"{directory} has {len(categories)} rooms; none is left of {start}..{stop}")
        self.labels = categories[self._chosen].astype(np.int64)
        self.names = CATEGORIES
        self.size = (self._shards[0].shape[1], self._shards[0].shape[2])

    def __len__(self) -> int:
        return len(self._chosen)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        shard, row = np.divmod(self._chosen[indices], self._shard_size)
        return np.stack([self._shards[s][r] for s, r in zip(shard, row, strict=True)])


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
