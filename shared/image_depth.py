"""Samples of more than eight bits -> eight bits, without guessing. Knows no network.

The number that stands for white is looked for in this order:

    declared    TIFF BitsPerSample, MaxSampleValue, SMinSampleValue and SMaxSampleValue; PNG sBIT; PNM maxval
    held        the samples, where only one depth makes sense of them: `_white_of_integers`, `_white_of_floats`
    neither     an ImageError that says what to do

A maximum that merely repeats the largest number of the sample's type declares nothing: most writers put it into every
file. What a container cannot fill would otherwise come out black, and a network answers black images with confidence.

Letters: H, W image size; C colours.
"""

from __future__ import annotations

import io
import math
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from shared.errors import ImageError

_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE, _SAMPLE_FORMAT = 258, 262, 281, 339
_SMIN_SAMPLE, _SMAX_SAMPLE = 340, 341
_WHITE_IS_ZERO = 0
_SIGNED = 2

# Below a quarter of 16 bits, samples may have 10, 12 or 14 bits, or 16 in a dark scene.
_CLEARLY_16_BITS = 1 << 14
_CLEARLY_32_BITS = 1 << 30
_ROWS_AT_ONCE = 256

_REMEDY = (
    "save it with 8 bits, or with its largest value in the file "
    "(TIFF MaxSampleValue or SMaxSampleValue, PNG sBIT, PNM maxval)"
)


@dataclass(frozen=True)
class Declared:
    """What a file states about its samples. black, white: None if it states none. bits: of PNG's sBIT, likewise."""

    black: float | None = None
    white: float | None = None
    bits: int | None = None


def to_eight_bits(image: ImageFile, data: bytes, name: str) -> Image.Image:
    """Loads an opened image, and returns it or an image of at most eight bits a sample, in a mode that becomes RGB.

    data: the whole file. name: for messages. Raises ImageError, and what Pillow raises for damaged files.
    """
    codec, layout = _layout(image)
    if codec == "ppm":
        return _netpbm(image, data, name)
    if codec == "raw" and layout in ("R", "G", "B", "A") and _tags(image).get(_BITS_PER_SAMPLE, (8,))[0] > 8:
        raise ImageError(f"{name} keeps its colours in separate planes of 16 bits; save it with 8 bits")
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16") or _has_signed_bytes(image):
        return _deep_gray(image, data, name)
    if image.mode in ("RGB", "RGBA") and (";16" in layout or _jpeg2000_bits(image, data) > 12):
        return _deep_colour(image, data, layout, name)
    return image


def _netpbm(image: ImageFile, data: bytes, name: str) -> Image.Image:
    """A binary PNM whose largest value is not that of its bytes. (Pillow takes seconds for each megapixel of these.)"""
    offset = image.tile[0].offset
    _, maximum = cast(tuple[str, int], image.tile[0].args)
    kind = np.dtype("u1" if maximum <= 0xFF else ">u2")
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    if len(data) - offset < kind.itemsize * math.prod(shape):
        raise ImageError(f"{name} is damaged: its end is missing")
    samples = np.frombuffer(data, kind, math.prod(shape), offset).reshape(shape)
    if maximum == 0xFFFF and samples.max() < _CLEARLY_16_BITS:
        return Image.fromarray(_eight_bits(samples.astype(np.uint16), Declared(), name))
    top, shift = (0xFFFF, 8) if image.mode == "I" else (0xFF, 0)
    table = np.rint(np.arange(1 << 8 * kind.itemsize) / maximum * top).clip(0, top).astype(np.uint16) >> shift
    return Image.fromarray(table.astype(np.uint8)[samples])


def _deep_gray(image: Image.Image, data: bytes, name: str) -> Image.Image:
    samples = _gray_samples(image)
    eight = _eight_bits(samples, _declared(image, data, samples.dtype), name)
    # Pillow inverts eight bits of such files by itself, but not more.
    return Image.fromarray(255 - eight if _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO else eight)


def _deep_colour(image: Image.Image, data: bytes, layout: str, name: str) -> Image.Image:
    """Colours of sixteen bits, of which Pillow keeps the upper byte.

    That is right for samples that fill their sixteen bits. For others the file is decoded again for the lower bytes.
    """
    declared = _declared(image, data, np.dtype(np.uint16))
    upper = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    conclusive = max(_CLEARLY_16_BITS, 2 ** (declared.bits or 0))
    if declared.white is None and upper.max() >= conclusive >> 8:
        return image
    return Image.fromarray(_eight_bits(_sixteen_bits(data, upper, layout, name), declared, name))


