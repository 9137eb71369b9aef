"""Procedural indoor scenes with exact labels: image, room category, surface normals, 17 classes, depth.

>>> from train.rooms import render
>>> render(7).image.shape
(256, 256, 3)
"""

from train.rooms.dataset import INDEX_NAME, LAYERS, RoomsIndex, open_shards, read_index
from train.rooms.parts import SEMANTIC_CLASSES
from train.rooms.sample import (
    RENDERER_VERSION,
    TEST_SEED_START,
    RoomSample,
    render,
)
from train.rooms.scene import CATEGORIES, SEED_MAX, category_of
from train.rooms.sequence import EVENT_NAMES, MOTIONS, RoomSequence, render_sequence
from train.rooms.write import write_rooms

__all__ = [
    "CATEGORIES",
    "EVENT_NAMES",
    "INDEX_NAME",
    "LAYERS",
    "MOTIONS",
    "RENDERER_VERSION",
    "SEED_MAX",
    "SEMANTIC_CLASSES",
    "TEST_SEED_START",
    "RoomSample",
    "RoomSequence",
    "RoomsIndex",
    "category_of",
    "open_shards",
    "read_index",
    "render",
    "render_sequence",
    "write_rooms",
]
