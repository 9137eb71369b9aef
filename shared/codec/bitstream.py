"""The container of one image's bytes. Knows neither bundle files nor entropy coding.

Format, version 1. A change of layout is a new version, and the old version still decodes.

    offset  size       field
    0       1          magic 0xB7 (never the first byte of UTF-8 text, JPEG, PNG, WebP or AVIF)
    1       1          version, 1
    2       4          fingerprint: first bytes of the bundle's SHA-256 over every integer that affects decoding
    6       1          quality level, 0..100
    7       varint     h, rows of the latent grid, 1..4095
            varint     w, columns of the latent grid, 1..4095; h * w <= 16384
            varint     bytes of b_v, at most 65,535
            varint     bytes of b_z, at most 4,194,303
            len(b_v)   b_v, the range-coded hyperprior
            len(b_z)   b_z, the range-coded latent
            4          CRC-32 (zlib's polynomial) of all bytes before it, little endian

A varint holds 7 bits per byte, least significant first, with the top bit set on all but the last byte. It is written in
its shortest form, in at most four bytes. The container adds 15 bytes to b_v + b_z for short streams (h, w, b_v and b_z
below 128), and at most 20 while b_z is below 16 KiB.

Golden bytes: tests/shared/codec/test_bitstream.py.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from shared.errors import (
    ChecksumError,
    MalformedHeaderError,
    NotABitstreamError,
    StreamTooLargeError,
    TrailingBytesError,
    TruncatedError,
    UnsupportedVersionError,
)

MAGIC = 0xB7
VERSION = 1
FINGERPRINT_BYTES = 4
MEDIA_TYPE = "application/vnd.isthmus"

MAX_SIDE = 4095
MAX_GRID_CELLS = 16384
MAX_BV_BYTES = 65_535
MAX_BZ_BYTES = 4_194_303
MAX_STREAM_BYTES = MAX_BV_BYTES + MAX_BZ_BYTES + 32

_CRC_BYTES = 4
_FIXED_BYTES = 2 + FINGERPRINT_BYTES + 1


@dataclass(frozen=True)
class Bitstream:
    """One image's bytes on their way. fingerprint: 4 bytes; quality: 0..100; h, w: latent grid in cells."""

    fingerprint: bytes
    quality: int
    h: int
    w: int
    b_v: bytes
    b_z: bytes

    def pack(self) -> bytes:
        """Returns the container's bytes. Raises StreamTooLargeError if a size exceeds the format's limits."""
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, not {len(self.fingerprint)}")
        if not 0 <= self.quality <= 100:
            raise ValueError(f"quality is 0..100, not {self.quality}")
        _check_sizes(self.h, self.w, len(self.b_v), len(self.b_z))
        body = bytearray((MAGIC, VERSION))
        body += self.fingerprint
        body.append(self.quality)
        for number in (self.h, self.w, len(self.b_v), len(self.b_z)):
            body += varint(number)
        body += self.b_v
        body += self.b_z
        body += zlib.crc32(body).to_bytes(_CRC_BYTES, "little")
        return bytes(body)

    @classmethod
    def unpack(cls, data: bytes) -> Bitstream:
        """Parses a container; allocates nothing larger than `data`.

        Raises NotABitstreamError, UnsupportedVersionError, MalformedHeaderError, TruncatedError, TrailingBytesError,
        StreamTooLargeError or ChecksumError.
        """
        if not data:
            raise TruncatedError("the bitstream is empty")
        if data[0] != MAGIC:
            raise NotABitstreamError(
                f"not an Isthmus bitstream: first byte is 0x{data[0]:02x}, expected 0x{MAGIC:02x}"
            )
        if len(data) < 2:
            raise TruncatedError("the bitstream ends after 1 byte")
        if data[1] != VERSION:
            raise UnsupportedVersionError(
                f"bitstream version {data[1]} is not known here (this release reads version {VERSION}); "
                "update the software that reads it"
            )
        if len(data) > MAX_STREAM_BYTES:
            raise StreamTooLargeError(f"{len(data)} bytes; a bitstream has at most {MAX_STREAM_BYTES}")
        if len(data) < _FIXED_BYTES:
            raise TruncatedError(f"the bitstream ends inside its header, after {len(data)} bytes")
        numbers, at = [], _FIXED_BYTES
        for name in ("h", "w", "length of b_v", "length of b_z"):
            number, at = read_varint(data, at, name)
            numbers.append(number)
        h, w, bv_bytes, bz_bytes = numbers
        quality = data[_FIXED_BYTES - 1]
        if quality > 100:
            raise MalformedHeaderError(f"quality level {quality}; it is 0..100")
        _check_sizes(h, w, bv_bytes, bz_bytes)
        end = at + bv_bytes + bz_bytes
        whole = end + _CRC_BYTES
        if len(data) < whole:
            raise TruncatedError(f"the bitstream is cut short: {len(data)} bytes of {whole}")
        if len(data) > whole:
            raise TrailingBytesError(f"{len(data) - whole} bytes follow the end of the bitstream")
        stored = int.from_bytes(data[end:whole], "little")
        actual = zlib.crc32(data[:end])
        if stored != actual:
            raise ChecksumError(
                f"the bitstream is damaged: its CRC-32 is {actual:08x}, not {stored:08x} as stored; send it again"
            )
        fingerprint = bytes(data[2 : 2 + FINGERPRINT_BYTES])
        return cls(
            fingerprint, quality, h, w, bytes(data[at : at + bv_bytes]), bytes(data[at + bv_bytes : end])
        )


def check_grid(h: int, w: int) -> None:
    """Raises StreamTooLargeError for a grid beyond the format's limits."""
    if not (1 <= h <= MAX_SIDE and 1 <= w <= MAX_SIDE and h * w <= MAX_GRID_CELLS):
        raise StreamTooLargeError(
            f"a latent grid of {h} x {w}; sides are 1..{MAX_SIDE}, cells at most {MAX_GRID_CELLS}"
        )


def _check_sizes(h: int, w: int, bv_bytes: int, bz_bytes: int) -> None:
    check_grid(h, w)
    if bv_bytes > MAX_BV_BYTES or bz_bytes > MAX_BZ_BYTES:
        raise StreamTooLargeError(
            f"b_v of {bv_bytes} and b_z of {bz_bytes} bytes; at most {MAX_BV_BYTES} and {MAX_BZ_BYTES}"
        )


def varint(number: int) -> bytes:
    """A number in its shortest form."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, at: int, name: str) -> tuple[int, int]:
    """The number at a position, and where it ends. Raises TruncatedError or MalformedHeaderError."""
    number = 0
    for shift in range(0, 28, 7):
        if at >= len(data):
            raise TruncatedError(f"the bitstream ends inside its {name}")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise MalformedHeaderError(f"{name} is not written in its shortest form")
            return number, at
    raise MalformedHeaderError(f"{name} takes more than 28 bits")