def _layout(image: ImageFile) -> tuple[str, str]:
    """Pillow's decoder of an opened image, and the layout that it unpacks samples from, such as RGB;16B."""
    if not image.tile:
        return "", ""
    codec, args = image.tile[0].codec_name, image.tile[0].args
    first = args[0] if isinstance(args, tuple) and args else args
    return codec, first if isinstance(first, str) else ""


def _sixteen_bits(data: bytes, upper: NDArray[np.uint8], layout: str, name: str) -> NDArray[np.uint16]:
    """The whole samples (H, W, 3), from Pillow's upper bytes and a second decoding in the other byte order."""
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    if layout == "LA;16B":  # four bytes a pixel, the second of which is the lower one of gray
        swapped, channels = "RGBA", slice(1, 2)
    elif layout.startswith(("RGB;16", "RGBA;16", "RGBX;16")):
        swapped, channels = layout[:-1] + other[layout[-1]], slice(3)
    else:
        raise ImageError(f"{name} has 16 bits a colour and is nearly black; save it with 8 bits")
    lower = Image.open(io.BytesIO(data), formats=("PNG", "TIFF"))
    lower.tile = [
        tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
        for tile in lower.tile
    ]
    samples = upper.astype(np.uint16)
    samples <<= 8
    samples |= np.asarray(lower)[..., channels]
    return samples


def _gray_samples(image: Image.Image) -> NDArray[Any]:
    """Samples (H, W) of a loaded image in the type that the file stores."""
    samples = np.asarray(image)
    if image.format != "TIFF":  # sixteen bits, which Pillow may hold in integers of 32
        return samples if samples.dtype.kind == "f" else samples.astype(np.uint16)
    tags = _tags(image)
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    bits = tags.get(_BITS_PER_SAMPLE, (1,))[0]
    if samples.dtype == np.uint8:
        return samples.view(np.int8)
    if samples.dtype == np.int32:
        return samples.astype(np.int16) if bits == 16 else samples if signed else samples.view(np.uint32)
    return samples


def _has_signed_bytes(image: Image.Image) -> bool:
    return image.mode == "L" and _tags(image).get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """A TIFF's fields by number; none for any other format."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return tags


def _declared(image: Image.Image, data: bytes, stored: np.dtype[Any]) -> Declared:
    """What the file states about its samples. stored: their type in the file."""
    if image.format == "PNG":
        bits = _png_significant_bits(data)
        return Declared(bits=bits if bits is not None and 0 < bits < 8 * stored.itemsize else None)
    if image.format != "TIFF":
        return Declared()
    tags = _tags(image)
    unsigned = stored.kind == "u"
    white = _number(tags.get(_MAX_SAMPLE if unsigned else _SMAX_SAMPLE), max)
    black = None if unsigned else _number(tags.get(_SMIN_SAMPLE), min)
    bits = tags.get(_BITS_PER_SAMPLE, (1,))[0]
    largest = None if stored.kind == "f" else float(np.iinfo(stored).max)
    if bits < 8 * stored.itemsize:  # twelve bits, packed
        return Declared(white=white if white is not None else float(2**bits - 1))
    if white == largest and black in (None, 0.0):
        return Declared()
    return Declared(black, white)


def _number(value: Any, pick: Any) -> float | None:
    """A TIFF field's number, or the extreme of its numbers; None if it is absent or not finite."""
    if value is None:
        return None
    values = value if isinstance(value, tuple) else (value,)
    if not values or not all(isinstance(one, (int, float)) and np.isfinite(one) for one in values):
        return None
    return float(pick(values))


def _png_significant_bits(data: bytes) -> int | None:
    """The largest depth that a PNG's sBIT states for a colour; None without sBIT."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"sBIT" and 1 <= length <= 4:
            depths = data[at + 8 : at + 8 + length]
            return max(depths[: 1 if length < 3 else 3], default=None)  # an alpha's depth comes last
        if kind in (b"PLTE", b"IDAT"):
            return None
        at += 12 + length
    return None


def _jpeg2000_bits(image: Image.Image, data: bytes) -> int:
    """Bits of a JPEG 2000's first component; 0 for any other format."""
    at = data.find(b"\xff\x4f\xff\x51") if image.format == "JPEG2000" else -1
    return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 0


