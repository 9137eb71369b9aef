"""The frames of one session in a file, for a clip or a recording. Knows no bundle file and no network.

Format, version 1. A change of layout is a new version, and the old version still reads.

    1         0xB9 (bitstreams begin with 0xB7 or 0xB8)
    1         version, 1
    32        fingerprint of the bundle, whole
    16        session, as in `shared.codec.frame.session_key`
    varints   h, w of the latent grid
    8         start: microseconds since 1970-01-01T00:00:00 UTC, little endian; 0 if unknown
    4         CRC-32 (zlib's polynomial) of all bytes before it, little endian

and then for each frame a record:

    varint    bytes of the frame
    varint    milliseconds since the record before, or since the start
    varint    numbers left out between the record before, or 0, and this one
    varint    how many numbers before this one its reference has; 0 if it needs none
    ...       the frame, as in a session (`shared.codec.frame`)
    4         CRC-32 of the four bytes before the record and of the record up to here, little endian

Varints are those of `shared.codec.bitstream`. Each CRC covers the one before it, so that a record that is taken out,
put in or moved is noticed as well as one that is damaged. A log may end after any record: one that was cut off exactly
there cannot be distinguished from a shorter one. Everything before a damaged place is read.

Golden bytes: tests/shared/codec/test_session_log.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from shared.codec.bitstream import check_grid, varint
from shared.codec.frame import KEY_BYTES, MAX_PAYLOAD_BYTES, SESSION_BYTES, Frame, Sent, session_key
from shared.errors import (
    BitstreamError,
    ChecksumError,
    MalformedHeaderError,
    NotABitstreamError,
    RequestError,
    StreamTooLargeError,
    TruncatedError,
    UnsupportedVersionError,
)

MAGIC_LOG = 0xB9
VERSION = 1
NUMBER_MAX = (1 << 32) - 1
GAP_MS_MAX = (1 << 28) - 1  # between two frames: three days

_START_BYTES = 8
_CRC_BYTES = 4


@dataclass(frozen=True)
class LogHeader:
    """What holds for all frames of a log.

    fingerprint: the bundle's whole one, 32 bytes. session: 16 bytes. grid: h, w of the latent. started_at_us:
    microseconds since 1970 in UTC; 0 if unknown. Raises ValueError or StreamTooLargeError.
    """

    fingerprint: bytes
    session: bytes
    grid: tuple[int, int]
    started_at_us: int = 0

    def __post_init__(self) -> None:
        if len(self.fingerprint) != KEY_BYTES or len(self.session) != SESSION_BYTES:
            raise ValueError(f"a log has a fingerprint of {KEY_BYTES} bytes and a session of {SESSION_BYTES}")
        if not 0 <= self.started_at_us < 1 << 63:
            raise ValueError(f"a log's start is 0 or later than 1970, not {self.started_at_us}")
        check_grid(*self.grid)

    @cached_property
    def key(self) -> bytes:
        """The session's key, which enters each frame's check."""
        return session_key(self.fingerprint, self.session, self.grid)

    def pack(self) -> bytes:
        h, w = self.grid
        body = bytes([MAGIC_LOG, VERSION]) + self.fingerprint + self.session + varint(h) + varint(w)
        body += self.started_at_us.to_bytes(_START_BYTES, "little")
        return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


@dataclass(frozen=True)
class LogRecord:
    """One frame of a log.

    number: counts the session's frames from 1. at_ms: since the start. data: the frame in the session.
    reference: the number of the frame that this one needs, or None.
    """

    number: int
    at_ms: int
    data: bytes
    reference: int | None = None

    @property
    def frame(self) -> Frame:
        """The frame; of type S it has quality 0. Raises BitstreamError."""
        return Sent.unpack(self.data).frame


class LogWriter:
    """Writes a log to a file that is open for writing; flushes nothing."""

    def __init__(self, file: BinaryIO, header: LogHeader) -> None:
        self._file = file
        self._number = self._at_ms = 0
        packed = header.pack()
        self._last_crc = packed[-_CRC_BYTES:]
        file.write(packed)

    def append(self, record: LogRecord) -> None:
        """Adds a frame. Raises RequestError where its number or its time does not go on from the last one's."""
        gap_ms, left_out = record.at_ms - self._at_ms, record.number - self._number - 1
        if left_out < 0:
            raise RequestError(f"frame {record.number} cannot follow frame {self._number} in a log")
        if not 0 <= gap_ms <= GAP_MS_MAX:
            raise RequestError(
                f"a frame at {record.at_ms} ms cannot follow one at {self._at_ms} ms; begin another log"
            )
        back = 0 if record.reference is None else record.number - record.reference
        body = b"".join(map(varint, (len(record.data), gap_ms, left_out, back))) + record.data
        self._last_crc = zlib.crc32(self._last_crc + body).to_bytes(_CRC_BYTES, "little")
        self._file.write(body + self._last_crc)
        self._number, self._at_ms = record.number, record.at_ms


