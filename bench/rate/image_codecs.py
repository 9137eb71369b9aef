"""What people send instead: a picture as JPEG, WebP, AVIF or an HEVC intra frame. Knows no network.

Legend: B pictures, H x W pixels. Sizes are whole files; of HEVC the access unit with its parameter sets, no container.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.image import read_image

Pixels = NDArray[np.uint8]
HEVC_PRESET = "slow"


class Sent(NamedTuple):
    """sizes: bytes of each picture, (B,). pixels: what the other side decodes, (B, H, W, 3)."""

    sizes: NDArray[np.int64]
    pixels: Pixels


@dataclass(frozen=True)
class ImageCodec:
    """ladder: the settings at which it is measured, by `dial`, ascending in bytes. encode, decode: of several RGB
    pictures of one size. half: it sends half the width and height, and the server scales back (Lanczos both)."""

    name: str
    settings: str
    dial: str
    ladder: tuple[int, ...]
    encode: Callable[[Pixels, int], list[bytes]]
    decode: Callable[[Sequence[bytes]], Pixels]
    half: bool = False

    def send(self, pixels: Pixels, setting: int) -> Sent:
        """pixels (B, H, W, 3) -> their files' sizes, and what comes out of them."""
        height, width = pixels.shape[1:3]
        small = _resized(pixels, (height + 1) // 2, (width + 1) // 2) if self.half else pixels
        files = self.encode(small, setting)
        made = self.decode(files)
        sizes = np.array([len(file) for file in files], np.int64)
        return Sent(sizes, _resized(made, height, width) if self.half else made)


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.LANCZOS)) for one in pixels]
    )


def _file(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _each(pixels: Pixels, encode: Callable[[Image.Image], bytes]) -> list[bytes]:
    """On all cores: Pillow's encoders let go of the interpreter."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(encode, [Image.fromarray(one) for one in pixels]))


def _jpeg(pixels: Pixels, quality: int) -> list[bytes]:
    """The smaller of baseline and progressive, each with Huffman tables of its own."""

    def smaller(picture: Image.Image) -> bytes:
        ways = (
            _file(picture, "JPEG", quality=quality, subsampling="4:2:0", optimize=True, progressive=way)
            for way in (False, True)
        )
        return min(ways, key=len)

    return _each(pixels, smaller)


def _webp(pixels: Pixels, quality: int) -> list[bytes]:
    return _each(pixels, lambda picture: _file(picture, "WEBP", quality=quality, method=6))


def _avif(pixels: Pixels, quality: int) -> list[bytes]:
    options: dict[str, Any] = {"quality": quality, "speed": 6, "subsampling": "4:2:0", "max_threads": 1}
    return _each(pixels, lambda picture: _file(picture, "AVIF", **options))


def _read(files: Sequence[bytes]) -> Pixels:
    return np.stack([np.asarray(read_image(file)) for file in files])


def encode_hevc(frames: Sequence[Pixels], pixel_format: str, qp: int, tune: str | None = None) -> list[bytes]:
    """One intra access unit for each frame, (H, W, 3) RGB or (H, W) grey, with its parameter sets.

    pixel_format: FFmpeg's name of what is coded. Every unit decodes by itself; nothing is carried from one to the next.
    """
    codec: Any = av.CodecContext.create("libx265", "w")
    codec.height, codec.width = frames[0].shape[:2]
    codec.pix_fmt, codec.time_base = pixel_format, Fraction(1, 25)
    x265 = f"qp={qp}:keyint=1:info=0:log-level=none:frame-threads=1:pools=none"
    codec.options = {"preset": HEVC_PRESET, "x265-params": x265} | ({"tune": tune} if tune else {})
    packets = []
    for number, frame in enumerate(frames):
        given = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(frame), "rgb24" if frame.ndim == 3 else "gray"
        )
        given = given.reformat(format=pixel_format)
        given.pts = number
        packets += codec.encode(given)
    packets += codec.encode(None)
    assert len(packets) == len(frames)
    return [bytes(packet) for packet in packets]


def decode_hevc(units: Sequence[bytes], wanted: str) -> Pixels:
    """Access units of one size -> their frames, (B, H, W, 3) where `wanted` is rgb24, (B, H, W) where it is gray."""
    codec: Any = av.CodecContext.create("hevc", "r")
    frames = [frame for unit in units for frame in codec.decode(av.Packet(unit))] + codec.decode(None)
    assert len(frames) == len(units)
    return np.stack([frame.to_ndarray(format=wanted) for frame in frames])


def _hevc(pixels: Pixels, qp: int) -> list[bytes]:
    return encode_hevc(list(pixels), "yuv420p", qp)


def _decode_rgb(units: Sequence[bytes]) -> Pixels:
    return decode_hevc(units, "rgb24")


def _png(pixels: Pixels, _: int) -> list[bytes]:
    return _each(pixels, lambda picture: _file(picture, "PNG"))


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
        "HEVC intra",
        f"libx265, preset {HEVC_PRESET}, constant QP, 4:2:0, 8 bits, parameter sets counted",
        "QP",
        (51, 46, 41, 37, 32, 27, 21),
        _hevc,
        _decode_rgb,
    ),
)
