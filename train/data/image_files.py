"""Pictures of files, each fitted to the network's size, as training reads them. Knows no format.

Every picture and label is decoded once when a set is opened, so that nothing is found to be damaged in the middle of a
training. What was decoded is kept where all of it takes `KEPT_BYTES` at most, and is decoded again otherwise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from shared.image import fit, fit_map
from shared.types import TaskKind
from train.data.formats import Item

KEPT_BYTES = 1 << 30  # of pictures, and of each kind of map, in each process


class Fitted:
    """Arrays of M pictures, each (shape), made when asked for."""

    def __init__(
        self, count: int, shape: tuple[int, ...], dtype: Any, make: Callable[[int], NDArray[Any]]
    ) -> None:
        self._make = make
        fits = count * math.prod(shape) * np.dtype(dtype).itemsize <= KEPT_BYTES
        self._kept = np.empty((count, *shape), dtype) if fits else None

    def put(self, index: int, value: NDArray[Any]) -> None:
        if self._kept is not None:
            self._kept[index] = value

    def rows(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """(B, ...). Raises DataError for a file that has been damaged since."""
        if self._kept is not None:
            return self._kept[indices]
        try:
            return np.stack([self._make(int(index)) for index in indices])
        except ImageError as error:
            raise DataError(f"{error}; it was sound when the set was opened") from None


class FilePictures:
    """Pictures without labels. size: height and width."""

    def __init__(self, pictures: Fitted, chosen: NDArray[np.int64], size: tuple[int, int]) -> None:
        self._pictures, self._chosen, self.size = pictures, chosen, size

    def __len__(self) -> int:
        return len(self._chosen)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of the pictures that `indices` (B,) name. Raises DataError."""
        return self._pictures.rows(self._chosen[indices])


class ClassFiles(FilePictures):
    """With a class each."""

    def __init__(self, plain: FilePictures, labels: NDArray[np.int64], names: tuple[str, ...]) -> None:
        super().__init__(plain._pictures, plain._chosen, plain.size)
        self.labels, self.names = labels[self._chosen], names


class MapFiles(FilePictures):
    """With a label a pixel."""

    def __init__(self, plain: FilePictures, maps: Fitted, names: tuple[str, ...]) -> None:
        super().__init__(plain._pictures, plain._chosen, plain.size)
        self._maps, self.names = maps, names

    def maps(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """As `Maps` has them. Raises DataError."""
        return self._maps.rows(self._chosen[indices])


class OpenedFiles:
    """The items of a set, decoded once. problems: what is wrong with those that cannot be used, in their order."""

    def __init__(self, items: Sequence[Item], kinds: set[TaskKind], preprocess: Preprocess) -> None:
        self._items, self._preprocess = items, preprocess
        self._size = preprocess.height, preprocess.width
        self._pictures = Fitted(len(items), (*self._size, 3), np.uint8, self._picture)
        self._labels = np.zeros(len(items), np.int64)
        self._maps = {kind: self._maps_of(kind) for kind in sorted(kinds - {"classification"})}
        self._classify = "classification" in kinds
        told = self._check_all()
        self.problems = [problem for problem in told if problem]
        chosen = np.flatnonzero([problem is None for problem in told])
        self.plain = FilePictures(self._pictures, chosen, self._size)

    def view(self, kind: TaskKind, names: tuple[str, ...]) -> ClassFiles | MapFiles:
        if kind == "classification":
            return ClassFiles(self.plain, self._labels, names)
        return MapFiles(self.plain, self._maps[kind], names)

    def _check_all(self) -> list[str | None]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            checked = pool.map(self._check, range(len(self._items)))
            console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
            return list(track(checked, "pictures", len(self._items), console=console, transient=True))

    def _check(self, index: int) -> str | None:
        """Decode a picture and its labels, keep them, and say what is wrong with them."""
        item = self._items[index]
        try:
            picture = item.read()
            self._pictures.put(index, np.asarray(fit(picture, self._preprocess)))
            if self._classify:
                self._labels[index] = item.labels["classification"]()
            for kind, fitted in self._maps.items():
                labels = item.labels[kind]()
                if labels.shape[:2] != (picture.height, picture.width):
                    height, width = labels.shape[:2]
                    return f"{item.name} is {picture.width} x {picture.height}, its {kind} {width} x {height}"
                fitted.put(index, fit_map(labels, self._preprocess))
        except (ImageError, DataError) as error:
            return str(error)
        return None

    def _picture(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(fit(self._items[index].read(), self._preprocess))

    def _maps_of(self, kind: TaskKind) -> Fitted:
        def make(index: int) -> NDArray[Any]:
            return fit_map(self._items[index].labels[kind](), self._preprocess)

        shape, dtype = ((*self._size, 3), np.int8) if kind == "normals" else (self._size, np.uint8)
        return Fitted(len(self._items), shape, dtype, make)
