"""Untrusted bytes -> an RGB image -> the network's input. Knows no network.

    read: open by format -> size checked -> eight bits a sample (`image_depth`) -> RGB -> upright
    fit:  scaled and cropped to the network's size -> normalised floats

Pillow decodes. Only formats that cameras and people use are accepted, and no pixel is decoded before the size is known.
Reading loads no bundle and no pydantic: the process of a camera box's source, of which there are many, only reads.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from shared.errors import DataError, ImageError, ImageTooLargeError, NotAnImageError
from shared.image_depth import to_eight_bits
from shared.jpeg_end import read_without_end

if TYPE_CHECKING:
    from shared.bundle import Preprocess
    from shared.placement import View

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
UNLABELLED_CLASS = 255  # of a map of classes: a pixel that nobody labelled
MAX_PIXELS = 25_000_000
MAX_FILE_BYTES = 32 << 20

# Everything that Pillow's decoders raised on damaged files, fuzzed format by format.
DECODE_ERRORS = (
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


def read_image(
    source: str | Path | bytes, name: str | None = None, warn: Callable[[str], None] | None = None
) -> Image.Image:
    """An RGB image of eight bits a colour from a file or from bytes, upright by its EXIF orientation.

    warn: gets a line for each flaw in spite of which the image was read: a JPEG that lacks only its end. Without it
    such a file is damaged.

    Raises NotAnImageError (not an image, no such file), ImageTooLargeError (over 25 megapixels or 32 MiB; nothing has
    been decoded by then) or ImageError (a damaged image, or one whose samples have no known white).
    """
    data, name = _read_source(source, name)

    def decode() -> Image.Image:
        image = _open(data, name)
        try:
            eight = to_eight_bits(image, data, name)
        except OSError:
            cut_off = None if warn is None else read_without_end(data, name)
            if warn is None or cut_off is None:
                raise
            eight, text = cut_off
            warn(text)
        # Transparency is left out. Converting RGB to RGB would copy it.
        rgb = eight if eight.mode == "RGB" else _convert(eight, name)
        return _upright(rgb, image)

    return _guarded(decode, name)


def read_labels(path: Path) -> NDArray[np.uint8]:
    """A label map (H, W) from an image of one byte a pixel, gray or a palette's index. Raises as `read_image` does."""
    data, name = _read_source(path, None)

    def decode() -> Image.Image:
        image = _open(data, name)
        if image.mode not in ("L", "P"):
            raise ImageError(f"{name} has pixels of mode {image.mode}; a label map has one byte a pixel")
        image.load()
        return image

    return np.asarray(_guarded(decode, name))


def _read_source(source: str | Path | bytes, name: str | None) -> tuple[bytes, str]:
    """The file's bytes, and its name for messages."""
    if isinstance(source, bytes):
        data, name = source, name or "the image"
    else:
        data, name = _read_file(Path(source)), str(source)
    if len(data) > MAX_FILE_BYTES:
        raise ImageTooLargeError(f"{name} has {len(data)} bytes; an image may have {MAX_FILE_BYTES}")
    return data, name


def _open(data: bytes, name: str) -> ImageFile:
    """The image with its size checked and no pixel decoded."""
    if data[:2] in (b"P1", b"P2", b"P3"):
        raise NotAnImageError(f"{name} is a PNM image in text, which takes long; send a binary one")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} pixels")
    return image


def _guarded(decode: Callable[[], Image.Image], name: str) -> Image.Image:
    """Runs a decoding, and turns everything that Pillow raises into an ImageError."""
    try:
        with warnings.catch_warnings():
            # About sizes above our own limit, and damaged EXIF: an image or one error is all that users need.
            warnings.simplefilter("ignore")
            return decode()
    except UnidentifiedImageError:
        raise NotAnImageError(
            f"{name} is not an image that can be read here ({', '.join(FORMATS)}, of 8 or 16 bits a sample)"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "over 178 million pixels") from None
    except DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged: {error}") from None


