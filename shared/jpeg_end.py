"""JPEG files that lack their end: what of the image is left. Knows no network.

Cameras leave such files behind when power or the link fails. The decoder fills what is missing with mid-gray, so that
the rows that are left can be counted.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import ImageError

MISSING_SHARE_MAX = 0.5  # of the rows; a file that lacks more is refused

_END = b"\xff\xd9"
_SCAN = 0xDA
_BLOCK = 8
_LAST_COEFFICIENT = 63
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def read_without_end(data: bytes, name: str) -> tuple[Image.Image, str] | None:
    """The loaded image of a JPEG that ends too early, and a warning that says what is missing.

    None: this is not such a file. Raises ImageError where it lacks most of its rows, or a whole colour or layer of
    detail, and what Pillow raises for damaged files.
    """
    if not data.startswith(b"\xff\xd8") or data.endswith(_END):
        return None
    image = Image.open(io.BytesIO(data + _END), formats=("JPEG",))
    image.load()
    if not _covers_all_components(data):
        raise ImageError(
            f"{name} ends too early: whole colours or layers of detail are missing; send it again"
        )
    missing = _rows_filled_in(np.asarray(image))
    if missing > MISSING_SHARE_MAX * image.height:
        raise ImageError(
            f"{name} ends too early: {missing} of its {image.height} rows are missing; send it again"
        )
    if missing:
        return (
            image,
            f"the image file ends too early: the last {missing} of its {image.height} rows are missing or cut off",
        )
    return image, "the image file ends too early: the end of the image may be damaged or lack detail"


def _rows_filled_in(pixels: NDArray[np.uint8]) -> int:
    """How many rows at the bottom lack at least their last block, which the decoder then fills with mid-gray."""
    ends = pixels[:, -_BLOCK:].reshape(len(pixels), -1)
    whole = np.flatnonzero(((ends != 128) & (ends != 127)).any(axis=1))  # CMYK is inverted
    return len(pixels) - (int(whole[-1]) + 1 if len(whole) else 0)


def _covers_all_components(data: bytes) -> bool:
    """Whether every colour component has some data for all its coefficients.

    A baseline file of one scan has; of a progressive one, only the last refinements may be missing. The scan that is
    cut off counts only if it is the only one: rows can be counted there.
    """
    components, scans = 1, []
    for marker, body in _segments(data):
        if marker in _FRAMES and len(body) > 5:
            components = body[5]
        elif marker == _SCAN and body:
            scans.append(body)
    if len(scans) == 1 and scans[0][0] == components:
        return _last(scans[0]) == _LAST_COEFFICIENT
    reached: defaultdict[int, int] = defaultdict(int)
    for scan in scans[:-1]:
        for component in scan[1 : 1 + 2 * scan[0] : 2]:
            reached[component] = max(reached[component], _last(scan))
    return len(reached) == components and min(reached.values()) == _LAST_COEFFICIENT


def _last(scan: bytes) -> int:
    """The last coefficient that a scan's header announces."""
    at = 2 + 2 * scan[0]
    return scan[at] if at < len(scan) else -1


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers with the bodies of their segments, in order; what lies between them is skipped."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length
