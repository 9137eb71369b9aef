"""Short sequences cut from videos, as a codec learns frames from. Knows no codec.

PyAV decodes videos; it comes with the extra `video`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import MAX_PIXELS, fit

SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"))
KEPT_BYTES = 2 << 30  # of decoded images


class ClipSet:
    """Sequences of `frames` images each, without labels: image i is frame i % frames of sequence i // frames.

    path: a video, or a folder of videos. fps: images a second that are taken from a video.
    every: only each so many-th sequence of a video.

    Raises DataError.
    """

    form = None
    names: tuple[str, ...] = ()

    def __init__(
        self, path: Path, preprocess: Preprocess, *, frames: int = 8, fps: float = 5.0, every: int = 1
    ) -> None:
        self.size, self.frames = (preprocess.height, preprocess.width), frames
        found: list[NDArray[np.uint8]] = []
        room = KEPT_BYTES // (3 * preprocess.height * preprocess.width)
        for file in videos_in(path):
            taken: list[NDArray[np.uint8]] = []
            for number, image in enumerate(_images(file, preprocess, fps)):
                if number // frames % every == 0:
                    taken.append(image)
                if len(found) + len(taken) > room:
                    raise DataError(f"{path} has more than {room} images at {fps:g} a second; take fewer")
            found += taken[: len(taken) // frames * frames]
        if not found:
            raise DataError(f"{path} has no sequence of {frames} images at {fps:g} a second", setting="data")
        self._images = np.stack(found)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3)."""
        return self._images[indices]

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Raises DataError."""
        raise DataError("videos have no labels")


def videos_in(path: Path) -> list[Path]:
    """The video at a path, or those in the folder there, sorted. Raises DataError where there is none."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise DataError(f"{path} is no video, nor a folder of videos or sequences", setting="data")
    return found


def _images(file: Path, preprocess: Preprocess, fps: float) -> Iterator[NDArray[np.uint8]]:
    """The images of a video at a rate, fitted. Raises DataError."""
    try:
        import av
    except ModuleNotFoundError:
        raise DataError(
            f"{file} is a video, and PyAV, which reads videos, is not installed: pip install av"
        ) from None
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise DataError(f"{file} holds no video")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise DataError(f"{file} has images of more than {MAX_PIXELS // 10**6} megapixels")
            due_s = 0.0
            for number, frame in enumerate(container.decode(video=0)):
                at_s = frame.time if frame.time is not None else number / float(stream.average_rate or 25)
                if at_s + 1e-6 < due_s:
                    continue
                due_s = max(due_s + 1 / fps, at_s)
                yield np.asarray(fit(frame.to_image(), preprocess))  # type: ignore[no-untyped-call]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{file} is damaged, or no video that can be read here: {error}") from None
