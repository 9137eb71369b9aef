"""A segment: records of an archive in two files that are written once. Knows no store and no time span.

    NAME.data                  the records' bytes, one after the other
    NAME.<digest>.parquet      the index, one row a record, in the order of the bytes; written after the data

<digest> is the beginning of the SHA-256 of the index, and the index holds the SHA-256 of the data and the CRC-32 of
each record: a flipped bit is found wherever it is. A segment without its index does not exist.

NAME is <first reception>-<random>-<generation>: a segment of which records are deleted is written again with the next
generation, and of one name only the last generation counts.

The index:

    camera      string
    captured    timestamp, UTC; null where it is unknown
    received    timestamp, UTC
    request_id  string
    bundle      fingerprint in the bitstream, 8 hex digits
    level       quality, 0 to 100
    frame       I, I base, I refinement, P or S
    chunk       request id of the frame I at the root of this frame's references; null: it needs none
    offset      first byte in the data
    length      bytes
    crc32       of those bytes

Rows are sorted by camera, and in a camera by the order of writing. A chunk is never divided: each frame P or S stands
after the frame I that it comes from, so a segment is replayed without any other.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from cloud.archive.records import Record
from cloud.archive.schema import Clock
from cloud.segments.files import Files
from shared.codec.frame import Packet, unpack_stream
from shared.errors import BitstreamError, DataError
from shared.times import to_microseconds

VERSION = 1
DATA_BYTES_MAX = 64 << 20
RECORDS_MAX = 200_000  # of one segment; an index of so many is held in memory
_KEY = b"isthmus.segment"
_TAIL = 32 << 10  # of an index: more than its footer
_DIGEST = 32  # hex digits in the index's name
_NAME = re.compile(r"(\d{8}T\d{6}Z-[0-9a-f]{12})-(\d{1,6})", re.ASCII)
_INDEX = re.compile(rf"({_NAME.pattern})\.([0-9a-f]{{{_DIGEST}}})\.parquet", re.ASCII)


@dataclass(frozen=True)
class Facts:
    """What an index says of its segment. Spans: first and last, microseconds since 1970; by reception where the capture
    time is unknown."""

    records: int
    data_bytes: int
    data_sha256: str
    captured_us: tuple[int, int]
    received_us: tuple[int, int]
    cameras: int
    version: int = VERSION

    def span_us(self, by: Clock) -> tuple[int, int]:
        return self.captured_us if by == "captured" else self.received_us


@dataclass(frozen=True, order=True)
class Name:
    """base: what all generations share. digest: of the index; empty before it is written."""

    base: str
    generation: int = 0
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.base}-{self.generation}"

    @property
    def data(self) -> str:
        return f"{self}.data"

    @property
    def index(self) -> str:
        return f"{self}.{self.digest}.parquet"

    @property
    def next(self) -> Name:
        return Name(self.base, self.generation + 1)

    @classmethod
    def new(cls, first: Record) -> Name:
        return cls(f"{first.received_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(6)}")

    @classmethod
    def of_text(cls, text: str) -> Name | None:
        """The name in a manifest or before `.data`; None for anything else."""
        found = _NAME.fullmatch(text)
        return cls(found[1], int(found[2])) if found else None

    @staticmethod
    def of_unfinished(file: str) -> bool:
        """Whether a file is what `write_atomically` leaves of a segment's where it is killed."""
        return re.match(rf"\.{_NAME.pattern}\.", file, re.ASCII) is not None

    @classmethod
    def of_index(cls, file: str) -> Name | None:
        """The name in a file's name; None for other files."""
        found = _INDEX.fullmatch(file)
        return cls(found[2], int(found[3]), found[4]) if found else None


def write_segment(files: Files, name: Name, records: Iterable[Record]) -> Name:
    """Writes both files. records: sorted by camera, in each as they were written; at least one, and no more than fit
    (DATA_BYTES_MAX, RECORDS_MAX). Returns the name with its digest.

    Raises DataError.
    """
    data, columns, spans = bytearray(), _Columns(), _Spans()
    for record in records:
        columns.add(record, len(data))
        spans.add(record)
        data += record.encrypted or record.data
    facts = Facts(
        len(columns),
        len(data),
        hashlib.sha256(data).hexdigest(),
        spans.captured,
        spans.received,
        columns.cameras,
    )
    index = columns.packed(facts)
    name = replace(name, digest=hashlib.sha256(index).hexdigest()[:_DIGEST])
    files.write(name.data, bytes(data))
    files.write(name.index, index)
    return name


