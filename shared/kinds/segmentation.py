"""A class for each pixel: the shares of the image, and a map of at most CLASSES_MAX classes.

Legend: H x W pixels, K classes, 0..K-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from shared.errors import RequestError
from shared.frozen import Frozen, Share
from shared.kinds.kind import Kind, Result, largest, overlap, read_map, write_map
from shared.maps import Colour, Map, MapArray, MapPng, pack, png

CLASSES_MAX = 256  # of a palette, and of uint8
SHOWN_MAX, LISTED_MAX = 3, 6  # classes in a cell, and in a line


class ClassArea(Frozen):
    label: str
    index: int = Field(ge=0, description="position in the task's label list")
    share: Share = Field(description="of the image's pixels")


class SegmentationResult(Result):
    kind: Literal["segmentation"] = "segmentation"
    areas: tuple[ClassArea, ...] = Field(description="the classes that are in the image, largest first")
    map: Map | None = Field(
        default=None,
        description="if requested; PNG: a palette whose pixel values are the classes; array: uint8 (H, W)",
    )


@lru_cache(maxsize=1)
def _colours() -> NDArray[np.uint8]:
    """(256, 3): each colour is the one of a grid that is farthest, to the eye, from all before it and from black."""
    steps = np.rint(np.linspace(0, 255, 10)).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _lab(grid)
    distance = np.linalg.norm(lab - lab[0], axis=1)
    chosen = []
    for _ in range(CLASSES_MAX):
        # Rounded: the last bits of a distance must not choose between two colours.
        chosen.append(int(np.argmax(np.round(distance, 3))))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return grid[chosen]


def _lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB (N, 3) as CIELAB under D65, where distance is about what an eye sees."""
    value = rgb / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(to_xyz).T / (0.9505, 1, 1.089)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def palette(classes: int) -> NDArray[np.uint8]:
    """(K, 3) RGB: a class has the same colour whatever K is. Raises ValueError for more than 256."""
    if not 1 <= classes <= CLASSES_MAX:
        raise ValueError(f"a palette has 1 to {CLASSES_MAX} colours, not {classes}")
    return _colours()[:classes]


def paint(classes: NDArray[Any]) -> NDArray[np.uint8]:
    """Classes (...), integers below 256, as colours (..., 3)."""
    return np.take(palette(CLASSES_MAX), classes, axis=0)


def classes_png(classes: NDArray[Any], count: int) -> MapPng:
    """Classes (H, W) with a palette of `count` colours: the file's pixel values are the classes themselves."""
    height, width = classes.shape
    image = Image.frombytes("P", (width, height), classes.astype(np.uint8).tobytes())
    image.putpalette(palette(count).tobytes())
    return png(image)


def classes_array(classes: NDArray[Any]) -> MapArray:
    """Classes (H, W) as uint8."""
    return pack(classes.astype(np.uint8))


class Segmentation(Kind[SegmentationResult]):
    name = "segmentation"
    result = SegmentationResult
    named = True
    mapped = True
    columns = ("areas",)
    caption = "areas: the largest shares of the image"

    def write(self, result: SegmentationResult, message: Any) -> None:
        for area in result.areas:
            message.areas.add(label=area.label, index=area.index, share=area.share)
        write_map(result.map, message.map)

    def read(self, message: Any) -> SegmentationResult:
        areas = (ClassArea(label=a.label, index=a.index, share=a.share) for a in message.areas)
        return SegmentationResult(areas=tuple(areas), map=read_map(message.map))

    def lines(self, result: SegmentationResult) -> list[str]:
        shown = ", ".join(f"{area.label} {area.share:.3f}" for area in result.areas[:LISTED_MAX])
        more = len(result.areas) - LISTED_MAX
        return [f"{shown} and {more} more" if more > 0 else shown]

    def cells(self, result: SegmentationResult) -> tuple[Sequence[str], ...]:
        return (largest([(area.label, area.share) for area in result.areas], SHOWN_MAX, ".0%"),)

    def agreement(self, one: SegmentationResult, other: SegmentationResult) -> float:
        """The share of the image that has the same classes, wherever they are."""
        return overlap(*({area.label: area.share for area in given.areas} for given in (one, other)))

    def legend(self, result: SegmentationResult) -> dict[int, tuple[Colour, str]]:
        colours = palette(CLASSES_MAX).tolist()
        return {area.index: ((*colours[area.index],), area.label) for area in result.areas}

    def check_maps(self, task: str, labels: tuple[str, ...]) -> None:
        if len(labels) > CLASSES_MAX:
            raise RequestError(
                f"task {task!r} has {len(labels)} classes, and a map holds {CLASSES_MAX}; ask for no maps"
            )
