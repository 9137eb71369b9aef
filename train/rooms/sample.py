"""One rendered room with its exact labels, and sheets of many for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from train.rooms.scene import CATEGORIES, build_scene
from train.rooms.shading import render_arrays

# Raise when any byte of any image changes: sets on disk state it, and readers refuse another.
RENDERER_VERSION = 1
# Seeds from here on are for testing only: never trained, validated or tuned on.
TEST_SEED_START = 10**9
SIZE_MIN, SIZE_MAX = 8, 4096


@dataclass(frozen=True)
class RoomSample:
    """One image and its labels, pixel by pixel.

    image: (H, W, 3) uint8, sRGB-like with gamma 2
    normals: (H, W, 3) float32, unit vectors in camera space: +x right, +y up, +z towards the camera
    semantic: (H, W) uint8, index in parts.SEMANTIC_CLASSES
    depth: (H, W) float32, metres along the camera's axis
    category: index in CATEGORIES
    """

    image: np.ndarray
    normals: np.ndarray
    semantic: np.ndarray
    depth: np.ndarray
    category: int


def render(seed: int, height: int = 256, width: int = 256) -> RoomSample:
    """The room of a seed, the same bytes on every machine; the first call in a process may compile for seconds.

    Raises ValueError for a seed outside 0 .. 2**63 - 1 or a side outside 8 .. 4096 pixels.
    """
    for side in (height, width):
        if not SIZE_MIN <= side <= SIZE_MAX:
            raise ValueError(f"an image side is {SIZE_MIN} to {SIZE_MAX} pixels, got {height} x {width}")
    scene, category = build_scene(int(seed))
    return RoomSample(*render_arrays(scene, int(height), int(width)), category)


def contact_sheet(seeds: Sequence[int], columns: int = 6, size: int = 256) -> Image.Image:
    """The images of some seeds in a grid, the category's name beneath each; ValueError for no seeds or columns."""
    if not len(seeds) or columns < 1:
        raise ValueError("a contact sheet needs at least one seed and one column")
    rows = -(-len(seeds) // columns)
    strip = 16
    sheet = Image.new("RGB", (columns * size, rows * (size + strip)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, seed in enumerate(seeds):
        sample = render(seed, size, size)
        x, y = i % columns * size, i // columns * (size + strip)
        sheet.paste(Image.fromarray(sample.image), (x, y))
        draw.text((x + 4, y + size + 2), CATEGORIES[sample.category], fill="black")
    return sheet
