"""VVC intra frames with libvvenc, as an ffmpeg program that comes from the package index; decoded through PyAV.

Legend: B frames of H x W pixels.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from typing import Any

import av
import numpy as np

from bench.codecs.hevc import Pixels, on_all_cores, video_frame
from bench.codecs.nal_units import VVC, access_units, without_types
from shared.errors import DataError

VVC_PRESET = "fast"
SIZES = 8  # pixels of which height and width must be a multiple
_FORMAT = "yuv420p10le"  # the only one that FFmpeg's libvvenc takes
_GREY = 512  # of 10 bits: no colour
# Types of NAL units: parameter sets of all kinds but the adaptation ones, which are a frame's own; and the delimiter.
_PARAMETER_SETS = (12, 13, 14, 15, 16)
_DELIMITER = 20
# Each frame for itself: without these, importance mapping and temporal filtering look at its neighbours. alfspeed:
# else libvvenc writes a warning to the standard output, into the stream.
_INTRA = "intraperiod=1:refreshtype=idr:gopsize=1:bim=0:mctf=0:alfspeed=0"

# FFmpeg takes a flush that gives no unit for the end, but libvvenc also gives none while its thread still works: on a
# busy machine all frames that it holds are lost. So black frames follow, enough to push all others out before that.
_BEHIND = 16


@functools.cache
def vvc_missing() -> str:
    """Why VVC cannot be measured here; empty if it can."""
    try:
        listed = subprocess.run(
            [_ffmpeg(), "-hide_banner", "-encoders"], capture_output=True, text=True, check=True
        )
    except ImportError:
        return "imageio-ffmpeg is not installed (pip install '.[bench]')"
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return f"its ffmpeg does not run: {error}"
    return (
        ""
        if "libvvenc" in listed.stdout
        else "the ffmpeg of imageio-ffmpeg has no libvvenc; install 0.8 or later"
    )


def _ffmpeg() -> str:
    """The program's path. Raises ImportError, or RuntimeError where the package has none."""
    import imageio_ffmpeg

    path: str = imageio_ffmpeg.get_ffmpeg_exe()
    return path


def encode_vvc(frames: Sequence[Pixels], qp: int) -> list[bytes]:
    """Codes each frame, (H, W, 3) RGB or (H, W) grey, as one intra access unit with its parameter sets.

    H and W must be multiples of SIZES: else ffmpeg fills frames up with whatever was in memory. qp: 0..63. Every unit
    decodes on its own. Raises DataError.
    """
    height, width = frames[0].shape[:2]
    assert height % SIZES == width % SIZES == 0, (height, width)
    given = ("-f", "rawvideo", "-pix_fmt", _FORMAT, "-s", f"{width}x{height}", "-r", "25", "-i", "-")
    coded = ("-c:v", "libvvenc", "-preset", VVC_PRESET, "-qp", str(qp), "-qpa", "0", "-threads", "1")
    command = [_ffmpeg(), "-v", "error", *given, *coded, "-vvenc-params", _INTRA, "-f", "vvc", "-"]

    def encode(part: Sequence[Pixels]) -> list[bytes]:
        black = _raw(np.zeros((height, width), np.uint8))
        raw = b"".join([*map(_raw, part), *[black] * _BEHIND])
        done = subprocess.run(command, input=raw, capture_output=True)
        units = access_units(done.stdout, VVC, _DELIMITER)
        if done.returncode or len(units) < len(part):
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise DataError(f"ffmpeg coded {len(units)} of {len(part)} frames as VVC: {reason[0]}")
        return units[: len(part)]

    return on_all_cores(encode, frames)


def _raw(frame: Pixels) -> bytes:
    """The frame's planes of 10 bits, little-endian in 16. Grey is taken as luma, without a change of range."""
    if frame.ndim == 2:
        luma = (frame.astype("<u2") << 2).tobytes()
        return luma + np.full(frame.size // 2, _GREY, "<u2").tobytes()
    return b"".join(map(_plane, video_frame(frame, _FORMAT, 0).planes))


def _plane(plane: Any) -> bytes:
    """A plane's samples without the padding of its lines."""
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : 2 * plane.width].tobytes()


def decode_vvc(units: Sequence[bytes], grey: bool = False) -> Pixels:
    """Frames of access units of one size: RGB (B, H, W, 3), or the luma alone (B, H, W)."""
    codec: Any = av.CodecContext.create("vvc", "r")
    frames = [frame for unit in units for frame in codec.decode(av.Packet(unit))] + codec.decode(None)
    assert len(frames) == len(units)
    if not grey:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    lumas = [np.frombuffer(_plane(one.planes[0]), "<u2").reshape(one.height, one.width) for one in frames]
    return np.minimum((np.stack(lumas) + 2) >> 2, 255).astype(np.uint8)


def without_agreed_units(unit: bytes) -> bytes:
    """An access unit without what is the same for every image."""
    return without_types(unit, VVC, (*_PARAMETER_SETS, _DELIMITER))
