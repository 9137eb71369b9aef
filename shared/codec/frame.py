"""The containers of version 2: one frame's bytes in a session, and by itself. Knows no bundle file and no network.

A frame says what a camera sees at one time: the hyperprior v, which is the base layer, and the latent z, the
refinement. What it does not say is taken from a reference, a frame that its receiver has:

    type  own v  z    meaning
    I     yes    yes  v and z by themselves
    I     yes    no   v alone: the base, enough for some tasks
    I     no     yes  the refinement of a base that was sent before: z given the reference's v
    P     yes    yes  z given the reference's z, with a v of its own
    P     no     yes  the same, with the reference's v
    S     no     no   everything as in the reference

The payload is one run of the range coder: v if it is there, then z if it is there (`shared.codec.frame_codec`). A
reference is never "the last one": its digest (`Latent.digest`, over its integers) enters the check, so a receiver finds
the frame that is meant among those it holds, or none, and then asks for a frame of type I.

In a session (`Frame.pack`) everything that holds for all frames is agreed on beforehand, and the message has a length:

    1         bits 0-1 type (0 I, 1 P, 2 S), bit 2 own v, bit 3 z; the others are 0
    1         quality, 0..100; absent in a frame of type S, whose quality is the reference's
    ...       payload
    2         check: the first bytes of SHA-256 over the session's key (32), the frame's number (4, little endian), the
              reference's digest (32; absent without one), and all bytes before the check

That is 4 bytes beside the payload, 3 in all for S. Damage that TCP does not notice passes the check of a frame I once
in 65,536 times, and that of a frame P or S, for which a receiver tries up to eight references, once in 8,192; with TLS
below, it does not come this far. A frame with a reference that the receiver does not hold cannot be distinguished from
a damaged one, and both are answered the same way.

By itself, in a file, an archive or a unary request (`Packet.pack`):

    1         0xB8 (version 1 begins with 0xB7)
    4         fingerprint of the bundle
    1         as in a session, and bit 4: a grid follows
    1         quality; for S that of the reference
    varints   h, w of the latent grid, if bit 4 is set; otherwise it is the bundle's own
    8         first bytes of the reference's digest, if there is one
    ...       payload
    4         CRC-32 (zlib's polynomial) of all bytes before it, little endian

That is 11 bytes beside the payload of a frame I on the bundle's grid. There is no length: whoever keeps a packet knows
it, and one that is cut short or has bytes added fails its CRC.

Golden bytes: tests/shared/codec/test_frame.py.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from shared.codec.bitstream import (
    FINGERPRINT_BYTES,
    MAX_STREAM_BYTES,
    Bitstream,
    check_grid,
    read_varint,
    varint,
)
from shared.errors import (
    ChecksumError,
    MalformedHeaderError,
    NotABitstreamError,
    StreamTooLargeError,
    TruncatedError,
)

MAGIC_2 = 0xB8
KEY_BYTES = 32
SESSION_BYTES = 16
CHECK_BYTES = 2
NAMED_BYTES = 8  # of a reference's digest in a packet
PACKET_BYTES = 11  # of a packet on the bundle's grid and without a reference, beside its payload
MAX_PAYLOAD_BYTES = MAX_STREAM_BYTES - 64

_TYPE, _OWN_V, _HAS_Z, _GRID = 0b11, 0b100, 0b1000, 0b10000
_CRC_BYTES = 4


class FrameType(IntEnum):
    """I: by itself. P: given the reference's z. S: as the reference."""

    I = 0  # noqa: E741 - the field's name of it
    P = 1
    S = 2


_VALID = {
    (FrameType.I, True, True),
    (FrameType.I, True, False),
    (FrameType.I, False, True),
    (FrameType.P, True, True),
    (FrameType.P, False, True),
    (FrameType.S, False, False),
}


