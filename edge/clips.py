"""A video file, or a folder of images, as images with their times. Knows no bundle and no network.

PyAV decodes videos; it comes with the extra `video`, as it is large and an edge that gets images does without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from shared.errors import ImageError, ImageTooLargeError, NotAnImageError, RequestError
from shared.image import MAX_PIXELS

VIDEOS = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".h264", ".h265")
)
IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".ppm"))


@dataclass(frozen=True, eq=False)
class ClipImage:
    """One image of a clip. at_ms: since the clip's first. image: RGB, or the file that holds it."""

    at_ms: int
    image: Image.Image | Path


def is_clip(path: Path, fps: float | None) -> bool:
    """Whether a path is taken for a clip: a video by its ending, or with a rate given a folder of images."""
    return path.suffix.lower() in VIDEOS or (fps is not None and path.is_dir())


class Clip:
    """A clip that is open. fps: images a second, at most those that it has; None: all of a video.

    opening: what else PyAV opens the video with. started_at: when it was captured, if the file says so.

    Raises NotAnImageError, ImageTooLargeError, or RequestError where PyAV is missing.
    """

    def __init__(self, path: Path, fps: float | None, opening: Mapping[str, Any] | None = None) -> None:
        self._path, self._fps, self._opening = path, fps, dict(opening or {})
        self.started_at: datetime | None = None
        self._container: Any = None
        if path.is_dir():
            self._files = sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGES)
            if not self._files:
                raise NotAnImageError(f"{path} holds no images ({', '.join(sorted(IMAGES))})")
        else:
            self._open()

    def images(self) -> Iterator[ClipImage]:
        """The images, once, in the order of their times. Raises ImageError where the video is damaged."""
        if self._container is None:
            assert self._fps is not None  # as `is_clip` says
            yield from (ClipImage(round(1e3 * n / self._fps), file) for n, file in enumerate(self._files))
            return
        due_s = 0.0
        for at_s, frame in self._frames():
            if self._fps is not None:
                if at_s + 1e-6 < due_s:
                    continue
                due_s = max(due_s + 1 / self._fps, at_s)
            yield ClipImage(round(1e3 * at_s), frame.to_image())

    def close(self) -> None:
        if self._container is not None:
            self._container.close()

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        try:
            import av
        except ModuleNotFoundError:
            raise RequestError(
                f"{self._path} is a video, and PyAV, which reads videos, is not installed: pip install av, "
                "or this package with [video]"
            ) from None
        try:
            self._container = av.open(str(self._path), **self._opening)
        except FileNotFoundError:
            raise NotAnImageError(f"no such file: {self._path}") from None
        except (av.FFmpegError, OSError, ValueError) as error:
            raise NotAnImageError(
                f"{self._path} is no video that can be read here: {_reason(error)}"
            ) from None
        if not self._container.streams.video:
            self._container.close()
            raise NotAnImageError(f"{self._path} holds no video")
        width, height = (getattr(self._container.streams.video[0], side) for side in ("width", "height"))
        if width * height > MAX_PIXELS:
            self._container.close()
            raise ImageTooLargeError(
                f"{self._path} has images of {width} x {height} pixels; at most "
                f"{MAX_PIXELS // 10**6} megapixels are read"
            )
        self.started_at = _creation_time(self._container.metadata.get("creation_time", ""))

    def _frames(self) -> Iterator[tuple[float, Any]]:
        """Each frame with its seconds since the first."""
        import av

        rate = self._container.streams.video[0].average_rate
        first_s: float | None = None
        last_s = 0.0
        try:
            for number, frame in enumerate(self._container.decode(video=0)):
                own_s = frame.time if frame.time is not None else number / float(rate or 25)
                first_s = own_s if first_s is None else first_s
                last_s = max(last_s, own_s - first_s)  # a clip whose clock jumps back stands still
                yield last_s, frame
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ImageError(f"{self._path} is damaged after {last_s:.3f} s: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _creation_time(text: str) -> datetime | None:
    """When a container says that it was captured, in UTC; None where it does not, or its clock was not set."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return when.astimezone(UTC) if when.year > 1970 else None
