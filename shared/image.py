"""Untrusted bytes -> a picture -> the network's input. Knows no network.

Pillow decodes; only formats that cameras and people use are let in, sizes are checked before any pixel is decoded.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError, ImageTooLargeError, NotAnImageError

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
    return _read(source, name, lambda picture, name: _rgb(_upright(picture), name))


def read_labels(path: Path) -> NDArray[np.uint8]:
    """A label map (H, W) from a picture of one byte a pixel, grey or a palette's index. Raises as `read_image` does."""
    return np.asarray(_read(path, None, _one_byte))


def _read(
    source: str | Path | bytes, name: str | None, made_of: Callable[[Image.Image, str], Image.Image]
) -> Image.Image:
    """What `made_of` makes of the decoded picture and its name."""
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
            if data[:2] in (b"P1", b"P2", b"P3"):
                raise NotAnImageError(f"{name} is a PNM picture in text, which takes long; send a binary one")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise _too_large(name, f"{width} x {height} pixels")
            picture.load()
            return made_of(picture, name)
    except UnidentifiedImageError:
        raise NotAnImageError(
            f"{name} is not an image that can be read here ({', '.join(FORMATS)})"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "over 178 million pixels") from None
    except _DAMAGE as error:
        raise ImageError(f"{name} is damaged: {error}") from None


def _one_byte(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode not in ("L", "P"):
        raise ImageError(f"{name} has pixels of mode {picture.mode}; a label map has one byte a pixel")
    return picture


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
    """Scale (antialiased) and cut to the network's size. The edge and training both call this very function."""
    bicubic = preprocess.interpolation == "bicubic"
    return _fitted(picture, preprocess, Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR)


def fit_map(labels: NDArray[np.uint8] | NDArray[np.int8], preprocess: Preprocess) -> NDArray[Any]:
    """Labels of a picture (H, W) or (H, W, 3), each pixel's from the place that `fit` shows there (nearest)."""
    made = _fitted(Image.fromarray(labels.view(np.uint8)), preprocess, Image.Resampling.NEAREST)
    return np.asarray(made).view(labels.dtype)


def _fitted(picture: Image.Image, preprocess: Preprocess, how: Image.Resampling) -> Image.Image:
    size = (preprocess.width, preprocess.height)
    if preprocess.resize is None:
        if picture.size == size:
            return picture
        if preprocess.fit == "stretch":
            return picture.resize(size, how)
        return ImageOps.fit(picture, size, how)
    scaled = _scaled(picture.size, preprocess.resize)
    left, top, right, bottom = _middle(scaled, size)
    if scaled[0] * scaled[1] <= MAX_PIXELS:
        whole = picture if scaled == picture.size else picture.resize(scaled, how)
        return whole.crop((left, top, right, bottom))
    # A long, narrow picture: the whole of it at that scale might fill the memory.
    x, y = picture.width / scaled[0], picture.height / scaled[1]
    box = (left * x, top * y, min(right * x, picture.width), min(bottom * y, picture.height))
    return picture.resize(size, how, box=box)


def _scaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height with the shorter one scaled to `shorter`; the longer one is rounded down."""
    width, height = size
    if width <= height:
        return shorter, shorter * height // width
    return shorter * width // height, shorter


def _middle(size: tuple[int, int], cut: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of the cut in the middle; half a pixel goes to the even side."""
    left, top = (round((whole - part) / 2) for whole, part in zip(size, cut, strict=True))
    return left, top, left + cut[0], top + cut[1]


def to_input(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """RGB (..., H, W, 3) uint8 -> normalised (..., 3, H, W) float32."""
    scale = 1 / (255 * np.array(preprocess.std, np.float32))
    shift = np.array(preprocess.mean, np.float32) / np.array(preprocess.std, np.float32)
    x = pixels.astype(np.float32) * scale - shift
    return np.ascontiguousarray(np.moveaxis(x, -1, -3))


def size_of(text: str) -> tuple[int, int]:
    """Parses "HEIGHTxWIDTH" into (height, width), each 1 to 4096. Raises DataError of the setting `size`."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None or max(int(match[1]), int(match[2])) > 4096:
        raise DataError(f"{text!r} is not HEIGHTxWIDTH, as in 224x224, up to 4096 each", setting="size")
    return int(match[1]), int(match[2])
