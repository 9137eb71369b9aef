"""Untrusted bytes -> a picture -> the network's input. Knows no network.

Pillow decodes; only formats that cameras and people use are let in, sizes are checked before any pixel is decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from shared.bundle import Preprocess
from shared.errors import ImageError, ImageTooLargeError, NotAnImageError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
MAX_PIXELS = 25_000_000
MAX_FILE_BYTES = 32 << 20

# What Pillow's decoders were seen to raise on damaged files, fuzzed format by format.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    RuntimeError,
    struct.error,
)

_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


def read_image(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """An RGB picture from a file or from bytes, upright by its EXIF orientation.

    Raises NotAnImageError (no picture, no such file), ImageTooLargeError (over 25 megapixels or 32 MiB; nothing has
    been decoded by then) or ImageError (a damaged picture).
    """
    if isinstance(source, bytes):
        data, name = source, name or "the image"
    else:
        data, name = _read_file(Path(source)), str(source)
    if len(data) > MAX_FILE_BYTES:
        raise ImageTooLargeError(f"{name} has {len(data)} bytes; an image may have {MAX_FILE_BYTES}")
    try:
        with warnings.catch_warnings():
            # Of sizes above our own limit below, and of damaged EXIF: a picture or one error is all that users need.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise _too_large(name, f"{width} x {height} pixels")
            picture.load()
            return _rgb(_upright(picture), name)
    except UnidentifiedImageError:
        raise NotAnImageError(
            f"{name} is not an image that can be read here ({', '.join(FORMATS)})"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "over 178 million pixels") from None
    except _DAMAGE as error:
        raise ImageError(f"{name} is damaged: {error}") from None


def _upright(picture: Image.Image) -> Image.Image:
    """Turned by its EXIF orientation. A damaged EXIF block spoils no picture, and is not written again.

    (Pillow's exif_transpose does both.)
    """
    try:
        method = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGE:
        return picture
    return picture if method is None else picture.transpose(method)


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    """Eight bits a channel, transparency left out. Pillow alone clips deeper grey at 255: nearly all of it white."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise ImageError(f"{name} has 32 bits a pixel; save it with 8 or 16")
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ImageError(f"{name} has floating-point pixels; save it with 8 or 16 bits")
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # converting RGB would copy it


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotAnImageError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise NotAnImageError(f"{path} is a folder; name an image file in it") from None
    except OSError as error:
        raise NotAnImageError(f"cannot read {path}: {error.strerror}") from None


def _too_large(name: str, size: str) -> ImageTooLargeError:
    return ImageTooLargeError(f"{name} has {size}; at most {MAX_PIXELS // 10**6} megapixels are read")


def fit(picture: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Scale (bilinear, antialiased) and cut to the network's size."""
    size = (preprocess.width, preprocess.height)
    if picture.size == size:
        return picture
    if preprocess.fit == "stretch":
        return picture.resize(size, Image.Resampling.BILINEAR)
    return ImageOps.fit(picture, size, Image.Resampling.BILINEAR)


def to_input(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """RGB (..., H, W, 3) uint8 -> normalised (..., 3, H, W) float32."""
    scale = 1 / (255 * np.array(preprocess.std, np.float32))
    shift = np.array(preprocess.mean, np.float32) / np.array(preprocess.std, np.float32)
    x = pixels.astype(np.float32) * scale - shift
    return np.ascontiguousarray(np.moveaxis(x, -1, -3))
