"""Maps of a picture as colours, PNG files and packed arrays, and back. Knows no network and no transport.

Legend: H x W pixels, K classes. Normals are (H, W, 3), any length, in the camera's axes; classes are (H, W), 0..K-1.
"""

from __future__ import annotations

import io
import math
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import RemoteError
from shared.types import MapArray, MapPng

CLASSES_MAX = 256  # of a palette, and of uint8


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


def unit(normals: NDArray[Any]) -> NDArray[np.float32]:
    """Normals (..., 3) of any length at length 1; no normal, (0, 0, 0), stays so."""
    size = np.linalg.norm(normals.astype(np.float32), axis=-1, keepdims=True)
    return (normals / np.where(size > 0, size, 1)).astype(np.float32)


def normals_rgb(normals: NDArray[Any]) -> NDArray[np.uint8]:
    """Normals (..., 3) as RGB: -1 is 0, 1 is 255; no normal is mid-grey."""
    rgb: NDArray[np.uint8] = np.rint((unit(normals) + 1) * 127.5).astype(np.uint8)
    return rgb


def normals_png(normals: NDArray[Any]) -> MapPng:
    """8-bit RGB, as `normals_rgb`."""
    return _png(Image.fromarray(normals_rgb(normals)))


def classes_png(classes: NDArray[Any], count: int) -> MapPng:
    """With a palette of `count` colours: the file's pixel values are the classes themselves."""
    height, width = classes.shape
    picture = Image.frombytes("P", (width, height), classes.astype(np.uint8).tobytes())
    picture.putpalette(palette(count).tobytes())
    return _png(picture)


def normals_array(normals: NDArray[Any]) -> MapArray:
    """int8 (H, W, 3): 127 times the unit normal."""
    return _pack("int8", np.rint(unit(normals) * 127).astype(np.int8))


def classes_array(classes: NDArray[Any]) -> MapArray:
    """uint8 (H, W)."""
    return _pack("uint8", classes.astype(np.uint8))


def unpack(packed: MapArray) -> NDArray[np.int8 | np.uint8]:
    """The array; never more memory than its shape says. Raises RemoteError where the bytes are not it."""
    size = math.prod(packed.shape)
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(packed.data, size + 1)
    except zlib.error as error:
        raise RemoteError(f"a map's bytes are damaged: {error}; ask again") from None
    if len(data) != size or not reader.eof or reader.unused_data:
        raise RemoteError(f"a map's bytes are not the {size} that its shape {packed.shape} says; ask again")
    return np.frombuffer(data, packed.dtype).reshape(packed.shape)


def _png(picture: Image.Image) -> MapPng:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=4)  # normals: as small as level 6, in half the time
    return MapPng.of(out.getvalue())


def _pack(dtype: Any, values: NDArray[Any]) -> MapArray:
    return MapArray(dtype=dtype, shape=values.shape, data=zlib.compress(values.tobytes()))
