"""Surface normals: for each pixel the unit vector that stands on the surface.

The camera's axes: +x right, +y up, +z towards the camera. The wall at the left of a room faces right.

Legend: H x W pixels. Arrays of normals are (..., 3), of any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from shared.frozen import Frozen, Share
from shared.kinds.kind import Kind, Result, largest, overlap, read_map, write_map
from shared.maps import Map, MapArray, MapPng, pack, png

SHOWN_MAX = 3  # ways, in a cell
Component = Annotated[float, Field(ge=-1, le=1)]


class Facing(Frozen):
    """Shares of the image that face each way, by the largest component of the normal."""

    left: Share
    right: Share
    up: Share
    down: Share
    towards: Share
    away: Share

    def ordered(self) -> list[tuple[str, float]]:
        """Ways and their shares, largest first."""
        return sorted(self.model_dump().items(), key=lambda way: -way[1])


class NormalsResult(Result):
    kind: Literal["normals"] = "normals"
    mean: tuple[Component, Component, Component] = Field(
        description="mean of the pixels' unit normals: x right, y up, z towards the camera; shorter the less they agree"
    )
    facing: Facing
    map: Map | None = Field(
        default=None,
        description="if requested; PNG: 8-bit RGB, 127.5 * (n + 1); array: int8 (H, W, 3), 127 n",
    )


def unit(normals: NDArray[Any]) -> NDArray[np.float32]:
    """The normals at length 1; no normal, (0, 0, 0), stays so."""
    size = np.linalg.norm(normals.astype(np.float32), axis=-1, keepdims=True)
    return (normals / np.where(size > 0, size, 1)).astype(np.float32)


def normals_rgb(normals: NDArray[Any]) -> NDArray[np.uint8]:
    """The normals as RGB: -1 is 0, 1 is 255; no normal is mid-grey."""
    rgb: NDArray[np.uint8] = np.rint((unit(normals) + 1) * 127.5).astype(np.uint8)
    return rgb


def normals_png(normals: NDArray[Any]) -> MapPng:
    """Normals (H, W, 3) as 8-bit RGB."""
    return png(Image.fromarray(normals_rgb(normals)))


def normals_array(normals: NDArray[Any]) -> MapArray:
    """Normals (H, W, 3) as int8: 127 times the unit normal."""
    return pack(np.rint(unit(normals) * 127).astype(np.int8))


class Normals(Kind[NormalsResult]):
    name = "normals"
    result = NormalsResult
    mapped = True
    columns = ("facing",)
    caption = "facing: the largest shares of the image"

    def write(self, result: NormalsResult, message: Any) -> None:
        message.mean.x, message.mean.y, message.mean.z = result.mean
        message.facing.SetInParent()
        for way, share in result.facing.model_dump().items():
            setattr(message.facing, way, share)
        write_map(result.map, message.map)

    def read(self, message: Any) -> NormalsResult:
        mean, facing = message.mean, message.facing
        return NormalsResult(
            mean=(mean.x, mean.y, mean.z),
            facing=Facing(**{way: getattr(facing, way) for way in Facing.model_fields}),
            map=read_map(message.map),
        )

    def lines(self, result: NormalsResult) -> list[str]:
        x, y, z = result.mean
        ways = ", ".join(f"{way} {share:.3f}" for way, share in result.facing.ordered())
        return [f"{ways}; mean ({x:.2f}, {y:.2f}, {z:.2f})"]

    def cells(self, result: NormalsResult) -> tuple[Sequence[str], ...]:
        return (largest(result.facing.ordered(), SHOWN_MAX, ".0%"),)

    def agreement(self, one: NormalsResult, other: NormalsResult) -> float:
        """The share of the image that faces the same ways."""
        return overlap(one.facing.model_dump(), other.facing.model_dump())
