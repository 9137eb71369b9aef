"""Random scales and places of training pictures, and of their labels alike. Knows no network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.bundle import Preprocess
from train.data.dataset import IGNORE

SCALES = (0.75, 1.5)  # of `--augment`


def draw_zooms(random: np.random.Generator, count: int, scales: tuple[float, float]) -> NDArray[np.float64]:
    """(count, 3): a scale, and where the cut, or what is smaller than it, lies: from 0, left or top, to 1."""
    drawn = random.random((count, 3))
    drawn[:, 0] = scales[0] + drawn[:, 0] * (scales[1] - scales[0])
    return drawn


def zoom_pictures(
    pixels: NDArray[np.uint8], zooms: NDArray[np.float64], preprocess: Preprocess
) -> NDArray[np.uint8]:
    """RGB (B, H, W, 3), each at its scale (B, 3) and cut to the same size; the mean colour where it ends before."""
    fill = np.rint(255 * np.array(preprocess.mean)).astype(np.uint8)
    return _zoomed(pixels, zooms, fill, Image.Resampling.BILINEAR)


def zoom_maps(maps: NDArray[Any], zooms: NDArray[np.float64]) -> NDArray[Any]:
    """Labels as `Maps` has them, as their pictures by `zoom_pictures`; none where the picture ends before."""
    fill = np.array([0 if maps.ndim == 4 else IGNORE]).astype(np.uint8)
    return _zoomed(maps.view(np.uint8), zooms, fill, Image.Resampling.NEAREST).view(maps.dtype)


def _zoomed(
    values: NDArray[np.uint8], zooms: NDArray[np.float64], fill: NDArray[np.uint8], how: Image.Resampling
) -> NDArray[np.uint8]:
    out = np.empty_like(values)
    out[...] = fill if values.ndim == 4 else fill[0]
    height, width = values.shape[1:3]
    for row, (scale, x, y) in enumerate(zooms):
        picture = Image.fromarray(values[row])
        if scale >= 1:
            w, h = width / scale, height / scale
            left, top = x * (width - w), y * (height - h)
            box = (left, top, min(left + w, width), min(top + h, height))
            out[row] = np.asarray(picture.resize((width, height), how, box=box))
        else:
            w, h = max(1, round(width * scale)), max(1, round(height * scale))
            left, top = round(x * (width - w)), round(y * (height - h))
            out[row, top : top + h, left : left + w] = np.asarray(picture.resize((w, h), how))
    return out
