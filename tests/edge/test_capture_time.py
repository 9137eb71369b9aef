"""Capture times of image files: EXIF with its zone, the modification time where it is asked for, never a guess."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from edge.capture_time import CaptureTime, capture_time, from_exif

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
Tags = dict[int, object]
TIME, ZONE, DECIMALS = (
    ExifTags.Base.DateTimeOriginal,
    ExifTags.Base.OffsetTimeOriginal,
    ExifTags.Base.SubsecTimeOriginal,
)


def photo(tags: Tags, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif).update(tags)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, form, exif=exif.tobytes())
    return out.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_time_with_its_zone(form: str) -> None:
    assert from_exif(photo({TIME: "2026:11:22 13:00:00", ZONE: "+01:00"}, form)) == CaptureTime(NOON)


@pytest.mark.parametrize(
    ("tags", "when"),
    [
        ({TIME: "2026:11:22 12:00:00", ZONE: "+00:00", DECIMALS: "25"}, NOON.replace(microsecond=250_000)),
        ({TIME: "2026:11:22 12:00:00", ZONE: "+00:00", DECIMALS: "000001"}, NOON.replace(microsecond=1)),
        (
            {TIME: "2026:11:22 12:00:00", ZONE: "+00:00", DECIMALS: "1234567"},
            NOON.replace(microsecond=123_456),
        ),
        ({TIME: "2026:11:22 12:00:00", ZONE: "+00:00", DECIMALS: "  "}, NOON),
        ({TIME: "2026:11:22 06:30:00", ZONE: "-05:30"}, NOON),
        ({TIME: "2026:11:23 02:00:00\0", ZONE: "+14:00\0"}, NOON),
    ],
)
def test_decimals_and_zones(tags: Tags, when: datetime) -> None:
    assert from_exif(photo(tags)) == CaptureTime(when)


@pytest.mark.parametrize(
    ("tags", "warning"),
    [
        ({TIME: "2026:11:22 12:00:00"}, "12:00:00 has no zone, so it was not used"),
        ({TIME: "2026:11:22 12:00:00", ZONE: "   :  "}, "has no zone"),
        (
            {TIME: "2026:11:22 12:00:00", ExifTags.Base.OffsetTime: "+01:00"},
            "has no zone",
        ),  # of the last change
        ({TIME: "22.11.2026 12:00", ZONE: "+01:00"}, "'22.11.2026 12:00' cannot be read"),
        ({TIME: "2026:02:30 12:00:00", ZONE: "+01:00"}, "not one that a camera has"),
        ({TIME: "0000:00:00 00:00:00", ZONE: "+00:00"}, "not one that a camera has"),
        ({TIME: "1970:01:01 00:00:00", ZONE: "+00:00"}, "not one that a camera has"),
        ({TIME: "2026:11:22 12:00:00", ZONE: "+99:00"}, "not one that a camera has"),
    ],
)
def test_a_time_that_is_not_used_is_reported(tags: Tags, warning: str) -> None:
    found = from_exif(photo(tags))
    assert found.captured_at is None
    assert warning in found.warning


@pytest.mark.parametrize("tags", [{}, {TIME: "    :  :     :  :  "}, {ZONE: "+01:00"}])
def test_a_file_without_a_time_is_no_reason_to_warn(tags: Tags) -> None:
    assert from_exif(photo(tags)) == CaptureTime()


def test_what_cannot_be_read_is_left_to_the_encoder(tmp_path: Path) -> None:
    whole = photo({TIME: "2026:11:22 13:00:00", ZONE: "+01:00"})
    assert from_exif(b"") == from_exif(b"no image") == from_exif(tmp_path / "absent") == CaptureTime()
    for at in range(20, len(whole), 3):  # damage anywhere gives some answer
        from_exif(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        from_exif(whole[:at])


@pytest.fixture
def file(tmp_path: Path) -> Callable[[Tags], Path]:
    def make(tags: Tags) -> Path:
        path = tmp_path / "photo.jpg"
        path.write_bytes(photo(tags))
        os.utime(path, ns=(0, 1_795_348_800_250_000_999))
        return path

    return make


def test_which_time_is_asked_for(file: Callable[[Tags], Path]) -> None:
    modified = CaptureTime(NOON.replace(microsecond=250_000))
    bare = file({})
    assert capture_time(bare, "exif") == capture_time(bare, "none") == CaptureTime()
    assert capture_time(bare, "mtime") == modified
    assert capture_time(bare.read_bytes(), "mtime") == CaptureTime()
    full = file({TIME: "2026:11:22 13:00:00", ZONE: "+01:00"})
    assert capture_time(full, "exif") == capture_time(full, "mtime") == CaptureTime(NOON)
    assert capture_time(full, "none") == CaptureTime()
    no_zone = file({TIME: "2026:11:22 13:00:00"})
    assert capture_time(no_zone, "mtime") == modified
    assert capture_time(no_zone, "none") == CaptureTime()
    os.utime(no_zone, ns=(0, 0))  # the clock of a file system that has none
    assert "no zone" in capture_time(no_zone, "mtime").warning
