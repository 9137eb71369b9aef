"""A spooled frame: its fields, its check, its request id. Knows no disk."""

from __future__ import annotations

import re
import secrets
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.times import from_microseconds, to_microseconds

ROW_BYTES = 256  # of a record beside its data, about: id, names, times, entries in the index

Version = tuple[int, int]

_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class NewFrame:
    """A frame to keep.

    source: its camera. bundle: fingerprint that it was coded with, hex. data: the packed bitstream. wanted: what is
    asked of it, as JSON. origin: the file that it is of, where its source has files. version: size and modification
    time (ns) of that file, if it is to be remembered that it was taken; the frame itself does not keep them. id: its
    request id, where its source makes them (`edge.groups`).
    """

    source: str
    bundle: str
    data: bytes
    wanted: str = "{}"
    captured_at: datetime | None = None
    origin: str = ""
    version: Version | None = None
    id: str = ""

    @property
    def cost(self) -> int:
        """What it counts against the bound of a spool."""
        return ROW_BYTES + len(self.data) + len(self.wanted) + len(self.origin)


@dataclass(frozen=True)
class Spooled:
    """A frame that was accepted.

    id: its request id, a UUIDv7 in hex unless the source makes them. again: the cloud may have it already, so that no
    other frame must be given it.
    """

    id: str
    frame: NewFrame
    spooled_us: int
    again: bool = False

    def row(self) -> tuple[Any, ...]:
        """Its columns, the check last."""
        one = self.frame
        captured = None if one.captured_at is None else to_microseconds(one.captured_at)
        head = (self.id, one.source, one.bundle, captured, self.spooled_us, one.wanted, one.origin)
        return (*head, one.data, check(head, one.data))


def spooled_of(row: tuple[Any, ...]) -> Spooled:
    """The inverse of `Spooled.row`. Raises ValueError or OverflowError for a damaged one."""
    *head, data, crc = row
    if crc != check(tuple(head), data):
        raise ValueError("the check does not hold")
    id_, source, bundle, captured, spooled_us, wanted, origin = head
    captured_at = None if captured is None else from_microseconds(captured)
    return Spooled(id_, NewFrame(source, bundle, data, wanted, captured_at, origin), spooled_us)


def check(head: tuple[Any, ...], data: bytes) -> int:
    """CRC-32 of a record."""
    return zlib.crc32(data if isinstance(data, bytes) else b"?", zlib.crc32(repr(head).encode()))


class Ids:
    """UUIDv7 (RFC 9562) in hex, each larger than the one before, also where the clock goes back."""

    def __init__(self, last: str = "") -> None:
        """last: the largest id so far."""
        self._last = int(last, 16) & ~(3 << 62) if _ID.fullmatch(last) else 0

    def next(self, now_us: int) -> str:
        """48 bits of milliseconds, the version, 12 random bits, the variant, 62 random bits."""
        made = (now_us // 1000) << 80 | 7 << 76 | secrets.randbits(12) << 64 | secrets.randbits(62)
        if made <= self._last:
            # The random bits count on within a millisecond, and go over into its next.
            low = (self._last & (1 << 62) - 1) + 1 + secrets.randbits(32)
            high = (self._last >> 64) + (low >> 62)
            made = high << 64 | low & (1 << 62) - 1
            if made >> 76 & 0xF != 7:
                made = ((made >> 80) + 1) << 80 | 7 << 76 | low & (1 << 62) - 1
        self._last = made
        return f"{made | 2 << 62:032x}"
