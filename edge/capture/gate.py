"""What is worth sending: when, how often, which part of the image, and whether it has changed. Knows no source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"(?:([a-z,-]+)\s*)?(?:(\d\d):(\d\d)-(\d\d):(\d\d))?")
_CELLS = (64, 36)  # of the grey image in which motion is looked for
_LEVELS = 10  # of 255, by which a cell must change


@dataclass(frozen=True)
class Rectangle:
    """Part of an image, in shares of its sides."""

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def of(cls, four: Sequence[float]) -> Rectangle:
        """Raises ValueError for one that is empty or not inside the image."""
        one = cls(*four)
        inside = one.left >= 0 and one.top >= 0 and one.left + one.width <= 1 and one.top + one.height <= 1
        if not (inside and one.width > 0 and one.height > 0):
            raise ValueError(
                f"{list(four)} is no part of an image; give left, top, width, height as shares, 0 to 1"
            )
        return one

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge in pixels, every pixel that it touches, of an image of that size."""
        width, height = size
        right, lower = (self.left + self.width) * width, (self.top + self.height) * height
        left, upper = int(self.left * width), int(self.top * height)
        return left, upper, max(_up(right), left + 1), max(_up(lower), upper + 1)


def _up(number: float) -> int:
    """Rounded up, but for what a product of shares is off."""
    return -int(-(number - 1e-9) // 1)


@dataclass(frozen=True)
class View:
    """What the front sees of an image: first the masks are blanked, then the region is cut out."""

    region: Rectangle | None = None
    mask: tuple[Rectangle, ...] = ()

    def of(self, image: Image.Image) -> Image.Image:
        if self.mask:
            image = image.copy()
        for one in self.mask:
            image.paste((0, 0, 0), one.box(image.size))
        return image if self.region is None else image.crop(self.region.box(image.size))


class Schedule:
    """Spans of local time: days, "08:00-18:00", or both. A span that ends before it begins goes over midnight.

    No spans: always. Raises ValueError for a text that is none.
    """

    def __init__(self, spans: Sequence[str] = ()) -> None:
        self._spans = [_span(text) for text in spans]

    def holds(self, now: datetime) -> bool:
        """now: local time."""
        minute, day = now.hour * 60 + now.minute, now.weekday()
        return not self._spans or any(_holds(span, day, minute) for span in self._spans)


_Span = tuple[frozenset[int], int, int]


def _span(text: str) -> _Span:
    found = _SPAN.fullmatch(text.strip().lower())
    if not found or not text.strip():
        raise ValueError(
            f'{text!r} is no span of a schedule; write "mon-fri 08:00-18:00", "sat,sun" or "22:00-06:00"'
        )
    days, *times = found.groups()
    if times[0] is None:
        return _days(days, text), 0, 24 * 60
    hours = [int(one) for one in times]
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if max(hours[1], hours[3]) > 59 or start > 24 * 60 or end > 24 * 60 or start == end:
        raise ValueError(f"{text!r}: there is no such span of time")
    return _days(days, text), start, end


def _days(names: str | None, text: str) -> frozenset[int]:
    if names is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in names.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{text!r}: days are {', '.join(DAYS)}, as mon-fri or sat,sun")
        start, end = DAYS.index(first), DAYS.index(last or first)
        found.update(day % 7 for day in range(start, end + 1 + 7 * (end < start)))
    return frozenset(found)


def _holds(span: _Span, day: int, minute: int) -> bool:
    days, start, end = span
    if start < end:
        return day in days and start <= minute < end
    return (day in days and minute >= start) or ((day - 1) % 7 in days and minute < end)


class Pace:
    """Lets through at most so many images a second; None lets all through."""

    def __init__(self, fps: float | None) -> None:
        self._step_s = 0.0 if fps is None else 1 / fps
        self._due_s: float | None = None

    def takes(self, at_s: float) -> bool:
        """at_s: when the image is of, on any clock; where that jumps back or far on, counting begins anew."""
        if self._due_s is None or abs(at_s - self._due_s) > 2 * self._step_s:
            self._due_s = at_s
        if at_s + 1e-6 < self._due_s:
            return False
        self._due_s += self._step_s
        return True


class MotionGate:
    """Lets an image through if enough of it differs from the last that was, or that is long ago.

    share: of cells of 1/64 x 1/36 of the image that differ; light that changes everywhere alike is no motion. None
    lets all through.
    """

    def __init__(self, share: float | None, heartbeat_s: float = 60.0) -> None:
        self._share, self._heartbeat_s = share, heartbeat_s
        self._last: NDArray[np.int16] | None = None
        self._at_s = 0.0

    def takes(self, image: Image.Image, at_s: float) -> bool:
        """at_s: on a clock that does not jump."""
        if self._share is None:
            return True
        grey = image.convert("L").resize(_CELLS, Image.Resampling.BOX)
        cells = np.asarray(grey).astype(np.int16)
        if self._last is not None and at_s - self._at_s < self._heartbeat_s:
            change = cells - self._last
            change -= np.int16(np.median(change))
            if (np.abs(change) > _LEVELS).mean() < self._share:
                return False
        self._last, self._at_s = cells, at_s
        return True
