"""Records with what is needed to answer them: frames that need others are decoded here. Knows no answers.

    record of a frame by itself, that no other needs  -> as it is: a batch decodes it later
    record of any other frame                         -> its latent

The records of a chunk are decoded in the order in which they were written, also those that nobody asks for: the frames
before a replay's first moment. Of each chunk the few latents that were used last are held, as a server holds them; of
the others it is known which record they come from. Each frame needs one other at most, so such a latent can be decoded
again along the line of those that it needs.

Memory is bounded: a few latents of each chunk, and of all chunks together. A chunk that gave way to others is decoded
anew when it is needed. Records of a chunk that are asked for in another order than they were written in (a camera's
clock was set back) cost as much again as the line of each is long.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from cloud.archive.encryption import is_encrypted
from cloud.archive.frames import FrameReader, Known, References, missing_reference
from cloud.archive.records import Record
from shared.codec.bitstream import Bitstream
from shared.codec.frame import NAMED_BYTES, FrameType, Packet
from shared.codec.frame_codec import Coded, Latent
from shared.errors import ChecksumError, IsthmusError

LATENTS = 16  # of a chunk; a server keeps 8 of a session
NAMES = 100_000  # latents of a chunk of which it is known where they come from
CHUNK_BYTES_MAX = 64 << 20
BYTES_MAX = 256 << 20
CHUNKS_MAX = 1024
_NAME_BYTES = 256

Content = Bitstream | Coded | Known


@dataclass(frozen=True, eq=False)
class Opened:
    """A record, and what it says or why that is unknown. frame: its type, for people; empty if it cannot be read."""

    record: Record
    content: Content | IsthmusError
    frame: str = ""


@dataclass(frozen=True)
class _Origin:
    """Where a latent comes from. id: of the record. needs: the name of the latent that this record needs, if any.

    digest: of the latent; None if two latents of a chunk have this name, so that it stands for neither.
    """

    id: int
    needs: bytes | None
    digest: bytes | None


@dataclass(eq=False)
class _Chunk:
    """latents: those used last. upto: id of the last record that was decoded, in order. origins: of every latent."""

    latents: References = field(default_factory=lambda: References(LATENTS, CHUNK_BYTES_MAX))
    upto: int = 0
    origins: dict[bytes, _Origin] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """About the memory that it takes."""
        return self.latents.bytes + _NAME_BYTES * len(self.origins)


class ChunkSource(Protocol):
    """Where the other records of a chunk are found: `cloud.archive.records.Head`, or a segment.

    has_chunks: False for an archive of an older release, which does not know them.
    """

    @property
    def has_chunks(self) -> bool: ...

    def begins_chunk(self, record: Record) -> bool:
        """Whether other records refer to this one, or to one that does."""
        ...

    def earlier_in_chunk(self, record: Record, after: int) -> Iterator[Record]:
        """The records of a record's chunk that were written before it and after the id `after`, in that order, the one
        that the chunk begins with first."""
        ...

    def record_of(self, id_: int) -> Record | None:
        """The record of that id, if there is one."""
        ...


class Chunks:
    """The chunks that are being read. For one thread. bytes_max: of all latents held, roughly."""

    def __init__(self, source: ChunkSource, reader: FrameReader, bytes_max: int = BYTES_MAX) -> None:
        self._source, self._reader, self._bytes_max = source, reader, bytes_max
        self._has_chunks = source.has_chunks
        self._chunks: OrderedDict[tuple[str, str], _Chunk] = OrderedDict()
        self.decoded = 0  # how many frames, those included that nobody asked for

    def open(self, records: Iterable[Record]) -> Iterator[Opened]:
        """Each record, in the given order. Raises DataError or sqlite3.Error where the source cannot be read."""
        for record in records:
            frame = ""
            content: Content | IsthmusError
            try:
                if is_encrypted(record.data):
                    raise ChecksumError("the record is damaged: it does not decrypt")
                stream = self._reader.read(record.data)
                frame = stream.frame.name if isinstance(stream, Packet) else FrameType.I.name
                content = self._content(record, stream)
            except IsthmusError as error:
                # Its traceback would hold this frame, and with it the database, for as long as the answer lives.
                content = error.with_traceback(None)
            yield Opened(record, content, frame)

    def _content(self, record: Record, stream: Bitstream | Packet) -> Content:
        """Raises IsthmusError."""
        if isinstance(stream, Bitstream):
            return stream
        if not stream.frame.needs_reference and not (self._has_chunks and self._source.begins_chunk(record)):
            return Coded.of(stream.frame, self._reader.grid_of(stream))
        if not self._has_chunks:
            raise missing_reference(stream.frame, "known to an archive of an older release")
        name = record.camera, record.chunk or record.request_id
        chunk = self._chunks.setdefault(name, _Chunk())
        self._chunks.move_to_end(name)
        try:
            in_order = record.id > chunk.upto
            if in_order:
                self._catch_up(chunk, record)
            return self._known(chunk, record, stream, in_order)
        finally:
            self._shrink()

    def _catch_up(self, chunk: _Chunk, record: Record) -> None:
        """Decodes what was written before a record and was not asked for."""
        for earlier in self._source.earlier_in_chunk(record, chunk.upto):
            try:
                stream = self._reader.read(earlier.data)
                if isinstance(stream, Packet):
                    self._known(chunk, earlier, stream, in_order=True)
            except IsthmusError:
                continue  # those that need it will say so
        chunk.upto = record.id

    def _known(self, chunk: _Chunk, record: Record, packet: Packet, in_order: bool) -> Known:
        """A record's latent. in_order: whether it is the next of its chunk, so that its latent is held for others.

        Raises IsthmusError.
        """
        reference = None
        if packet.reference is not None:
            reference = self._reference(chunk, record, packet.reference, in_order)
            if reference is None:
                where = record.chunk or "unknown"
                raise missing_reference(
                    packet.frame, f"in the archive (chunk {where}); it was deleted, damaged or not kept"
                )
        latent = self._latent(packet, None if reference is None else reference.latent)
        if reference is not None and latent is reference.latent:
            return reference
        if not in_order:
            return chunk.latents.known(latent)
        name = latent.digest[:NAMED_BYTES]
        origin = chunk.origins.get(name)
        if origin is not None and origin.digest != latent.digest:
            chunk.origins[name] = replace(origin, digest=None)
        elif origin is None and len(chunk.origins) < NAMES:
            chunk.origins[name] = _Origin(record.id, packet.reference, latent.digest)
        return chunk.latents.add(latent)

    def _latent(self, packet: Packet, reference: Latent | None) -> Latent:
        """Raises IsthmusError."""
        self.decoded += packet.frame.type is not FrameType.S
        return self._reader.latent(packet.frame, self._reader.grid_of(packet), reference)

    def _reference(self, chunk: _Chunk, record: Record, name: bytes, in_order: bool) -> Known | None:
        """The latent of that name, which a record needs; None if it comes from no record before this one, or if two
        latents of the chunk have the name."""
        origin = chunk.origins.get(name)
        if origin is not None and origin.digest is None:
            return None
        held = chunk.latents.find(name, use=in_order)
        if held is not None:
            return held
        line: list[_Origin] = []
        wanted: bytes | None = name
        while held is None and wanted is not None:
            origin = chunk.origins.get(wanted)
            if origin is None or origin.id >= (line[-1].id if line else record.id):
                return None
            line.append(origin)
            wanted = origin.needs
            held = None if wanted is None else chunk.latents.find(wanted, use=False)
        latent = None if held is None else held.latent
        for origin in reversed(line):
            found = self._source.record_of(origin.id)
            stream = None if found is None else self._reader.read(found.data)
            if not isinstance(stream, Packet):
                return None  # deleted meanwhile
            latent = self._latent(stream, latent)
        assert latent is not None  # the line has one record at least
        if latent.digest != line[0].digest:
            return None  # another record has taken an id of the line
        return chunk.latents.add(latent) if in_order else Known(latent)

    def _shrink(self) -> None:
        """Drops the chunks that were not used for longest."""
        while len(self._chunks) > 1 and (
            len(self._chunks) > CHUNKS_MAX
            or sum(chunk.bytes for chunk in self._chunks.values()) > self._bytes_max
        ):
            self._chunks.popitem(last=False)
