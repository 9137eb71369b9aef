"""Codes a feature as a grey HEVC intra frame (the hybrid), or as float16 numbers through zstd. Knows no network.

    y (C, H, W) -> q = round((y - min) / (max - min) (2^bits - 1)), one min and max for each image
    -> the channels side by side in one grey frame, levels spread over 0..255 -> HEVC intra -> nearest level -> y_hat

Legend: B images, C channels of H x W; a vector (C,) is C channels of 1 x 1.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from bench.rate.image_codecs import Pixels, decode_hevc, encode_hevc

SIDE_BYTES = 8  # min and max, float32 each
LEAST = 32  # pixels of a frame, high or wide: the smallest that libx265 takes
_PARAMETER_SETS = (32, 33, 34)  # types of HEVC's NAL units: video, sequence and picture parameter set
_START = re.compile(rb"(?=\x00\x00\x00\x01|(?<!\x00)\x00\x00\x01)")

Features = NDArray[np.float32]


class SentFeatures(NamedTuple):
    """sizes: bytes of each image, (B,). features: what the receiver decodes, (B, C, H, W)."""

    sizes: NDArray[np.int64]
    features: Features


def send_hevc(y: Features, bits: int, qp: int) -> SentFeatures:
    """Sends y (B, C, H, W) as HEVC frames.

    Counted are slice data, min and max; not the parameter sets, which are the same for every image and may be agreed on
    beforehand.
    """
    low, high = (reduce(y, (1, 2, 3), keepdims=True) for reduce in (np.min, np.max))
    span, top = np.maximum(high - low, np.finfo(np.float32).tiny), 2**bits - 1
    q = np.rint((y - low) / span * top)
    frames = tile(np.rint(q * (255 / top)).astype(np.uint8))
    units = encode_hevc(list(frames), "gray", qp, tune="psnr")
    decoded = untile(decode_hevc(units, "gray"), y.shape)
    y_hat = np.rint(decoded * (top / 255)) / top * span + low
    sizes = np.array([len(without_parameter_sets(unit)) + SIDE_BYTES for unit in units], np.int64)
    return SentFeatures(sizes, y_hat.astype(np.float32))


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
    """Pixels to add, up to LEAST and to a multiple of 8, HEVC's coding unit."""
    return max(LEAST, math.ceil(size / 8) * 8) - size


def without_parameter_sets(unit: bytes) -> bytes:
    """An access unit without its parameter sets."""
    nal_units = [one for one in _START.split(unit) if one]
    return b"".join(one for one in nal_units if _type(one) not in _PARAMETER_SETS)


def _type(nal_unit: bytes) -> int:
    return (nal_unit[nal_unit.index(b"\x01") + 1] >> 1) & 63
