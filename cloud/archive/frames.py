"""Reads bitstreams of both versions, and decodes frames that need others. Knows no database and no answers.

    bytes -> Bitstream (version 1), or Packet (version 2), checked against the bundle
          -> a frame by itself: what a batch decodes (`cloud.engine.batch_work`)
          -> a frame that needs another: its latent, decoded here from the reference, in the order of coding

A packet names its reference by the first bytes of its digest. `References` holds the latents that may be meant.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cloud.requests import check_grid, own_grid
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.frame import NAMED_BYTES, Frame, FrameType, Packet, unpack_stream
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.errors import (
    BundleMismatchError,
    CorruptPayloadError,
    MalformedHeaderError,
    MissingReferenceError,
)

_ENTRY_BYTES = 1024  # of a latent in memory, without its integers


@dataclass(eq=False)
class Known:
    """A decoded latent. answer: what it was answered with, for whoever answers; None until then."""

    latent: Latent
    answer: Any = None

    @property
    def bytes(self) -> int:
        """About the memory that it takes, without the answer."""
        z = self.latent.z
        return _ENTRY_BYTES + self.latent.v.nbytes + (0 if z is None else z.nbytes)


class References:
    """Latents by their digests, at most `count_max` of them and about `bytes_max`; the least recently used go first."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max, self._bytes_max = count_max, bytes_max
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Known]:
        """The most recently used first."""
        return iter(list(reversed(self._known.values())))

    def add(self, latent: Latent) -> Known:
        """The entry of a latent, which is now the most recently used. Holds it, unless it is larger by itself."""
        name = latent.digest[:NAMED_BYTES]
        known = self._known.get(name)
        if known is None or known.latent.digest != latent.digest:
            self._drop(name)
            known = self._known[name] = Known(latent)
            self.bytes += known.bytes
        self._known.move_to_end(name)
        while len(self._known) > self._count_max or self.bytes > self._bytes_max:
            self._drop(next(iter(self._known)))
        return known

    def find(self, name: bytes, use: bool = True) -> Known | None:
        """The latent whose digest begins so. use: whether this counts as its use."""
        known = self._known.get(name[:NAMED_BYTES])
        if known is not None and use:
            self._known.move_to_end(name[:NAMED_BYTES])
        return known

    def known(self, latent: Latent) -> Known:
        """The entry of a latent, which is not held if it is not held yet, and this does not count as its use."""
        known = self._known.get(latent.digest[:NAMED_BYTES])
        return known if known is not None and known.latent.digest == latent.digest else Known(latent)

    def _drop(self, name: bytes) -> None:
        known = self._known.pop(name, None)
        self.bytes -= 0 if known is None else known.bytes


class FrameReader:
    """Reads and decodes what was made with one bundle. cells_max: of a latent grid; the bundle's own is always read."""

    def __init__(self, bundle: Bundle, codec: LatentCodec, cells_max: int) -> None:
        self._bundle, self._codec, self._cells_max = bundle, codec, cells_max
        self.codec = FrameCodec(codec)

    def read(self, data: bytes) -> Bitstream | Packet:
        """Parses the bytes and checks what needs no reference.

        Raises BitstreamError or a subclass, BundleMismatchError, or RequestError.
        """
        stream = unpack_stream(data)
        if isinstance(stream, Packet):
            quality, grid = stream.frame.quality, self.grid_of(stream)
        else:
            quality, grid = stream.quality, (stream.h, stream.w)
        if stream.fingerprint != self._bundle.fingerprint:
            raise BundleMismatchError(stream.fingerprint.hex(), self._bundle.fingerprint.hex())
        self._bundle.quality(quality)
        check_grid(grid, self._bundle, self._cells_max)
        return stream

    def grid_of(self, packet: Packet) -> tuple[int, int]:
        """h, w of a packet's latent."""
        return packet.grid or own_grid(self._bundle)

    def latent(self, frame: Frame, grid: tuple[int, int], reference: Latent | None) -> Latent:
        """What a frame says. reference: the one that it needs, if any.

        Raises MalformedHeaderError where the two do not go together, CorruptPayloadError, or RequestError.
        """
        if reference is not None:
            _check_reference(frame, grid, reference)
            if frame.type is FrameType.S:
                return reference
        (latent,) = self.codec.decode([Coded.of(frame, grid, reference)])
        if isinstance(latent, CorruptPayloadError):
            raise latent
        return latent

    def latent_of(self, stream: Bitstream) -> Latent:
        """What a bitstream of version 1 says. Raises CorruptPayloadError."""
        codec, grid = self._codec, (stream.h, stream.w)
        v = codec.decode_v(stream.b_v, stream.quality)
        return Latent(v, codec.decode(stream.b_v, stream.b_z, *grid, stream.quality), grid, stream.quality)


def missing_reference(frame: Frame, where: str) -> MissingReferenceError:
    """where: where it was looked for, and what may have become of it."""
    return MissingReferenceError(f"this frame {frame.name} needs another frame, which is not {where}")


def _check_reference(frame: Frame, grid: tuple[int, int], reference: Latent) -> None:
    """Raises MalformedHeaderError."""
    if (frame.quality, grid) != (reference.quality, reference.grid):
        raise MalformedHeaderError(
            f"a frame {frame.name} of quality {frame.quality} on a grid of {grid[0]} x {grid[1]} names a frame of "
            f"quality {reference.quality} on {reference.grid[0]} x {reference.grid[1]}"
        )
    if frame.type is FrameType.P and reference.z is None:
        raise MalformedHeaderError("a frame P names one of which only the base is known")
