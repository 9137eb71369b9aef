"""The image codecs that people use instead: JPEG, WebP, AVIF and HEVC intra frames. Knows no network.

Legend: B images, H x W pixels. Sizes are whole files; for HEVC the access unit with its parameter sets, no container.
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
    """sizes: bytes of each image, (B,). pixels: what the receiver decodes, (B, H, W, 3)."""

    sizes: NDArray[np.int64]
    pixels: Pixels


@dataclass(frozen=True)
class ImageCodec:
    """An image codec and the settings at which it is measured.

    about: library and fixed options. ladder: the values of `dial`, ascending in bytes. encode, decode: several RGB
    images of one size. half: sends half the width and height, and the receiver scales back (Lanczos both times).
    """

    name: str
    about: str
    dial: str
    ladder: tuple[int, ...]
    encode: Callable[[Pixels, int], list[bytes]]
    decode: Callable[[Sequence[bytes]], Pixels]
    half: bool = False

    def send(self, pixels: Pixels, step: int) -> Sent:
        """Codes and decodes pixels (B, H, W, 3) at one value of the dial."""
        height, width = pixels.shape[1:3]
        small = _resized(pixels, (height + 1) // 2, (width + 1) // 2) if self.half else pixels
        files = self.encode(small, step)
        decoded = self.decode(files)
        sizes = np.array([len(file) for file in files], np.int64)
        return Sent(sizes, _resized(decoded, height, width) if self.half else decoded)


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


def _read(files: Sequence[bytes]) -> Pixels:
    return np.stack([np.asarray(read_image(file)) for file in files])


def encode_hevc(frames: Sequence[Pixels], pixel_format: str, qp: int, tune: str | None = None) -> list[bytes]:
    """Codes each frame, (H, W, 3) RGB or (H, W) grey, as one intra access unit with its parameter sets.

    pixel_format: FFmpeg's name of the coded format. Every unit decodes on its own.
    """
    codec: Any = av.CodecContext.create("libx265", "w")
    codec.height, codec.width = frames[0].shape[:2]
    codec.pix_fmt, codec.time_base = pixel_format, Fraction(1, 25)
    x265 = f"qp={qp}:keyint=1:info=0:log-level=none:frame-threads=1:pools=none"
    codec.options = {"preset": HEVC_PRESET, "x265-params": x265} | ({"tune": tune} if tune else {})
    packets = []
    for number, frame in enumerate(frames):
        raw = np.ascontiguousarray(frame)
        video_frame = av.VideoFrame.from_ndarray(raw, "rgb24" if frame.ndim == 3 else "gray")
        video_frame = video_frame.reformat(format=pixel_format)
        video_frame.pts = number
        packets += codec.encode(video_frame)
    packets += codec.encode(None)
    assert len(packets) == len(frames)
    return [bytes(packet) for packet in packets]


def decode_hevc(units: Sequence[bytes], pixel_format: str) -> Pixels:
    """Frames of access units of one size: (B, H, W, 3) for rgb24, (B, H, W) for gray."""
    codec: Any = av.CodecContext.create("hevc", "r")
    frames = [frame for unit in units for frame in codec.decode(av.Packet(unit))] + codec.decode(None)
    assert len(frames) == len(units)
    return np.stack([frame.to_ndarray(format=pixel_format) for frame in frames])


def _hevc(pixels: Pixels, qp: int) -> list[bytes]:
    return encode_hevc(list(pixels), "yuv420p", qp)


def _decode_rgb(units: Sequence[bytes]) -> Pixels:
    return decode_hevc(units, "rgb24")


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
        "HEVC intra",
        f"libx265, preset {HEVC_PRESET}, constant QP, 4:2:0, 8 bits, parameter sets counted",
        "QP",
        (51, 46, 41, 37, 32, 27, 21),
        _hevc,
        _decode_rgb,
    ),
)
