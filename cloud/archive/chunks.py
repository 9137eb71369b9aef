"""Records with what is needed to answer them: frames that need others are decoded here. Knows no answers.

    record of a frame by itself, that no other needs  -> as it is: a batch decodes it later
    record of any other frame                         -> its latent

The records of a chunk are decoded in the order in which they were written, whatever order they are asked for in, and
also those that nobody asks for: the frames before a replay's first moment. In this order the few latents that are held
of each chunk, the most recently used, are those that the server held, and more: whatever it could refer to is there.

Memory is bounded: a few latents of each chunk, and of all chunks together. A chunk that gave way to others is decoded
anew when it is needed; so is one whose records are asked for in another order than they were written in.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cloud.archive.frames import FrameReader, Known, References, coded_of, missing_reference
from cloud.archive.records import Record, begins_chunk, earlier_in_chunk
from shared.codec.bitstream import Bitstream
from shared.codec.frame import Packet
from shared.codec.frame_codec import Coded
from shared.errors import IsthmusError

LATENTS = 16  # of a chunk; a server keeps 8 of a session
CHUNK_BYTES_MAX = 64 << 20
BYTES_MAX = 256 << 20
CHUNKS_MAX = 1024

Content = Bitstream | Coded | Known


@dataclass(frozen=True, eq=False)
class Opened:
    """A record, and what it says or why that is unknown."""

    record: Record
    content: Content | IsthmusError


@dataclass(eq=False)
class _Chunk:
    """latents: of its last frames. upto: id of the last record that was decoded, in order."""

    latents: References = field(default_factory=lambda: References(LATENTS, CHUNK_BYTES_MAX))
    upto: int = 0


class Chunks:
    """The chunks that are being read. For one thread.

    db: an archive, open to read. bytes_max: of all latents held, roughly.
    """

    def __init__(self, db: sqlite3.Connection, reader: FrameReader, bytes_max: int = BYTES_MAX) -> None:
        self._db, self._reader, self._bytes_max = db, reader, bytes_max
        self._chunks: OrderedDict[tuple[str, str], _Chunk] = OrderedDict()
        self.decoded = 0  # how many frames, those included that nobody asked for

    @property
    def bytes(self) -> int:
        """About the memory that the latents take."""
        return sum(chunk.latents.bytes for chunk in self._chunks.values())

    def open(self, records: Iterable[Record]) -> Iterator[Opened]:
        """Each record, in the given order. Raises sqlite3.Error."""
        for record in records:
            yield Opened(record, self._opened(record))

    def _opened(self, record: Record) -> Content | IsthmusError:
        try:
            stream = self._reader.read(record.data)
            if isinstance(stream, Bitstream):
                return stream
            if not stream.frame.needs_reference and not begins_chunk(self._db, record):
                return coded_of(stream.frame, self._reader.grid_of(stream))
            return self._in_chunk(record, stream)
        except IsthmusError as error:
            return error

    def _in_chunk(self, record: Record, packet: Packet) -> Known:
        """Raises IsthmusError."""
        name = record.camera, record.chunk or record.request_id
        chunk = self._chunks.setdefault(name, _Chunk())
        self._chunks.move_to_end(name)
        try:
            if record.id > chunk.upto:
                return self._next(chunk, record, packet)
            try:
                return self._known(chunk, record, packet, in_order=False)
            except IsthmusError:
                # Its reference gave way to later ones: from the beginning again.
                chunk = self._chunks[name] = _Chunk()
                return self._next(chunk, record, packet)
        finally:
            self._shrink()

    def _next(self, chunk: _Chunk, record: Record, packet: Packet) -> Known:
        """The next record that is asked for, after those before it that are not."""
        for earlier in earlier_in_chunk(self._db, record, chunk.upto):
            chunk.upto = earlier.id
            try:
                stream = self._reader.read(earlier.data)
                if isinstance(stream, Packet):
                    self._known(chunk, earlier, stream, in_order=True)
            except IsthmusError:
                continue  # those that need it will say so
        chunk.upto = record.id
        return self._known(chunk, record, packet, in_order=True)

    def _known(self, chunk: _Chunk, record: Record, packet: Packet, in_order: bool) -> Known:
        """in_order: whether this is the next record of its chunk, so that it counts as one that others may need."""
        reference = None
        if packet.reference is not None:
            reference = chunk.latents.find(packet.reference, use=in_order)
            if reference is None:
                raise missing_reference(
                    packet.frame,
                    f"in the archive (chunk {record.chunk or 'unknown'}); it was deleted, damaged or not kept",
                )
        latent = self._reader.latent(
            packet.frame, self._reader.grid_of(packet), None if reference is None else reference.latent
        )
        if reference is not None and latent is reference.latent:
            return reference
        self.decoded += 1
        return chunk.latents.add(latent) if in_order else chunk.latents.known(latent)

    def _shrink(self) -> None:
        """Drops the chunks that were not used for longest."""
        while len(self._chunks) > 1 and (len(self._chunks) > CHUNKS_MAX or self.bytes > self._bytes_max):
            self._chunks.popitem(last=False)