def _convert(image: Image.Image, name: str) -> Image.Image:
    try:
        return image.convert("RGB")
    except ValueError:
        raise ImageError(f"{name} has colours of mode {image.mode}; save it as RGB") from None


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """The image turned by the EXIF orientation of the opened file. A damaged EXIF block is ignored.

    (Pillow's exif_transpose raises for one, and writes EXIF again.)
    """
    try:
        method = _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODE_ERRORS:
        return image
    return image if method is None else image.transpose(method)


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


def fit(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The image at the network's size, scaled (antialiased) as its preprocess says; bars have the mean colour. The edge
    and training both call this."""
    bicubic = preprocess.interpolation == "bicubic"
    resampling = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    mean = tuple(min(255, max(0, round(255 * value))) for value in preprocess.mean)
    return _fitted(image, preprocess, resampling, mean)


def fit_map(labels: NDArray[Any], preprocess: Preprocess) -> NDArray[Any]:
    """Labels of an image, fitted as `fit` fits the image: each from the nearest pixel. In bars nothing is labelled.

    labels: (H, W) or (H, W, 3) of bytes, signed or not, or (H, W) float32.
    """
    bar = UNLABELLED_CLASS if labels.dtype == np.uint8 else 0
    values = labels.view(np.uint8) if labels.dtype == np.int8 else labels  # Pillow has no signed bytes
    fitted = _fitted(Image.fromarray(values), preprocess, Image.Resampling.NEAREST, bar)
    return np.asarray(fitted).view(labels.dtype)


def view_of(image: tuple[int, int], preprocess: Preprocess) -> View | None:
    """Which part of an image of that width and height `fit` keeps, and where; None: all of it, everywhere."""
    size = (preprocess.width, preprocess.height)
    from shared.placement import placed

    view = placed(image, size, preprocess.fit, preprocess.resize).view(image, size)
    return None if view.whole else view


def _fitted(
    image: Image.Image,
    preprocess: Preprocess,
    resampling: Image.Resampling,
    bar: float | tuple[int, ...],
) -> Image.Image:
    size = (preprocess.width, preprocess.height)
    if preprocess.resize is None:
        if image.size == size:
            return image
        if preprocess.fit == "stretch":
            return image.resize(size, resampling)
        if preprocess.fit == "letterbox":
            from shared.placement import letterbox

            left, top, right, bottom = letterbox(image.size, size)
            canvas = Image.new(image.mode, size, bar)
            canvas.paste(image.resize((right - left, bottom - top), resampling), (left, top))
            return canvas
        return ImageOps.fit(image, size, resampling)
    scaled = _scaled(image.size, preprocess.resize)
    left, top, right, bottom = _middle(scaled, size)
    if scaled[0] * scaled[1] <= MAX_PIXELS:
        whole = image if scaled == image.size else image.resize(scaled, resampling)
        return whole.crop((left, top, right, bottom))
    # A long, narrow image: at that scale, the whole of it might fill the memory.
    x, y = image.width / scaled[0], image.height / scaled[1]
    box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
    return image.resize(size, resampling, box=box)


def _scaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height with the shorter one scaled to `shorter`; the longer one is rounded down."""
    width, height = size
    if width <= height:
        return shorter, shorter * height // width
    return shorter * width // height, shorter


def _middle(size: tuple[int, int], cut: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of a cut in the middle; half a pixel is rounded to the even side."""
    left, top = (round((whole - part) / 2) for whole, part in zip(size, cut, strict=True))
    return left, top, left + cut[0], top + cut[1]


def to_input(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """RGB (..., H, W, 3) uint8 -> normalised (..., 3, H, W) float32."""
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    scale, shift = 1 / (255 * std), mean / std
    planes = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C")  # the rest then runs over whole planes
    return planes * scale[:, None, None] - shift[:, None, None]


def size_of(text: str) -> tuple[int, int]:
    """Parses "HEIGHTxWIDTH" into (height, width), each 1 to 4096. Raises DataError of the setting `size`."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None or max(int(match[1]), int(match[2])) > 4096:
        raise DataError(f"{text!r} is not HEIGHTxWIDTH, as in 224x224, up to 4096 each", setting="size")
    return int(match[1]), int(match[2])
