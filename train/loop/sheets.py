"""Sheets of images and maps side by side, to look at while a training runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.types import TaskKind
from train.data.dataset import Dataset
from train.kinds import TRAINING_KINDS
from train.kinds.training_kind import MapKind

SHEET_ROWS = 4


def sheet_indices(data: Dataset) -> NDArray[np.int64]:
    """The images of a set that its sheets show: the first ones."""
    return np.arange(min(SHEET_ROWS, len(data)))


def sheet(kind: TaskKind, data: Dataset, *outputs: Tensor) -> NDArray[np.uint8]:
    """RGB (rows x H, columns x W, 3): a row for each image of `sheet_indices`.

    Its columns: the image, the map of each of `outputs` (B, C, H, W), and the labels if the set has any.
    """
    indices = sheet_indices(data)
    known = TRAINING_KINDS[kind]
    if not isinstance(known, MapKind):
        raise TypeError(f"a sheet shows maps, and {kind} has none")
    columns = [data.images(indices), *(known.painted(known.as_labels(out)) for out in outputs)]
    if data.form is not None:
        columns.append(known.painted(data.labels(indices)))
    rows = np.concatenate(columns, axis=2)
    return rows.reshape(-1, *rows.shape[2:]).astype(np.uint8)
