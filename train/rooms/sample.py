"""One rendered room with its exact labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.rooms.scene import build_scene
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


def check_size(height: int, width: int) -> None:
    """Raises ValueError for an image size that is not rendered."""
    if not (SIZE_MIN <= height <= SIZE_MAX and SIZE_MIN <= width <= SIZE_MAX):
        raise ValueError(f"an image side is {SIZE_MIN} to {SIZE_MAX} pixels, got {height} x {width}")


def render(seed: int, height: int = 256, width: int = 256) -> RoomSample:
    """The room of a seed, the same bytes on every machine; the first call in a process may compile for seconds.

    Raises ValueError for a seed outside 0 .. 2**63 - 1 or a side outside 8 .. 4096 pixels.
    """
    check_size(height, width)
    scene, category = build_scene(int(seed))
    return RoomSample(*render_arrays(scene, int(height), int(width)), category)
