"""When an image file was captured: from its EXIF, or its modification time. Knows no network and no pixels.

EXIF holds the local time of the camera (DateTimeOriginal, SubSecTimeOriginal) and, since version 2.31, its offset from
UTC (OffsetTimeOriginal). Without the offset the moment is unknown, because the camera may have been in another zone
than whoever reads the file, or its clock in none: that is reported, never filled in.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from PIL import ExifTags, Image

from shared.errors import RequestError
from shared.image import DECODE_ERRORS, FORMATS
from shared.times import check_captured_at, from_microseconds

# "exif": EXIF alone; "mtime": EXIF, or else the file's modification time; "none": never.
CapturedFrom = Literal["exif", "mtime", "none"]

_TIME = re.compile(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")


@dataclass(frozen=True)
class CaptureTime:
    """captured_at: in UTC, None if unknown. warning: why a time that the file has was not used, or empty."""

    captured_at: datetime | None = None
    warning: str = ""


def capture_time(source: Path | bytes, captured_from: CapturedFrom) -> CaptureTime:
    """When a file was captured. Bytes have no modification time.

    Raises nothing for a file that cannot be read: what encodes it says so.
    """
    if captured_from == "none":
        return CaptureTime()
    found = from_exif(source)
    if captured_from == "mtime" and found.captured_at is None and isinstance(source, Path):
        return _from_mtime(source) or found
    return found


def from_exif(source: Path | bytes) -> CaptureTime:
    """The capture time in an image's EXIF."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and of sizes
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=FORMATS) as image:
                tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        return CaptureTime()
    local = _text(tags.get(ExifTags.Base.DateTimeOriginal))
    if not re.search(r"\d", local):  # a camera without a clock leaves blanks
        return CaptureTime()
    zone = _text(tags.get(ExifTags.Base.OffsetTimeOriginal))
    fraction = _text(tags.get(ExifTags.Base.SubsecTimeOriginal))
    return _moment(local, zone, fraction)


def _moment(local: str, zone: str, fraction: str) -> CaptureTime:
    """local: "2026:11:22 13:00:00". zone: "+01:00". fraction: decimals of the second, "25"."""
    if not _TIME.fullmatch(local):
        return CaptureTime(warning=f"the EXIF capture time {local[:40]!r} cannot be read")
    if not _OFFSET.fullmatch(zone):
        return CaptureTime(warning=f"the EXIF capture time {local} has no zone, so it was not used")
    decimals = f".{fraction[:6]}" if fraction.isascii() and fraction.isdecimal() else ""
    text = f"{local[:10].replace(':', '-')}T{local[11:]}{decimals}{zone}"
    try:
        return CaptureTime(check_captured_at(datetime.fromisoformat(text).astimezone(UTC)))
    except (ValueError, OverflowError, RequestError):
        return CaptureTime(warning=f"the EXIF capture time {local} {zone} is not one that a camera has")


def _from_mtime(path: Path) -> CaptureTime | None:
    try:
        return CaptureTime(check_captured_at(from_microseconds(path.stat().st_mtime_ns // 1000)))
    except (OSError, OverflowError, RequestError):
        return None


def _text(value: object) -> str:
    """A tag's text without padding; empty where it is none."""
    return value.strip(" \0") if isinstance(value, str) else ""
