"""What training reads: images of one size with a label each, as arrays. Knows no network, no file and no format.

Legend: M images of a set, B of a batch, H x W pixels, K names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import to_input
from train.kinds.label_form import LabelForm

DIGEST_SAMPLE = 16  # images, or maps, that stand for all of a set


class Dataset(Protocol):
    """M images of one size, read in any order, with labels of one form or without any."""

    @property
    def size(self) -> tuple[int, int]:
        """H and W of every image."""

    @property
    def form(self) -> LabelForm | None:
        """The form of its labels; None: it has none."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the K classes, or of a vector's components; empty without labels."""

    def __len__(self) -> int: ...

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of the images `indices` (B,). Raises DataError."""

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Labels (B, ...) of the images `indices` (B,), as `form` has them. Raises DataError, also without labels.

        flip (B,): as `form.mirrored` turns them, for images that are mirrored.
        """


class First:
    """The first images of a data set, without their labels."""

    form = None
    names: tuple[str, ...] = ()

    def __init__(self, data: Dataset, count: int) -> None:
        self._data, self.size, self._count = data, data.size, min(count, len(data))

    def __len__(self) -> int:
        return self._count

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3). Raises DataError."""
        return self._data.images(indices)

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Raises DataError."""
        raise DataError("these images have no labels")


class Unlabelled:
    """The images of a data set without their labels."""

    form = None
    names: tuple[str, ...] = ()

    def __init__(self, data: Dataset) -> None:
        self._data, self.size = data, data.size

    def __len__(self) -> int:
        return len(self._data)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3). Raises DataError."""
        return self._data.images(indices)

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Raises DataError."""
        raise DataError("these images have no labels")


def network_input(
    images: NDArray[np.uint8], preprocess: Preprocess, flip: NDArray[np.bool_] | None = None
) -> Tensor:
    """(B, 3, H, W) as the edge makes it. flip (B,): which images are mirrored left to right."""
    if flip is not None:
        images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
    return torch.from_numpy(to_input(images, preprocess))


def in_order(size: int, batch: int) -> Iterator[NDArray[np.int64]]:
    """The indices 0..size-1 in batches; the last may be smaller."""
    for start in range(0, size, batch):
        yield np.arange(start, min(start + batch, size))


def identity(data: Dataset) -> dict[str, Any]:
    """Which images these are: their number and the digest of a sample, as JSON holds it."""
    sample = np.linspace(0, len(data) - 1, DIGEST_SAMPLE).astype(np.int64)
    return {
        "pictures": len(data),
        "sample_sha256": hashlib.sha256(data.images(sample).tobytes()).hexdigest(),
    }


def files_of(data: Dataset) -> tuple[str, ...]:
    """The sorted names of the files that a set was read from, without folders; empty where it has none."""
    files: tuple[str, ...] = getattr(data, "files", ())
    return tuple(sorted(files))


def labels_digest(data: Dataset) -> str:
    """SHA-256, hex, of names and labels: of all labels, or of a sample of label maps. Raises DataError."""
    size = len(data)
    indices = np.arange(size)
    if data.form is not None and data.form.per_pixel:
        indices = np.linspace(0, size - 1, min(size, DIGEST_SAMPLE)).astype(np.int64)
    labels = np.ascontiguousarray(data.labels(indices))
    return hashlib.sha256(repr(tuple(data.names)).encode() + labels.tobytes()).hexdigest()


def dataset_digests(training: Dataset, validation: Dataset) -> dict[str, str]:
    """The images that a run starts from, by their part in it, for the run's `inputs`."""
    return {"the set to train on": dataset_digest(training), "the set held out": dataset_digest(validation)}


def dataset_digest(data: Dataset) -> str:
    """`identity`, for the `inputs` of a run."""
    found = identity(data)
    return f"{found['pictures']} pictures, SHA-256 of a sample {found['sample_sha256']}"
