"""The image codecs that people use instead: JPEG, WebP, AVIF, JPEG XL, HEVC and VVC intra frames. Knows no network.

Legend: B images, H x W pixels. Sizes are whole files; for HEVC and VVC the access unit with its parameter sets, no
container.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.codecs.hevc import HEVC_PRESET, Pixels, decode_hevc, encode_hevc, without_parameter_sets
from bench.codecs.vvc import SIZES, VVC_PRESET, decode_vvc, encode_vvc, vvc_missing, without_agreed_units
from shared.image import read_image


class Sent(NamedTuple):
    """sizes: bytes of each image, (B,). pixels: what the receiver decodes, (B, H, W, 3).

    agreed: bytes without what may be agreed on beforehand; None where there is no such thing.
    """

    sizes: NDArray[np.int64]
    pixels: Pixels
    agreed: NDArray[np.int64] | None = None


def _never() -> str:
    return ""


@dataclass(frozen=True)
class ImageCodec:
    """An image codec and the settings at which it is measured.

    about: library and fixed options. ladder: the values of `dial`, ascending in bytes. encode, decode: several RGB
    images of one size; decode may return more rows and columns, below and to the right. half: sends half the width and
    height, and the receiver scales back (Lanczos both times). bare: a file without what may be agreed on beforehand.
    missing: why it cannot be measured here, empty if it can.
    """

    name: str
    about: str
    dial: str
    ladder: tuple[int, ...]
    encode: Callable[[Pixels, int], list[bytes]]
    decode: Callable[[Sequence[bytes]], Pixels]
    half: bool = False
    bare: Callable[[bytes], bytes] | None = None
    missing: Callable[[], str] = _never

    def send(self, pixels: Pixels, step: int) -> Sent:
        """Codes and decodes pixels (B, H, W, 3) at one value of the dial."""
        height, width = pixels.shape[1:3]
        small = _resized(pixels, (height + 1) // 2, (width + 1) // 2) if self.half else pixels
        files = self.encode(small, step)
        decoded = self.decode(files)[:, : small.shape[1], : small.shape[2]]
        received = _resized(decoded, height, width) if self.half else decoded
        return Sent(_lengths(files), received, _lengths(map(self.bare, files)) if self.bare else None)


def _lengths(files: Iterable[bytes]) -> NDArray[np.int64]:
    return np.array([len(file) for file in files], np.int64)


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.LANCZOS)) for one in pixels]
    )


def _file(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _each(pixels: Pixels, encode: Callable[[Image.Image], bytes]) -> list[bytes]:
    """Encodes on all cores: Pillow's encoders release the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(encode, [Image.fromarray(one) for one in pixels]))


def _jpeg(pixels: Pixels, quality: int) -> list[bytes]:
    """The smaller of baseline and progressive, each with its own Huffman tables."""

    def smaller(image: Image.Image) -> bytes:
        files = (
            _file(image, "JPEG", quality=quality, subsampling="4:2:0", optimize=True, progressive=progressive)
            for progressive in (False, True)
        )
        return min(files, key=len)

    return _each(pixels, smaller)


def _webp(pixels: Pixels, quality: int) -> list[bytes]:
    return _each(pixels, lambda image: _file(image, "WEBP", quality=quality, method=6))


def _avif(pixels: Pixels, quality: int) -> list[bytes]:
    options: dict[str, Any] = {"quality": quality, "speed": 6, "subsampling": "4:2:0", "max_threads": 1}
    return _each(pixels, lambda image: _file(image, "AVIF", **options))


def _register_jpeg_xl() -> None:
    """Adds the format to Pillow. Raises ImportError."""
    import pillow_jxl  # noqa: F401


def jpeg_xl_missing() -> str:
    """Why JPEG XL cannot be measured here; empty if it can."""
    try:
        _register_jpeg_xl()
    except ImportError:
        return "pillow-jxl-plugin is not installed (pip install '.[bench]')"
    return ""


def _jpeg_xl(pixels: Pixels, quality: int) -> list[bytes]:
    _register_jpeg_xl()
    # One thread for each image, as they are coded on all cores.
    return _each(pixels, lambda image: _file(image, "JXL", quality=quality, effort=7, num_threads=1))


def _read_jpeg_xl(files: Sequence[bytes]) -> Pixels:
    _register_jpeg_xl()
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def _read(files: Sequence[bytes]) -> Pixels:
    return np.stack([np.asarray(read_image(file)) for file in files])


def _hevc(pixels: Pixels, qp: int) -> list[bytes]:
    return encode_hevc(list(pixels), "yuv420p", qp)


def _decode_rgb(units: Sequence[bytes]) -> Pixels:
    return decode_hevc(units, "rgb24")


def _vvc(pixels: Pixels, qp: int) -> list[bytes]:
    height, width = (-size % SIZES for size in pixels.shape[1:3])
    padded = np.pad(
        pixels, ((0, 0), (0, height), (0, width), (0, 0)), mode="edge"
    )  # cut off again after decoding
    return encode_vvc(list(padded), qp)


def _png(pixels: Pixels, _: int) -> list[bytes]:
    return _each(pixels, lambda image: _file(image, "PNG"))


_JPEG = "Pillow (libjpeg-turbo), 4:2:0, optimised Huffman tables, the smaller of baseline and progressive"
_AVIF = "Pillow (libavif), 4:2:0, speed 6"
_HALF = "; half the width and height, scaled back by the server (Lanczos)"

LOSSLESS = ImageCodec("PNG", "Pillow, lossless: what the networks do uncompressed", "", (0,), _png, _read)
IMAGE_CODECS = (
    ImageCodec("JPEG", _JPEG, "quality", (1, 8, 18, 30, 50, 75, 92), _jpeg, _read),
    ImageCodec("JPEG at half size", _JPEG + _HALF, "quality", (1, 10, 30, 60, 90), _jpeg, _read, half=True),
    ImageCodec("WebP", "Pillow (libwebp), lossy, method 6", "quality", (0, 10, 30, 55, 75, 90), _webp, _read),
    ImageCodec("AVIF", _AVIF, "quality", (1, 15, 30, 50, 70, 88), _avif, _read),
    ImageCodec("AVIF at half size", _AVIF + _HALF, "quality", (1, 20, 50, 85), _avif, _read, half=True),
    ImageCodec(
        "JPEG XL",
        "pillow-jxl-plugin (libjxl), VarDCT, effort 7",
        "quality",
        (1, 10, 25, 45, 65, 85),
        _jpeg_xl,
        _read_jpeg_xl,
        missing=jpeg_xl_missing,
    ),
    ImageCodec(
        "HEVC intra",
        f"libx265, preset {HEVC_PRESET}, constant QP (as coded: ipratio 1), 4:2:0, 8 bits, parameter sets counted",
        "QP",
        (51, 47, 43, 39, 35, 30, 24),
        _hevc,
        _decode_rgb,
        bare=without_parameter_sets,
    ),
    ImageCodec(
        "VVC intra",
        f"libvvenc of ffmpeg, preset {VVC_PRESET}, constant QP, 4:2:0, 10 bits, parameter sets counted",
        "QP",
        (58, 50, 44, 38, 31, 24),
        _vvc,
        decode_vvc,
        bare=without_agreed_units,
        missing=vvc_missing,
    ),
)