@dataclass(frozen=True)
class Frame:
    """One frame's content. quality: 0..100. own_v, has_z: what the payload holds. Raises ValueError."""

    type: FrameType
    quality: int
    own_v: bool
    has_z: bool
    payload: bytes

    def __post_init__(self) -> None:
        if (self.type, self.own_v, self.has_z) not in _VALID:
            raise ValueError(f"no frame of type {self.type.name} has own_v {self.own_v} and z {self.has_z}")
        if not 0 <= self.quality <= 100:
            raise ValueError(f"quality is 0..100, not {self.quality}")
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            raise StreamTooLargeError(
                f"a payload of {len(self.payload)} bytes; it has at most {MAX_PAYLOAD_BYTES}"
            )
        if self.type is FrameType.S and self.payload:
            raise ValueError("a frame of type S has no payload")

    @property
    def needs_reference(self) -> bool:
        return self.type is not FrameType.I or not self.own_v

    @property
    def name(self) -> str:
        """For people: "I", "I base", "I refinement", "P" or "S"."""
        rest = {(True, False): " base", (False, True): " refinement"}
        return self.type.name + (rest.get((self.own_v, self.has_z), "") if self.type is FrameType.I else "")

    def pack(self, key: bytes, number: int, reference: bytes | None) -> bytes:
        """Returns the frame's bytes in a session. reference: the digest of the one that this frame needs, if any."""
        head = bytes([self.flags]) + (b"" if self.type is FrameType.S else bytes([self.quality]))
        body = head + self.payload
        return body + _check(key, number, self._named(reference), body)

    @property
    def flags(self) -> int:
        """The first byte of its header."""
        return self.type | _OWN_V * self.own_v | _HAS_Z * self.has_z

    def _named(self, reference: bytes | None) -> bytes:
        if (reference is not None) != self.needs_reference:
            raise ValueError(f"a frame {self.name} and a reference do not go together, or it lacks one")
        return reference or b""


def session_key(fingerprint: bytes, session: bytes, grid: tuple[int, int]) -> bytes:
    """What all frames of a session share, as 32 bytes that enter each check.

    fingerprint: the bundle's whole one, 32 bytes. session: 16 bytes, random. grid: h, w of the latent.
    """
    if len(fingerprint) != KEY_BYTES or len(session) != SESSION_BYTES:
        raise ValueError(f"a session has a fingerprint of {KEY_BYTES} bytes and a name of {SESSION_BYTES}")
    sides = b"".join(side.to_bytes(2, "little") for side in grid)
    return hashlib.sha256(b"isthmus session" + fingerprint + session + sides).digest()


def _check(key: bytes, number: int, reference: bytes, body: bytes) -> bytes:
    whole = key + number.to_bytes(4, "little") + reference + body
    return hashlib.sha256(whole).digest()[:CHECK_BYTES]


@dataclass(frozen=True)
class Sent:
    """A frame as it came in a session: its parts are sound, whether its check holds is not known yet.

    frame: for S its quality is 0 until the reference is known.
    """

    frame: Frame
    data: bytes

    @classmethod
    def unpack(cls, data: bytes) -> Sent:
        """Raises TruncatedError, MalformedHeaderError or StreamTooLargeError."""
        if len(data) < 1 + CHECK_BYTES:
            raise TruncatedError(f"a frame of {len(data)} bytes; the shortest has {1 + CHECK_BYTES}")
        if len(data) > MAX_PAYLOAD_BYTES:
            raise StreamTooLargeError(f"a frame of {len(data)} bytes; it has at most {MAX_PAYLOAD_BYTES}")
        kind, own_v, has_z = _read_flags(data[0], 0)
        if kind is FrameType.S:
            if len(data) != 1 + CHECK_BYTES:
                raise MalformedHeaderError(f"a frame of type S has 3 bytes, not {len(data)}")
            return cls(Frame(kind, 0, own_v, has_z, b""), bytes(data))
        if len(data) < 2 + CHECK_BYTES:
            raise TruncatedError(f"the frame ends inside its header, after {len(data)} bytes")
        quality = _read_quality(data[1])
        return cls(Frame(kind, quality, own_v, has_z, bytes(data[2:-CHECK_BYTES])), bytes(data))

    def fits(self, key: bytes, number: int, reference: bytes | None) -> bool:
        """Whether the check holds for a session, a number, and a reference's digest."""
        body, check = self.data[:-CHECK_BYTES], self.data[-CHECK_BYTES:]
        return (reference is not None) == self.frame.needs_reference and check == _check(
            key, number, reference or b"", body
        )

    def reference_among(self, key: bytes, number: int, digests: Iterable[bytes]) -> bytes | None:
        """The digest for which the check holds; None if it holds for none of them, or by chance for several."""
        fitting = {digest for digest in digests if self.fits(key, number, digest)}
        return fitting.pop() if len(fitting) == 1 else None


