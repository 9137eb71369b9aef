"""NAL units of HEVC and VVC streams in Annex B form: what of an access unit may be agreed on before the first image."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

# Start code and all up to the next one. A start code has three bytes, or four with one more zero in front.
_START = re.compile(rb"(?=\x00\x00\x00\x01|(?<!\x00)\x00\x00\x01)")


class Header(NamedTuple):
    """Where the header of a NAL unit has its type: byte after the start code, bits to shift right, mask."""

    byte: int
    shift: int
    mask: int

    def type_of(self, nal_unit: bytes) -> int:
        return (nal_unit[nal_unit.index(b"\x01") + 1 + self.byte] >> self.shift) & self.mask


HEVC = Header(byte=0, shift=1, mask=63)
VVC = Header(byte=1, shift=3, mask=31)


def nal_units(stream: bytes) -> list[bytes]:
    """The NAL units of a stream, with their start codes."""
    return [one for one in _START.split(stream) if one]


def without_types(unit: bytes, header: Header, types: Collection[int]) -> bytes:
    """An access unit without its NAL units of these types."""
    return b"".join(one for one in nal_units(unit) if header.type_of(one) not in types)


def access_units(stream: bytes, header: Header, delimiter: int) -> list[bytes]:
    """The access units of a stream in which each begins with a NAL unit of type `delimiter`."""
    units: list[bytes] = []
    for one in nal_units(stream):
        if header.type_of(one) == delimiter:
            units.append(one)
        else:
            units[-1] += one
    return units