class LogReader:
    """A log in a file that is open for reading: its header at once, then record by record, in bounded memory.

    Raises NotABitstreamError, UnsupportedVersionError, TruncatedError, ChecksumError, MalformedHeaderError or
    StreamTooLargeError; while iterating, only once every record before the damage has been returned.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._in = _Input(file)
        self.header = self._read_header()

    def __iter__(self) -> Iterator[LogRecord]:
        number = at_ms = 0
        while (first := self._in.first()) is not None:
            where = f"the record after frame {number}" if number else "the first record"
            try:
                size = self._in.varint("length", first)
                gap_ms, left_out, back = (self._in.varint(name) for name in ("time", "number", "reference"))
                number, at_ms = number + 1 + left_out, at_ms + gap_ms
                record = LogRecord(number, at_ms, self._frame(size), number - back if back else None)
                self._in.check()
                if back >= number or record.frame.needs_reference != bool(back) or number > NUMBER_MAX:
                    raise MalformedHeaderError("a number or a reference that no writer writes")
            except BitstreamError as error:
                raise type(error)(f"{where}: {error}") from None
            yield record

    def _read_header(self) -> LogHeader:
        magic = self._in.first()
        if magic is None:
            raise TruncatedError("the log is empty")
        if magic != MAGIC_LOG:
            raise NotABitstreamError(
                f"not a log of frames: first byte is 0x{magic:02x}, not 0x{MAGIC_LOG:02x}"
            )
        try:
            return self._read_fields()
        except (TruncatedError, ChecksumError, MalformedHeaderError) as error:
            raise type(error)(f"the log's header: {error}") from None

    def _read_fields(self) -> LogHeader:
        version = self._in.take(1)[0]
        if version != VERSION:
            raise UnsupportedVersionError(
                f"a log of version {version} is not known here (this release reads version {VERSION}); "
                "update the software that reads it"
            )
        fingerprint, session = self._in.take(KEY_BYTES), self._in.take(SESSION_BYTES)
        grid = self._in.varint("h"), self._in.varint("w")
        started_at_us = int.from_bytes(self._in.take(_START_BYTES), "little")
        self._in.check()
        if started_at_us >= 1 << 63:
            raise MalformedHeaderError(f"a start {started_at_us} microseconds after 1970")
        return LogHeader(fingerprint, session, grid, started_at_us)

    def _frame(self, size: int) -> bytes:
        if size > MAX_PAYLOAD_BYTES:
            raise StreamTooLargeError(f"a frame of {size} bytes; it has at most {MAX_PAYLOAD_BYTES}")
        return self._in.take(size)


class _Input:
    """A file, read piece by piece, with the CRC of the pieces since the last check."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._crc = 0

    def first(self) -> int | None:
        """The next byte, or None at the end of the file."""
        byte = self._file.read(1)
        self._crc = zlib.crc32(byte, self._crc)
        return byte[0] if byte else None

    def take(self, size: int) -> bytes:
        """Raises TruncatedError."""
        data = self._file.read(size)
        if len(data) < size:
            raise TruncatedError("cut off")
        self._crc = zlib.crc32(data, self._crc)
        return data

    def varint(self, name: str, first: int | None = None) -> int:
        """first: its first byte, if that was read already. Raises TruncatedError or MalformedHeaderError."""
        byte = self.take(1)[0] if first is None else first
        number = byte & 0x7F
        for shift in range(7, 28, 7):
            if byte < 0x80:
                return number
            byte = self.take(1)[0]
            if not byte:
                raise MalformedHeaderError(f"its {name} is not written in its shortest form")
            number |= (byte & 0x7F) << shift
        if byte >= 0x80:
            raise MalformedHeaderError(f"its {name} takes more than 28 bits")
        return number

    def check(self) -> None:
        """Reads a CRC; the next one covers it. Raises ChecksumError or TruncatedError."""
        actual = self._crc
        stored = self.take(_CRC_BYTES)
        if int.from_bytes(stored, "little") != actual:
            raise ChecksumError(
                f"damaged: its CRC-32 is {actual:08x}, not {int.from_bytes(stored, 'little'):08x} as stored"
            )
        self._crc = zlib.crc32(stored)