@dataclass(frozen=True)
class Packet:
    """A frame by itself.

    fingerprint: 4 bytes. grid: h, w of the latent, or None for the bundle's own. reference: the first 8 bytes of the
    reference's digest, or None.
    """

    fingerprint: bytes
    frame: Frame
    grid: tuple[int, int] | None = None
    reference: bytes | None = None

    def pack(self) -> bytes:
        """Returns the packet's bytes. Raises StreamTooLargeError if the grid exceeds the format's limits."""
        frame = self.frame
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, not {len(self.fingerprint)}")
        if (self.reference is not None) != frame.needs_reference:
            raise ValueError(f"a frame {frame.name} and a reference do not go together, or it lacks one")
        if self.reference is not None and len(self.reference) != NAMED_BYTES:
            raise ValueError(f"a reference is named by {NAMED_BYTES} bytes, not {len(self.reference)}")
        body = bytearray([MAGIC_2]) + self.fingerprint
        body.append(frame.flags | _GRID * (self.grid is not None))
        body.append(frame.quality)
        if self.grid is not None:
            check_grid(*self.grid)
            body += varint(self.grid[0]) + varint(self.grid[1])
        body += (self.reference or b"") + frame.payload
        body += zlib.crc32(body).to_bytes(_CRC_BYTES, "little")
        return bytes(body)

    @classmethod
    def unpack(cls, data: bytes) -> Packet:
        """Parses a packet; allocates nothing larger than `data`.

        Raises NotABitstreamError, TruncatedError, StreamTooLargeError, ChecksumError or MalformedHeaderError.
        """
        if not data:
            raise TruncatedError("the bitstream is empty")
        if data[0] != MAGIC_2:
            raise NotABitstreamError(
                f"not an Isthmus bitstream: first byte is 0x{data[0]:02x}, expected 0x{MAGIC_2:02x}"
            )
        if len(data) > MAX_STREAM_BYTES:
            raise StreamTooLargeError(f"{len(data)} bytes; a bitstream has at most {MAX_STREAM_BYTES}")
        at = 1 + FINGERPRINT_BYTES + 2
        if len(data) < at + _CRC_BYTES:
            raise TruncatedError(f"the bitstream ends inside its header, after {len(data)} bytes")
        body, stored = data[:-_CRC_BYTES], int.from_bytes(data[-_CRC_BYTES:], "little")
        actual = zlib.crc32(body)
        if stored != actual:
            raise ChecksumError(
                f"the bitstream is damaged or cut short: its CRC-32 is {actual:08x}, not {stored:08x} as stored; "
                "send it again"
            )
        kind, own_v, has_z = _read_flags(body[at - 2], _GRID)
        quality = _read_quality(body[at - 1])
        grid = None
        if body[at - 2] & _GRID:
            h, at = read_varint(body, at, "h")
            w, at = read_varint(body, at, "w")
            check_grid(h, w)
            grid = h, w
        reference = None
        if kind is not FrameType.I or not own_v:
            if len(body) < at + NAMED_BYTES:
                raise TruncatedError("the bitstream ends inside the name of its reference")
            reference, at = bytes(body[at : at + NAMED_BYTES]), at + NAMED_BYTES
        if kind is FrameType.S and len(body) > at:
            raise MalformedHeaderError("a frame of type S has no payload")
        frame = Frame(kind, quality, own_v, has_z, bytes(body[at:]))
        return cls(bytes(data[1 : 1 + FINGERPRINT_BYTES]), frame, grid, reference)


def unpack_stream(data: bytes) -> Bitstream | Packet:
    """Parses one image's bytes by themselves, of either version. Raises BitstreamError or a subclass."""
    return Packet.unpack(data) if data[:1] == bytes([MAGIC_2]) else Bitstream.unpack(data)


def _read_flags(flags: int, more: int) -> tuple[FrameType, bool, bool]:
    """Type, own v and z. more: further bits that may be set. Raises MalformedHeaderError."""
    kind, own_v, has_z = flags & _TYPE, bool(flags & _OWN_V), bool(flags & _HAS_Z)
    if flags & ~(_TYPE | _OWN_V | _HAS_Z | more) or (kind, own_v, has_z) not in _VALID:
        raise MalformedHeaderError(f"no frame begins with 0x{flags:02x}")
    return FrameType(kind), own_v, has_z


def _read_quality(quality: int) -> int:
    if quality > 100:
        raise MalformedHeaderError(f"quality level {quality}; it is 0..100")
    return quality
