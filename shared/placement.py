"""Where an image lies in a network's input, and the way back from a map of that input. Knows no network and no file.

    crop        the middle of the image fills the input
    stretch     the image fills the input
    letterbox   the image fills the middle of the input; bars fill the rest

Letters: H x W input or map; boxes are (left, top, right, bottom).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from shared.frozen import Frozen, Share

Box = tuple[int, int, int, int]
Fit = Literal["crop", "stretch", "letterbox"]


class View(Frozen):
    """Which part of an image an answer is about, and where its maps show that part."""

    width: int = Field(ge=1, description="of the image, pixels")
    height: int = Field(ge=1)
    seen: tuple[float, float, float, float] = Field(
        description="left, top, right, bottom of what the networks saw, pixels of the image"
    )
    fills: tuple[Share, Share, Share, Share] = Field(
        description="left, top, right, bottom of where that lies in a map, as shares of the map's width and height; "
        "the rest of the map is about no part of the image"
    )

    @property
    def whole(self) -> bool:
        """Whether all of the image fills all of a map, but for the pixel that rounding costs."""
        left, top, right, bottom = self.seen
        cut = max(left, top, self.width - right, self.height - bottom)
        return cut < 1 and self.fills == (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Placement:
    """seen: a box of the image, which may end between two pixels. fills: the box of the input that shows it."""

    seen: tuple[float, float, float, float]
    fills: Box

    def view(self, image: tuple[int, int], size: tuple[int, int]) -> View:
        """image, size: width and height, of the image and of the input."""
        scale = (*size, *size)
        shares = tuple(round(edge / whole, 6) for edge, whole in zip(self.fills, scale, strict=True))
        seen = tuple(round(edge, 3) for edge in self.seen)
        return View.model_validate({"width": image[0], "height": image[1], "seen": seen, "fills": shares})


def letterbox(image: tuple[int, int], size: tuple[int, int]) -> Box:
    """Where an image lies in the middle of an input at the largest scale at which all of it fits, a pixel at least.

    image, size: width and height. Half a pixel goes to the right and to the bottom.
    """
    scale = min(size[0] / image[0], size[1] / image[1])
    width, height = (min(whole, max(1, round(scale * side))) for side, whole in zip(image, size, strict=True))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def placed(image: tuple[int, int], size: tuple[int, int], fit: Fit, resize: int | None = None) -> Placement:
    """How `shared.image.fit` places an image. image, size: width and height. resize: the shorter side before a crop."""
    whole = (0.0, 0.0, float(image[0]), float(image[1]))
    if fit == "letterbox":
        return Placement(whole, letterbox(image, size))
    full = (0, 0, *size)
    if fit == "stretch":
        return Placement(whole, full)
    scale = max(size[0] / image[0], size[1] / image[1]) if resize is None else resize / min(image)
    width, height = size[0] / scale, size[1] / scale
    left, top = (image[0] - width) / 2, (image[1] - height) / 2
    return Placement((left, top, left + width, top + height), full)


def map_of_image(values: NDArray[Any], view: View, unseen: Any) -> NDArray[Any]:
    """A map as large as the image that it is about, each value from the nearest of the map.

    values: (H, W) or (H, W, C), as `shared.maps.unpack` or a PNG's pixels give it. unseen: the value of pixels of the
    image that the networks did not see.

    Returns (height, width) or (height, width, C) of the image.
    """
    out = np.full((view.height, view.width, *values.shape[2:]), unseen, values.dtype)
    (columns, xs), (rows, ys) = (
        _nearest(
            view.seen[axis::2], view.fills[axis::2], (view.width, view.height)[axis], values.shape[1 - axis]
        )
        for axis in (0, 1)
    )
    out[np.ix_(rows, columns)] = values[np.ix_(ys, xs)]
    return out


def _nearest(
    seen: tuple[float, ...], fills: tuple[float, ...], side: int, cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels of an axis of the image that were seen, and the cell of the map for each."""
    pixels = np.arange(side)
    share = (pixels + 0.5 - seen[0]) / (seen[1] - seen[0])
    pixels, share = pixels[(share >= 0) & (share <= 1)], share[(share >= 0) & (share <= 1)]
    first, last = fills[0] * cells, fills[1] * cells
    at = np.floor(first + share * (last - first)).astype(np.int64)
    # Never a cell of a bar. Where bars leave less than a cell, the one in the middle.
    low = min(int(np.ceil(first - 0.5)), cells - 1)
    return pixels, at.clip(low, max(low, int(np.floor(last - 0.5))))
