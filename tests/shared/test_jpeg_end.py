"""JPEG files cut off at any place: read with a warning while most of the image is there, refused otherwise."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shared.errors import ImageError
from shared.image import read_image
from support.image_files import saved

SIZE = 160


def scene() -> Image.Image:
    """Smooth colours with noise, so that every block takes some bytes."""
    y, x = np.mgrid[:SIZE, :SIZE]
    noise = np.random.default_rng(0).integers(-40, 40, (SIZE, SIZE, 3))
    return Image.fromarray((np.stack([x, y, 255 - x], -1) + noise).clip(0, 255).astype(np.uint8))


def read(data: bytes) -> tuple[np.ndarray, list[str]]:
    warnings: list[str] = []
    return np.asarray(read_image(data, "front.jpg", warnings.append)), warnings


KINDS = {
    "baseline": {"quality": 90},
    "full colour": {"quality": 80, "subsampling": 0, "optimize": True},
    "restarts": {"quality": 80, "restart_marker_blocks": 4},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0.55, 0.7, 0.8, 0.95, 0.99])
def test_most_of_the_rows(kind: str, left: float) -> None:
    data = saved(scene(), "JPEG", **KINDS[kind])
    whole, none = read(data)
    assert none == []
    made, warnings = read(data[: int(left * len(data))])
    assert made.shape == whole.shape
    [warning] = warnings
    rows = int(0.75 * left * SIZE)  # rows take equally many bytes here; the head takes some, too
    np.testing.assert_array_equal(made[:rows], whole[:rows])
    assert "ends too early" in warning
    missing = int(warning.split("last ")[1].split()[0]) if "rows" in warning else 0
    assert abs(missing - (1 - left) * SIZE) <= 0.1 * SIZE + 16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0.05, 0.2, 0.3])
def test_few_of_the_rows(kind: str, left: float) -> None:
    data = saved(scene(), "JPEG", **KINDS[kind])
    with pytest.raises(ImageError, match=r"^front\.jpg (ends too early: .*send it again|is damaged)"):
        read(data[: int(left * len(data))])


def test_without_warnings_wanted_it_is_damaged() -> None:
    """Data sets are read so: none should be trained on half an image unnoticed."""
    data = saved(scene(), "JPEG", quality=90)
    with pytest.raises(ImageError, match="damaged"):
        read_image(data[:-200])


def test_only_the_end_marker_is_missing() -> None:
    data = saved(scene(), "JPEG", quality=90)
    for cut in (1, 2):
        made, warnings = read(data[:-cut])
        np.testing.assert_array_equal(made, read(data)[0])
        assert len(warnings) <= 1


def test_progressive() -> None:
    """Its scans each cover the whole image: only the last, finest ones may be missing."""
    data = saved(scene(), "JPEG", quality=90, progressive=True)
    whole = read(data)[0].astype(int)
    made, warnings = read(data[:-100])
    assert "lack detail" in warnings[0]
    assert np.abs(made - whole).mean() < 4
    for left in (0.05, 0.1, 0.2):
        with pytest.raises(ImageError, match=r"layers of detail|is damaged"):
            read(data[: int(left * len(data))])


def test_every_length() -> None:
    """An image with one warning, or an ImageError: never anything else, and nothing is read of less than half."""
    data = saved(scene(), "JPEG", quality=60)
    shortest = len(data)
    for length in range(0, len(data) - 2, 61):
        try:
            made, warnings = read(data[:length])
        except ImageError:
            continue
        assert made.shape == (SIZE, SIZE, 3)
        assert len(warnings) == 1
        shortest = min(shortest, length)
    head = data.index(b"\xff\xda")
    assert 0.4 < (shortest - head) / (len(data) - head) < 0.75


def test_turned_gray_and_cmyk() -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = saved(scene().crop((0, 0, 96, 160)), "JPEG", quality=90, exif=exif)
    made, warnings = read(turned[:-300])
    assert made.shape == (96, 160, 3)
    assert len(warnings) == 1
    for mode in ("L", "CMYK"):
        data = saved(scene().convert(mode), "JPEG", quality=90)
        assert len(read(data[: int(0.7 * len(data))])[1]) == 1
        with pytest.raises(ImageError, match="rows are missing"):
            read(data[: int(0.35 * len(data))])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_other_formats_are_damaged(kind: str) -> None:
    data = saved(scene(), kind)
    with pytest.raises(ImageError, match="damaged"):
        read(data[: int(0.9 * len(data))])


def test_data_that_is_broken_in_the_middle_stays_refused() -> None:
    data = bytearray(saved(scene(), "JPEG", quality=90))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 7] = b"\0\0"  # no rows
    with pytest.raises(ImageError):
        read(bytes(data[:-50]))


def test_a_thumbnail_in_the_head_is_not_the_image() -> None:
    """Cameras put a whole JPEG into the EXIF block."""
    thumbnail = saved(scene().resize((32, 32)), "JPEG", progressive=True)
    data = saved(scene(), "JPEG", quality=90)
    block = b"Exif\0\0" + thumbnail
    with_head = data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    assert Image.open(io.BytesIO(with_head)).size == (SIZE, SIZE)
    made, warnings = read(with_head[:-400])
    assert len(warnings) == 1
    np.testing.assert_array_equal(made[:100], read(data)[0][:100])
