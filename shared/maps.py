"""Maps of an image as PNG files and packed arrays, and back. Knows no kind of answer and no transport.

Legend: H x W pixels.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from shared.errors import RemoteError
from shared.frozen import Frozen

Colour = tuple[int, int, int]


class MapPng(Frozen):
    """A map as a PNG file. Its kind says what a pixel's value means."""

    media_type: Literal["image/png"] = "image/png"
    base64: str = Field(description="the file's bytes")

    @classmethod
    def of(cls, data: bytes) -> MapPng:
        return cls(base64=base64.b64encode(data).decode())

    def file(self) -> bytes:
        return base64.b64decode(self.base64)


class MapArray(Frozen):
    """A map as numbers in C order, little-endian; never over HTTP. `unpack` reads it; its kind says what they mean."""

    dtype: Literal["int8", "uint8", "float32"]
    shape: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=2, max_length=3)
    compression: Literal["zlib"] = "zlib"
    data: bytes


Map = MapPng | MapArray


def png(image: Image.Image) -> MapPng:
    """The image as a PNG file, in its own mode."""
    out = io.BytesIO()
    # Runs alone: what filters leave of smooth maps repeats nothing else. Normals are as small as at level 6 in a
    # quarter of its time, and classes smaller than at level 4.
    image.save(out, "PNG", compress_level=4, compress_type=zlib.Z_RLE)
    return MapPng.of(out.getvalue())


def pack(values: NDArray[Any]) -> MapArray:
    """An array (H, W) or (H, W, C) of int8, uint8 or float32."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return MapArray(dtype=values.dtype.name, shape=values.shape, data=zlib.compress(little.tobytes()))


def unpack(packed: MapArray) -> NDArray[Any]:
    """The array; never more memory than its shape says. Raises RemoteError for bytes of another size."""
    dtype = np.dtype(packed.dtype).newbyteorder("<")
    size = math.prod(packed.shape) * dtype.itemsize
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(packed.data, size + 1)
    except zlib.error as error:
        raise RemoteError(f"a map's bytes are damaged: {error}; ask again") from None
    if len(data) != size or not reader.eof or reader.unused_data:
        raise RemoteError(f"a map's bytes are not the {size} that its shape {packed.shape} says; ask again")
    return np.frombuffer(data, dtype).reshape(packed.shape).astype(packed.dtype, copy=False)
