"""Zooms training images to random scales and places, and their labels with them. Knows no network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.bundle import Preprocess
from train.kinds.label_form import LabelForm


def draw_zooms(random: np.random.Generator, count: int, scales: tuple[float, float]) -> NDArray[np.float64]:
    """(count, 3): a scale, then x and y, from 0, left or top, to 1.

    x and y place what is cut from an enlarged image, and a reduced image in its frame.
    """
    drawn = random.random((count, 3))
    drawn[:, 0] = scales[0] + drawn[:, 0] * (scales[1] - scales[0])
    return drawn


def zoom_images(
    images: NDArray[np.uint8], zooms: NDArray[np.float64], preprocess: Preprocess
) -> NDArray[np.uint8]:
    """RGB (B, H, W, 3) zoomed by (B, 3), of the same size; the mean colour surrounds reduced images."""
    fill = np.rint(255 * np.array(preprocess.mean)).astype(np.uint8)
    return _zoomed(images, zooms, fill, Image.Resampling.BILINEAR)


def zoom_labels(labels: NDArray[Any], form: LabelForm, zooms: NDArray[np.float64]) -> NDArray[Any]:
    """Labels (B, ...) of images that `zoom_images` zooms by (B, 3); no labels surround reduced maps."""
    if not form.per_pixel:
        return labels
    bytes_ = labels.view(np.uint8) if labels.dtype == np.int8 else labels  # Pillow has no signed bytes
    fill = np.array([form.unlabelled or 0]).astype(bytes_.dtype)
    zoomed = _zoomed(bytes_, zooms, fill, Image.Resampling.NEAREST)
    return zoomed.view(labels.dtype)


def _zoomed(
    values: NDArray[Any],
    zooms: NDArray[np.float64],
    fill: NDArray[Any],
    how: Image.Resampling,
) -> NDArray[Any]:
    out = np.empty_like(values)
    out[...] = fill if values.ndim == 4 else fill[0]
    height, width = values.shape[1:3]
    for row, (scale, x, y) in enumerate(zooms):
        image = Image.fromarray(values[row])
        if scale >= 1:
            w, h = width / scale, height / scale
            left, top = x * (width - w), y * (height - h)
            box = (left, top, min(left + w, width), min(top + h, height))
            out[row] = np.asarray(image.resize((width, height), how, box=box))
        else:
            w, h = max(1, round(width * scale)), max(1, round(height * scale))
            left, top = round(x * (width - w)), round(y * (height - h))
            out[row, top : top + h, left : left + w] = np.asarray(image.resize((w, h), how))
    return out
