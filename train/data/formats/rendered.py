"""Rooms that `isthmus train rooms` wrote, beside sets of other formats or at another size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shared.errors import DataError
from shared.types import TaskKind
from train.data.dataset import DenseRooms, RoomPictures, Rooms, lacks_layer
from train.data.formats.listing import Item, Listing
from train.rooms import read_index

ROOM_LAYERS: dict[TaskKind, str] = {
    "classification": "category",
    "normals": "normals",
    "segmentation": "semantic",
}


def rooms(path: Path, split: str | None) -> Listing:
    """Raises DataError."""
    if split is not None:
        raise DataError(f"rooms:{path} has no splits; leave #{split} out")
    try:
        layers = read_index(path).layers
    except ValueError as error:
        raise DataError(str(error)) from None
    pictures = RoomPictures(path)
    names: dict[TaskKind, tuple[str, ...]] = {}
    readers: dict[TaskKind, Callable[[int], Any]] = {}
    for kind, layer in ROOM_LAYERS.items():
        if layer not in layers:
            continue
        view = Rooms(path) if kind == "classification" else DenseRooms(path, kind)
        names[kind] = view.names
        readers[kind] = view.labels.__getitem__ if isinstance(view, Rooms) else partial(_map, view)
    items = [
        Item(
            f"{path}, room {index}",
            partial(_picture, pictures, index),
            {kind: partial(read, index) for kind, read in readers.items()},
        )
        for index in range(len(pictures))
    ]
    lacking = {
        kind: lacks_layer(path, layers, layer) for kind, layer in ROOM_LAYERS.items() if layer not in layers
    }
    return Listing(items, names, lacking=lacking)


def _picture(pictures: RoomPictures, index: int) -> Image.Image:
    return Image.fromarray(pictures.pixels(np.array([index]))[0])


def _map(view: DenseRooms, index: int) -> Any:
    return view.maps(np.array([index]))[0]
