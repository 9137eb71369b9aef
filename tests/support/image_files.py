"""Image files made byte by byte, for what Pillow does not write."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

TIFF_TYPES = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d"}
SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG from its rows, each with its filter byte; chunks: further ones before the data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + data + chunk(b"IEND", b"")


def png_16(samples: np.ndarray, *chunks: bytes) -> bytes:
    """Samples (H, W) or (H, W, 2..4) as a PNG of 16 bits: gray, gray with alpha, RGB or RGBA."""
    colour = 0 if samples.ndim == 2 else {2: 4, 3: 2, 4: 6}[samples.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(samples.shape[1], samples.shape[0], 16, colour, rows, *chunks)


def significant_bits(*bits: int) -> bytes:
    return chunk(b"sBIT", bytes(bits))


def tiff(
    samples: np.ndarray,
    order: str = "<",
    photometric: int | None = None,
    bits: int | None = None,
    data: bytes | None = None,
    strips: int = 1,
    **fields: tuple[int, int, list[float]],
) -> bytes:
    """Samples (H, W) or (H, W, 3) as an uncompressed TIFF in their own type.

    order: "<" or ">". bits, data: for samples that are packed. strips: equal parts of the data. fields: further ones as
    (number, type, values).
    """
    height, width = samples.shape[:2]
    colours = 1 if samples.ndim == 2 else samples.shape[2]
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes() if data is None else data
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits or 8 * samples.dtype.itemsize] * colours),
        259: (3, [1]),
        262: (3, [(1 if colours == 1 else 2) if photometric is None else photometric]),
        277: (3, [colours]),
        278: (4, [height]),
        273: (4, [0] * strips),
        279: (4, [len(data) // strips] * strips),
        339: (3, [SAMPLE_FORMATS[samples.dtype.kind]] * colours),
    } | {number: (kind, values) for number, kind, values in fields.values()}
    sizes = [struct.calcsize(f"<{len(values)}{TIFF_TYPES[kind]}") for kind, values in entries.values()]
    values_at = 8 + 2 + 12 * len(entries) + 4
    data_at = values_at + sum(size for size in sizes if size > 4)
    entries[273] = (4, [data_at + i * len(data) // strips for i in range(strips)])
    directory, values_after = b"", b""
    for number, (kind, values) in sorted(entries.items()):
        raw = struct.pack(f"{order}{len(values)}{TIFF_TYPES[kind]}", *values)
        if len(raw) > 4:
            place = struct.pack(f"{order}I", values_at + len(values_after))
            values_after += raw
        else:
            place = raw.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", number, kind, len(values)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return head + directory + bytes(4) + values_after + data
