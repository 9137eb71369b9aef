"""Sets that `isthmus rooms render` rendered, for joining with sets of other formats or reading at another size."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shared.errors import DataError
from train.data.formats.listing import Item, Listing
from train.data.room_set import ROOM_LABELS, RoomSet, lacks_layer, room_layers


def rooms(path: Path, split: str | None) -> Listing:
    """Lists the rooms of a set. Raises DataError."""
    if split is not None:
        raise DataError(f"rooms:{path} has no splits; leave #{split} out")
    layers = room_layers(path)
    images = RoomSet(path)
    labelled = {kind: RoomSet(path, kind) for kind, its in ROOM_LABELS.items() if its.layer in layers}
    items = [
        Item(
            f"{path}, room {index}",
            partial(_image, images, index),
            {kind: partial(_label, one, index) for kind, one in labelled.items()},
        )
        for index in range(len(images))
    ]
    lacking = {
        kind: lacks_layer(path, layers, its.layer)
        for kind, its in ROOM_LABELS.items()
        if its.layer not in layers
    }
    return Listing(items, {kind: one.names for kind, one in labelled.items()}, lacking=lacking)


def _image(data: RoomSet, index: int) -> Image.Image:
    return Image.fromarray(data.images(np.array([index]))[0])


def _label(data: RoomSet, index: int) -> Any:
    return data.labels(np.array([index]))[0]
