"""Sequences as HEVC with low delay (libx265 through PyAV): of pictures, and of features tiled into grey frames.

Every frame is sent as soon as it is there: no B frames, no lookahead. Only the first is an intra frame, and it alone
brings the parameter sets. Knows no network.

Legend: T frames; C channels of H x W.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import av
import numpy as np

from bench.codecs.feature_codecs import Features, Levels
from bench.codecs.hevc import HEVC_PRESET, Pixels, decode_hevc, video_frame, without_parameter_sets

BITS = 8


class Dial(NamedTuple):
    """What x265 holds: constant quality (crf) or constant quantisation (qp). value: 0..51, more is coarser."""

    mode: Literal["crf", "qp"]
    value: int


class SentVideo(NamedTuple):
    """units: what is sent for each frame, T of them. frames: what the receiver decodes, (T, H, W, 3).

    agreed: bytes of the first unit that are parameter sets, and may be agreed on beforehand.
    """

    units: list[bytes]
    frames: Pixels
    agreed: int


class SentFeatureVideo(NamedTuple):
    """units, agreed: as of `SentVideo`. features: what the receiver decodes, (T, C, H, W)."""

    units: list[bytes]
    features: Features
    agreed: int


def send_video(frames: Sequence[Pixels], dial: Dial, fps: int) -> SentVideo:
    """Codes and decodes RGB frames (H, W, 3) of one size, 4:2:0."""
    units = encode_low_delay(frames, "yuv420p", dial, fps)
    return SentVideo(units, decode_hevc(units, "rgb24"), _parameter_bytes(units[0]))


def send_feature_video(
    y: Features,
    dial: Dial,
    fps: int,
    limits: tuple[float, float] | None = None,
) -> SentFeatureVideo:
    """Codes and decodes the features y (T, C, H, W) of a sequence, tiled as `feature_codecs` does.

    limits: min and max, agreed on for the whole sequence and not counted; those of y where none are given.
    """
    low, high = limits or (float(y.min()), float(y.max()))
    levels = Levels(np.float32(low), np.float32(high), BITS)
    units = encode_low_delay(list(levels.frames(y)), "gray", dial, fps)
    received = levels.features(decode_hevc(units, "gray"), y.shape)
    return SentFeatureVideo(units, received, _parameter_bytes(units[0]))


def encode_low_delay(
    frames: Sequence[Pixels],
    pixel_format: str,
    dial: Dial,
    fps: int,
) -> list[bytes]:
    """One access unit for each frame, (H, W, 3) RGB or (H, W) grey, in the order of the frames.

    pixel_format: FFmpeg's name of the coded format.
    """
    codec: Any = av.CodecContext.create("libx265", "w")
    codec.height, codec.width = frames[0].shape[:2]
    codec.pix_fmt, codec.time_base, codec.framerate = pixel_format, Fraction(1, fps), Fraction(fps)
    # x265 repeats the parameter sets with every intra frame, of which there is one.
    x265 = f"{dial.mode}={dial.value}:keyint=-1:bframes=0:info=0:log-level=none:pools=none"
    codec.options = {"preset": HEVC_PRESET, "tune": "zerolatency", "x265-params": x265}
    units = []
    for number, frame in enumerate(frames):
        packets = codec.encode(video_frame(frame, pixel_format, number))
        units += [bytes(packet) for packet in packets]
        assert len(units) == number + 1, "low delay: each frame is out before the next one is in"
    assert not codec.encode(None)
    return units


def _parameter_bytes(unit: bytes) -> int:
    return len(unit) - len(without_parameter_sets(unit))
