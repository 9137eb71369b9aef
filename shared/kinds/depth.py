"""Depth: for each pixel the distance of the surface along the camera's axis, in metres. 0 is unknown.

Legend: H x W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from shared.frozen import Share
from shared.kinds.kind import Kind, Result, read_map, write_map
from shared.maps import Map, MapArray, MapPng, pack, png

PNG_MAX_M = 65.535  # millimetres in 16 bits
Metres = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# From near to far; the same distance has the same colour in every image.
_NEAR_M, _FAR_M = 0.5, 20.0
_RAMP = np.array([[255, 244, 200], [250, 160, 70], [200, 60, 90], [95, 25, 120], [20, 12, 60]], np.float64)


class DepthResult(Result):
    kind: Literal["depth"] = "depth"
    min_m: Metres = Field(
        description="nearest surface, metres; 0 if no pixel's depth is known, as the others"
    )
    median_m: Metres = Field(description="metres")
    max_m: Metres = Field(description="farthest surface, metres")
    known: Share = Field(description="share of the image's pixels whose depth is known")
    map: Map | None = Field(
        default=None,
        description="if requested; PNG: 16-bit grey, millimetres; array: float32 (H, W), metres; 0: unknown",
    )


def depth_png(metres: NDArray[Any]) -> MapPng:
    """Metres (H, W) as 16-bit millimetres; more than PNG_MAX_M is PNG_MAX_M."""
    millimetres = np.rint(np.clip(metres.astype(np.float64), 0, PNG_MAX_M) * 1000).astype(np.uint16)
    return png(Image.fromarray(millimetres))


def depth_array(metres: NDArray[Any]) -> MapArray:
    """Metres (H, W) as float32."""
    return pack(metres.astype(np.float32))


def depth_rgb(metres: NDArray[Any]) -> NDArray[np.uint8]:
    """Metres (...) as colours (..., 3), near light and far dark, on a scale of logarithms; unknown is black."""
    metres = metres.astype(np.float64)
    known = metres > 0
    at = np.log(np.clip(metres, _NEAR_M, _FAR_M) / _NEAR_M) / np.log(_FAR_M / _NEAR_M) * (len(_RAMP) - 1)
    channels = [np.interp(at, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)]
    rgb: NDArray[np.uint8] = (np.rint(np.stack(channels, -1)) * known[..., None]).astype(np.uint8)
    return rgb


class Depth(Kind[DepthResult]):
    name = "depth"
    result = DepthResult
    mapped = True
    columns = ("depth",)
    caption = "depth: nearest, median and farthest, in metres"

    def write(self, result: DepthResult, message: Any) -> None:
        message.min_m, message.median_m, message.max_m = result.min_m, result.median_m, result.max_m
        message.known = result.known
        write_map(result.map, message.map)

    def read(self, message: Any) -> DepthResult:
        return DepthResult(
            min_m=message.min_m,
            median_m=message.median_m,
            max_m=message.max_m,
            known=message.known,
            map=read_map(message.map),
        )

    def lines(self, result: DepthResult) -> list[str]:
        text = f"{result.min_m:.2f} to {result.max_m:.2f} m, median {result.median_m:.2f} m"
        return [text if result.known == 1 else f"{text}; known of {result.known:.1%} of the image"]

    def cells(self, result: DepthResult) -> tuple[Sequence[str], ...]:
        return ([f"{result.min_m:.1f}, {result.median_m:.1f}, {result.max_m:.1f} m"],)

    def agreement(self, one: DepthResult, other: DepthResult) -> float:
        """The smaller median over the larger."""
        near, far = sorted((one.median_m, other.median_m))
        return near / far if far else 1.0

    def tile(self, png: bytes) -> Image.Image:
        with Image.open(io.BytesIO(png)) as opened:
            return Image.fromarray(depth_rgb(np.asarray(opened) / 1000))
