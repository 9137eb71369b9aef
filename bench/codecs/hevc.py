"""HEVC intra frames with libx265, through PyAV."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from bench.codecs.nal_units import HEVC, without_types

Pixels = NDArray[np.uint8]
HEVC_PRESET = "slow"
_PARAMETER_SETS = (32, 33, 34)  # types of NAL units: video, sequence and picture parameter set


def encode_hevc(frames: Sequence[Pixels], pixel_format: str, qp: int, tune: str | None = None) -> list[bytes]:
    """Codes each frame, (H, W, 3) RGB or (H, W) grey, as one intra access unit with its parameter sets.

    pixel_format: FFmpeg's name of the coded format. qp: 0..51, as coded. Every unit decodes on its own and does not
    depend on the other frames, so they are coded on all cores.
    """
    # ipratio: else x265 codes intra frames at QP - 3, and nothing coarser than 48.
    x265 = f"qp={qp}:ipratio=1:keyint=1:info=0:log-level=none:frame-threads=1:pools=none"
    options = {"preset": HEVC_PRESET, "x265-params": x265} | ({"tune": tune} if tune else {})

    def encode(part: Sequence[Pixels]) -> list[bytes]:
        codec: Any = av.CodecContext.create("libx265", "w")
        codec.height, codec.width = part[0].shape[:2]
        codec.pix_fmt, codec.time_base, codec.options = pixel_format, Fraction(1, 25), options
        packets = []
        for number, frame in enumerate(part):
            packets += codec.encode(video_frame(frame, pixel_format, number))
        packets += codec.encode(None)
        assert len(packets) == len(part)
        return [bytes(packet) for packet in packets]

    return on_all_cores(encode, frames)


def decode_hevc(units: Sequence[bytes], pixel_format: str) -> Pixels:
    """Frames of access units of one size: (B, H, W, 3) for rgb24, (B, H, W) for gray."""
    codec: Any = av.CodecContext.create("hevc", "r")
    frames = [frame for unit in units for frame in codec.decode(av.Packet(unit))] + codec.decode(None)
    assert len(frames) == len(units)
    return np.stack([frame.to_ndarray(format=pixel_format) for frame in frames])


def without_parameter_sets(unit: bytes) -> bytes:
    """An access unit without its parameter sets."""
    return without_types(unit, HEVC, _PARAMETER_SETS)


def video_frame(frame: Pixels, pixel_format: str, number: int) -> av.VideoFrame:
    """A frame, (H, W, 3) RGB or (H, W) grey, in the coded format. number: its place in the sequence."""
    raw = np.ascontiguousarray(frame)
    made = av.VideoFrame.from_ndarray(raw, "rgb24" if frame.ndim == 3 else "gray").reformat(
        format=pixel_format
    )
    made.pts = number
    return made


def on_all_cores(encode: Callable[[Sequence[Pixels]], list[bytes]], frames: Sequence[Pixels]) -> list[bytes]:
    """The files of all frames, in order. encode: of several frames, without the interpreter's lock."""
    cores = min(os.cpu_count() or 1, len(frames))
    bounds = np.linspace(0, len(frames), cores + 1).astype(int).tolist()
    parts = [frames[start:end] for start, end in pairwise(bounds)]
    with ThreadPoolExecutor(cores) as pool:
        return [file for files in pool.map(encode, parts) for file in files]
