"""Small videos of a scene in which a patch moves."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def scene(count: int, seed: int = 0, moving: bool = True) -> list[NDArray[np.uint8]]:
    """Images (64, 64, 3) of a room with sensor noise, in which a patch moves."""
    rng = np.random.default_rng(seed)
    room = rng.integers(60, 190, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    out = []
    for number in range(count):
        image = room + rng.normal(0, 1, room.shape)
        at = 4 + 2 * number * moving
        image[20:36, at % 48 : at % 48 + 16] = (220, 40, 40)
        out.append(image.clip(0, 255).astype(np.uint8))
    return out


def write_video(path: Path, images: list[NDArray[np.uint8]], fps: int) -> Path:
    """The images as a lossless H.264 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"qp": "0", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv444p"
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