def remove_segment(files: Files, name: Name) -> None:
    """Removes both files, the index first. Raises DataError."""
    files.remove(name.index)
    files.remove(name.data)


def read_facts(files: Files, name: Name) -> Facts:
    """Of the index's last bytes alone. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = files.size(name.index)
    tail = files.range(name.index, max(0, size - _TAIL), size)
    if len(tail) >= 8 and (footer := int.from_bytes(tail[-8:-4], "little") + 8) > len(tail):
        tail = files.range(name.index, max(0, size - footer), size)
    try:
        return facts_of(pq.read_metadata(pa.BufferReader(tail)).metadata, name, files)
    except pa.ArrowException as error:
        raise damaged(files, name.index, str(error)) from None


def facts_of(metadata: dict[bytes, bytes] | None, name: Name, files: Files) -> Facts:
    """Raises DataError where an index says nothing of a segment, or is of a later release."""
    try:
        fields = json.loads((metadata or {})[_KEY])
        if fields["version"] > VERSION:
            raise DataError(f"{files.shown}/{name.index} is of a later release (version {fields['version']})")
        return Facts(**{**fields, **{key: tuple(fields[key]) for key in ("captured_us", "received_us")}})
    except (KeyError, TypeError, ValueError):
        raise damaged(files, name.index, "it does not describe a segment") from None


def check_index(files: Files, name: Name, data: bytes) -> None:
    """Raises DataError where an index is not the one that was written."""
    if hashlib.sha256(data).hexdigest()[:_DIGEST] != name.digest:
        raise damaged(files, name.index, "its SHA-256 is not the one in its name")


def damaged(files: Files, file: str, why: str) -> DataError:
    return DataError(f"{files.shown}/{file} is damaged: {why}; restore it from a copy")


class _Spans:
    """The first and the last time of each clock."""

    def __init__(self) -> None:
        self.captured = self.received = (1 << 62, -(1 << 62))

    def add(self, record: Record) -> None:
        self.captured = _wider(self.captured, to_microseconds(record.time("captured")))
        self.received = _wider(self.received, to_microseconds(record.received_at))


def _wider(span: tuple[int, int], at_us: int) -> tuple[int, int]:
    return min(span[0], at_us), max(span[1], at_us)


class _Columns:
    """The columns of an index that is being made."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Any]] = {field: [] for field, _ in _schema()}
        self._cameras: set[str] = set()

    def __len__(self) -> int:
        return len(self._rows["offset"])

    @property
    def cameras(self) -> int:
        return len(self._cameras)

    def add(self, record: Record, offset: int) -> None:
        bundle, level, frame = described(record.data)
        stored = record.encrypted or record.data
        self._cameras.add(record.camera)
        captured = None if record.captured_at is None else to_microseconds(record.captured_at)
        row = (
            record.camera,
            captured,
            to_microseconds(record.received_at),
            record.request_id,
            bundle,
            level,
            frame,
            record.chunk or None,
            offset,
            len(stored),
            zlib.crc32(stored),
        )
        for column, value in zip(self._rows.values(), row, strict=True):
            column.append(value)

    def packed(self, facts: Facts) -> bytes:
        """The index's bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = [pa.array(self._rows[field], type_) for field, type_ in _schema()]
        metadata = {_KEY: json.dumps(asdict(facts)).encode()}
        table = pa.table(arrays, schema=pa.schema(_schema(), metadata))
        sink = pa.BufferOutputStream()
        # Row groups of one camera or few: a reader of one camera skips the others.
        pq.write_table(table, sink, compression="zstd", row_group_size=16_384, write_page_checksum=True)
        return bytes(sink.getvalue())


def _schema() -> list[tuple[str, Any]]:
    import pyarrow as pa

    moment, text = pa.timestamp("us", "UTC"), pa.string()
    return [
        ("camera", text),
        ("captured", moment),
        ("received", moment),
        ("request_id", text),
        ("bundle", text),
        ("level", pa.int16()),
        ("frame", text),
        ("chunk", text),
        ("offset", pa.int64()),
        ("length", pa.int32()),
        ("crc32", pa.int64()),
    ]


def described(data: bytes) -> tuple[str | None, int | None, str | None]:
    """Fingerprint, quality and frame type of a bitstream; three times None for what is none."""
    try:
        stream = unpack_stream(data)
    except BitstreamError:
        return None, None, None
    if isinstance(stream, Packet):
        return stream.fingerprint.hex(), stream.frame.quality, stream.frame.name
    return stream.fingerprint.hex(), stream.quality, "I"
