"""Codes a feature as a grey HEVC or VVC intra frame (the hybrids), or as float16 numbers. Knows no network.

    y (C, H, W) -> q = round((y - min) / (max - min) (2^bits - 1)), one min and max for each image
    -> the channels side by side in one grey frame, levels spread over 0..255 -> intra frame -> nearest level -> y_hat

Legend: B images, C channels of H x W; a vector (C,) is C channels of 1 x 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from bench.codecs.hevc import Pixels, decode_hevc, encode_hevc, without_parameter_sets
from bench.codecs.vvc import decode_vvc, encode_vvc, without_agreed_units

SIDE_BYTES = 4  # min and max, float16 each
LEAST = 32  # pixels of a frame, high or wide: the smallest that libx265 takes
_LARGEST = float(np.finfo(np.float16).max)

Features = NDArray[np.float32]


class SentFeatures(NamedTuple):
    """sizes: bytes of each image, (B,). features: what the receiver decodes, (B, C, H, W).

    alone: bytes where nothing is agreed on beforehand and every image brings its parameter sets; None where there are
    none.
    """

    sizes: NDArray[np.int64]
    features: Features
    alone: NDArray[np.int64] | None = None


class Levels(NamedTuple):
    """How numbers become grey levels: low..high in 2^bits steps, spread over 0..255. low, high: any shape that fits."""

    low: Features
    high: Features
    bits: int

    def frames(self, y: Features) -> Pixels:
        """y (B, C, H, W) as grey frames; what lies outside the range is clipped to it."""
        top = 2**self.bits - 1
        q = np.clip(np.rint((y - self.low) / self._span() * top), 0, top)
        return tile(np.rint(q * (255 / top)).astype(np.uint8))

    def features(self, frames: Pixels, shape: tuple[int, ...]) -> Features:
        """y_hat of this shape, (B, C, H, W), from decoded frames."""
        top = 2**self.bits - 1
        y_hat = np.rint(untile(frames, shape) * (top / 255)) / top * self._span() + self.low
        return y_hat.astype(np.float32)

    def _span(self) -> Features:
        return np.maximum(self.high - self.low, np.finfo(np.float32).tiny)


def send_hevc(y: Features, bits: int, qp: int) -> SentFeatures:
    """Sends y (B, C, H, W) as HEVC frames.

    Counted are slice data, min and max; `alone` also counts the parameter sets, which are the same for every image and
    may be agreed on beforehand.
    """
    return _send(
        y,
        bits,
        lambda frames: encode_hevc(frames, "gray", qp, tune="psnr"),
        lambda units: decode_hevc(units, "gray"),
        without_parameter_sets,
    )


def send_vvc(y: Features, bits: int, qp: int) -> SentFeatures:
    """Sends y (B, C, H, W) as VVC frames; counts as `send_hevc` does."""
    return _send(
        y,
        bits,
        lambda frames: encode_vvc(frames, qp),
        lambda units: decode_vvc(units, grey=True),
        without_agreed_units,
    )


def _send(
    y: Features,
    bits: int,
    encode: Callable[[Sequence[Pixels]], list[bytes]],
    decode: Callable[[Sequence[bytes]], Pixels],
    bare: Callable[[bytes], bytes],
) -> SentFeatures:
    low, high = (
        np.clip(reduce(y, (1, 2, 3), keepdims=True), -_LARGEST, _LARGEST)
        .astype(np.float16)
        .astype(np.float32)
        for reduce in (np.min, np.max)
    )
    levels = Levels(low, high, bits)
    units = encode(list(levels.frames(y)))
    y_hat = levels.features(decode(units), y.shape)
    slices, whole = (
        np.array([len(one) + SIDE_BYTES for one in sent], np.int64) for sent in (map(bare, units), units)
    )
    return SentFeatures(slices, y_hat, whole)


def send_raw(y: Features) -> SentFeatures:
    """Sends y (B, C, H, W) as float16, each image compressed by zstd at level 19."""
    halves = y.astype(np.float16)
    compressor = zstandard.ZstdCompressor(level=19)
    sizes = [len(compressor.compress(one.tobytes())) for one in halves]
    return SentFeatures(np.array(sizes, np.int64), halves.astype(np.float32))


def tile(channels: Pixels) -> Pixels:
    """Lays channels (B, C, H, W) out as (B, rows x H, columns x W), nearly square; padding repeats the edge."""
    images, count, height, width = channels.shape
    rows, columns = _grid(count, height, width)
    full = np.pad(channels, ((0, 0), (0, rows * columns - count), (0, 0), (0, 0)), mode="edge")
    frames = full.reshape(images, rows, columns, height, width).transpose(0, 1, 3, 2, 4)
    frames = frames.reshape(images, rows * height, columns * width)
    return np.pad(frames, ((0, 0), *((0, _padding(size)) for size in frames.shape[1:])), mode="edge")


def untile(frames: Pixels, shape: tuple[int, ...]) -> Pixels:
    """The channels of shape (B, C, H, W) in frames that `tile` laid out."""
    images, count, height, width = shape
    rows, columns = _grid(count, height, width)
    cut = frames[:, : rows * height, : columns * width]
    tiles = cut.reshape(images, rows, height, columns, width).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(images, rows * columns, height, width)[:, :count]


def _grid(count: int, height: int, width: int) -> tuple[int, int]:
    columns = max(1, min(count, round(math.sqrt(count * height / width))))
    return math.ceil(count / columns), columns


def _padding(size: int) -> int:
    """Pixels to add, up to LEAST and to a multiple of 8, the smallest coding unit of HEVC and VVC here."""
    return max(LEAST, math.ceil(size / 8) * 8) - size
