"""Image files fitted to a network's size, with their labels, as training reads them. Knows no format.

Every file is decoded once when a set is opened, so that no training stops halfway at a damaged one. Decoded images and
labels are kept in memory where all of them take at most `CACHE_BYTES`; otherwise they are decoded again when read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from shared.image import fit, fit_map
from shared.types import TaskKind
from train.data.formats import Item
from train.data.progress import Progress, silent
from train.kinds import TRAINING_KINDS
from train.kinds.label_form import LabelForm

CACHE_BYTES = 1 << 30  # for the images, and for each kind of labels, in each process


class LazyArray:
    """M rows, each (shape), kept in memory where they fit and made anew where they do not."""

    def __init__(
        self,
        count: int,
        shape: tuple[int, ...],
        dtype: str,
        make: Callable[[int], Any],
    ) -> None:
        self._make = make
        fits = count * math.prod(shape) * np.dtype(dtype).itemsize <= CACHE_BYTES
        self._rows = np.empty((count, *shape), dtype) if fits else None

    def put(self, index: int, value: Any) -> None:
        """Keep a row, if rows are kept."""
        if self._rows is not None:
            self._rows[index] = value

    def rows(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """(B, ...). Raises DataError for a file that was damaged since the set was opened."""
        if self._rows is not None:
            return self._rows[indices]
        try:
            return np.stack([self._make(int(index)) for index in indices])
        except ImageError as error:
            raise DataError(f"{error}; it was sound when the set was opened") from None


class FileSet:
    """The sound images of a set with the labels of one kind of task, or without any.

    size: H and W. files: names of the files, without their folders.
    """

    def __init__(
        self,
        images: LazyArray,
        chosen: NDArray[np.int64],
        size: tuple[int, int],
        labels: LazyArray | None = None,
        form: LabelForm | None = None,
        names: tuple[str, ...] = (),
        files: tuple[str, ...] = (),
    ) -> None:
        self._images, self._chosen, self._labels = images, chosen, labels
        self.size, self.form, self.names, self.files = size, form, names, files

    def __len__(self) -> int:
        return len(self._chosen)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3). Raises DataError."""
        return self._images.rows(self._chosen[indices])

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Labels (B, ...) as `form` has them. Raises DataError, also without labels."""
        if self._labels is None or self.form is None:
            raise DataError("these images were opened without labels")
        labels = self._labels.rows(self._chosen[indices])
        return labels if flip is None else self.form.mirrored(labels, flip)


def _form(kind: TaskKind) -> LabelForm:
    form = TRAINING_KINDS[kind].form
    assert form is not None, "a set lists no labels for a kind without them"
    return form


class OpenedFiles:
    """The items of a set, each decoded once. problems: what is wrong with the unusable ones, in their order."""

    def __init__(
        self,
        items: Sequence[Item],
        names: dict[TaskKind, tuple[str, ...]],
        preprocess: Preprocess,
        progress: Progress = silent,
    ) -> None:
        """names: of the labels that are read, by kind."""
        self._items, self._names, self._preprocess = items, names, preprocess
        self._size = preprocess.height, preprocess.width
        self._images = LazyArray(len(items), (*self._size, 3), "uint8", self._image)
        self._labels = {kind: self._labels_of(kind) for kind in sorted(names)}
        found = self._check_all(progress)
        self.problems = [problem for problem in found if problem]
        self._sound = np.flatnonzero([problem is None for problem in found])

    def dataset(self, kind: TaskKind | None) -> FileSet:
        """The sound images with the labels of `kind`, which is one of `names`, or without any."""
        files = tuple(Path(self._items[int(number)].name).name for number in self._sound)
        if kind is None:
            return FileSet(self._images, self._sound, self._size, files=files)
        labels, names = self._labels[kind], self._names[kind]
        return FileSet(self._images, self._sound, self._size, labels, _form(kind), names, files)

    def _check_all(self, progress: Progress) -> list[str | None]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            checked = pool.map(self._check, range(len(self._items)))
            return list(progress(checked, "images", len(self._items)))

    def _check(self, index: int) -> str | None:
        """Decode an image and its labels and keep them. Returns what is wrong with them."""
        item = self._items[index]
        try:
            image = item.read()
            self._images.put(index, np.asarray(fit(image, self._preprocess)))
            for kind, rows in self._labels.items():
                labels = item.labels[kind]()
                if _form(kind).per_pixel:
                    height, width = labels.shape[:2]
                    if (width, height) != image.size:
                        return f"{item.name} is {image.width} x {image.height}, its {kind} {width} x {height}"
                    labels = fit_map(labels, self._preprocess)
                rows.put(index, labels)
        except (ImageError, DataError) as error:
            return str(error)
        return None

    def _image(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(fit(self._items[index].read(), self._preprocess))

    def _labels_of(self, kind: TaskKind) -> LazyArray:
        form = _form(kind)

        def make(index: int) -> Any:
            labels = self._items[index].labels[kind]()
            return fit_map(labels, self._preprocess) if form.per_pixel else labels

        shape = form.shape(self._size, len(self._names[kind]))
        return LazyArray(len(self._items), shape, form.dtype, make)