def _eight_bits(samples: NDArray[Any], declared: Declared, name: str) -> NDArray[np.uint8]:
    """Samples of any number type -> uint8 of the same shape. Raises ImageError."""
    black, white = _range(samples, declared, name)
    if black == 0 and white == 0xFFFF and samples.dtype == np.uint16:
        return (samples >> 8).astype(np.uint8)
    out = np.empty(samples.shape, np.uint8)
    for rows, made in zip(_bands(samples), _bands(out), strict=True):
        # By way of 16 bits, so that all depths round alike.
        sixteen = np.rint((rows.astype(np.float64) - black) * (0xFFFF / (white - black)))
        made[:] = np.clip(sixteen, 0, 0xFFFF).astype(np.uint16) >> 8
    return out


def _bands(samples: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The rows, some at a time, so that no large image is copied as a whole into wider numbers."""
    for top in range(0, len(samples), _ROWS_AT_ONCE):
        yield samples[top : top + _ROWS_AT_ONCE]


def _range(samples: NDArray[Any], declared: Declared, name: str) -> tuple[float, float]:
    """The numbers that stand for black and white. Raises ImageError where they cannot be known."""
    low, high = float(samples.min()), float(samples.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError(f"{name} has samples that are not finite numbers; save it with 8 bits")
    if declared.white is not None:
        black = declared.black or 0.0
        if not black <= low or not high <= declared.white or black == declared.white:
            raise ImageError(
                f"{name} states that its samples lie in {black:g} to {declared.white:g}, "
                f"but they lie in {low:g} to {high:g}; {_REMEDY}"
            )
        return black, declared.white
    if low < 0:
        raise ImageError(
            f"{name} has negative samples ({low:g} to {high:g}), of which the file does not say what is black; "
            "save it with 8 bits, or with SMinSampleValue and SMaxSampleValue"
        )
    if samples.dtype.kind == "f":
        white = _white_of_floats(samples, high)
    elif declared.bits is not None:
        white = _white_of_significant_bits(samples, declared.bits, high)
    else:
        white = _white_of_integers(samples, high)
    if white is None:
        kind = "floating-point" if samples.dtype.kind == "f" else f"{8 * samples.dtype.itemsize}-bit"
        raise ImageError(
            f"{name} has {kind} samples of at most {high:g}, and nothing says which value is white; {_REMEDY}"
        )
    return 0.0, white


def _white_of_integers(samples: NDArray[Any], high: float) -> float | None:
    """255, 65535 or the largest number of the type, whichever the samples show; None if several are likely."""
    largest = int(np.iinfo(samples.dtype).max)
    if high <= 0xFF:  # in any deeper reading nearly black
        return 255.0
    if _CLEARLY_16_BITS <= high <= 0xFFFF:
        return float(min(largest, 0xFFFF))
    if high >= _CLEARLY_32_BITS:
        return float(largest)
    if samples.dtype == np.uint16 and (_is_widened(samples, 12) or _is_widened(samples, 8)):
        return 65535.0  # a dark image of fewer bits, stretched to sixteen by its writer
    return None


def _white_of_significant_bits(samples: NDArray[Any], bits: int, high: float) -> float | None:
    """PNG wants samples stretched to the full depth; some writers store them as they are all the same."""
    if _is_widened(samples, bits):
        return 65535.0
    return float(2**bits - 1) if high <= 2**bits - 1 else _white_of_integers(samples, high)


def _is_widened(samples: NDArray[Any], bits: int) -> bool:
    """Whether uint16 samples are ones of so many bits that were shifted, repeated or scaled to fill sixteen."""
    shift, scale = 16 - bits, 0xFFFF / (2**bits - 1)
    ways: tuple[Callable[[NDArray[Any]], NDArray[Any]], ...] = (
        lambda original: original << shift,
        lambda original: original << shift | original >> max(bits - shift, 0),
        lambda original: np.rint(original * scale).astype(np.uint16),
    )
    return any(all(np.array_equal(rows, way(rows >> shift)) for rows in _bands(samples)) for way in ways)


def _white_of_floats(samples: NDArray[Any], high: float) -> float | None:
    """1 or a depth of integers, whichever the samples show; None if several are likely."""
    if high <= 1:
        return 1.0
    if np.array_equal(samples, np.rint(samples)):
        return 255.0 if high <= 0xFF else 65535.0 if _CLEARLY_16_BITS <= high <= 0xFFFF else None
    # Light in open-ended units seldom ends between a quarter of 255 and 255.
    return 255.0 if 0x40 <= high <= 0xFF else None
