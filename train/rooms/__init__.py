"""Procedural indoor scenes with exact labels: image, room category, surface normals, 17 classes, depth.

>>> from train.rooms import render
>>> render(7).image.shape
(256, 256, 3)
"""

from train.rooms.dataset import (
    LAYERS,
    RoomsDataset,
    RoomsIndex,
    open_shards,
    read_index,
    write_rooms,
)
from train.rooms.parts import SEMANTIC_CLASSES
from train.rooms.sample import (
    RENDERER_VERSION,
    TEST_SEED_START,
    RoomSample,
    contact_sheet,
    render,
)
from train.rooms.scene import CATEGORIES, SEED_MAX, category_of

__all__ = [
    "CATEGORIES",
    "LAYERS",
    "RENDERER_VERSION",
    "SEED_MAX",
    "SEMANTIC_CLASSES",
    "TEST_SEED_START",
    "RoomSample",
    "RoomsDataset",
    "RoomsIndex",
    "category_of",
    "contact_sheet",
    "open_shards",
    "read_index",
    "render",
    "write_rooms",
]
