"""One segment, opened to read: its index in memory, its data in pieces. For one thread.

A record's id is its row in the index, from 1: the order of writing in each camera.
"""

from __future__ import annotations

import fnmatch
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.archive.deletion import Deletion
from cloud.archive.records import Record, bounds
from cloud.archive.schema import Clock
from cloud.segments.files import Files
from cloud.segments.segment import Facts, Name, check_index, damaged, facts_of
from shared.errors import DataError
from shared.times import from_microseconds

_BLOCK = 1 << 20
_BLOCKS = 4
_UNKNOWN = -(1 << 63)  # a capture time that is not known, in `captured_us`


class OpenSegment:
    """A segment's records, as an archive gives them; `has_chunks` and the rest: see `cloud.archive.chunks.ChunkSource`.

    Raises DataError where a file is damaged or away.
    """

    has_chunks = True

    def __init__(self, files: Files, name: Name) -> None:
        self.name, self._files = name, files
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.facts, table = _index(files, name)
        self._received, self._captured = _times(table, "received"), _times(table, "captured")
        self._offset, self._length = _numbers(table, "offset"), _numbers(table, "length")
        self._crc32 = _numbers(table, "crc32")
        self._bundle = table.column("bundle")
        self._request_ids = table.column("request_id")
        self._chunk = table.column("chunk")
        cameras = table.column("camera").combine_chunks().dictionary_encode()
        self._names: list[str] = cameras.dictionary.to_pylist()
        self._camera: NDArray[np.int32] = cameras.indices.to_numpy()
        self._of_camera: tuple[int, dict[str, list[int]]] = (-1, {})

    def read(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        camera: str | None = None,
        by: Clock = "captured",
    ) -> Iterator[Record]:
        """Records with since <= time < until by a clock, of one camera or of all: camera by camera, in the order of
        writing."""
        for row in self.rows(since, until, camera, by):
            yield self.record(int(row))

    def count(self, since: datetime | None, until: datetime | None, camera: str | None, by: Clock) -> int:
        """How many records `read` gives."""
        return len(self.rows(since, until, camera, by))

    def rows(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        camera: str | None = None,
        by: Clock = "captured",
    ) -> NDArray[np.int64]:
        """The rows that `read` gives."""
        times = self._times(by)
        from_us, until_us = bounds(since, until)
        wanted = (times >= from_us) & (times < until_us)
        if camera is not None:
            wanted &= self._camera == (self._names.index(camera) if camera in self._names else -1)
        return np.flatnonzero(wanted)

    def _times(self, by: Clock) -> NDArray[np.int64]:
        if by == "received":
            return self._received
        return np.where(self._captured == _UNKNOWN, self._received, self._captured)

    def whole_chunks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The given rows and all others of their chunks, as a mask."""
        groups = self._groups()
        return np.isin(groups, np.unique(groups[rows]))

    def last_received(self) -> NDArray[np.int64]:
        """Of each row when the last frame of its chunk was received, microseconds since 1970."""
        groups = self._groups()
        last = np.full(len(groups), _UNKNOWN)
        np.maximum.at(last, groups, self._received)
        return last[groups]

    def matching(self, deletion: Deletion) -> NDArray[np.bool_]:
        """The rows that a deletion takes, as a mask."""
        cameras = [i for i, name in enumerate(self._names) if fnmatch.fnmatchcase(name, deletion.camera)]
        times = self._times(deletion.by)
        return np.isin(self._camera, cameras) & (times >= deletion.since_us) & (times < deletion.until_us)

    def broken_without(self, taken: NDArray[np.bool_]) -> int:
        """How many rows outside a mask belong to a chunk that begins inside it."""
        groups = self._groups()
        return int((taken[groups] & ~taken).sum())

    def _groups(self) -> NDArray[np.int64]:
        """Of each row a number of its chunk, that of the first row that names it."""
        first: dict[tuple[int, str], int] = {}
        chunks, request_ids = self._chunk.to_pylist(), self._request_ids.to_pylist()
        cameras = self._camera.tolist()
        return np.array(
            [
                first.setdefault((camera, chunk or request_id), row)
                for row, (camera, chunk, request_id) in enumerate(
                    zip(cameras, chunks, request_ids, strict=True)
                )
            ],
            np.int64,
        )

    def record(self, row: int) -> Record:
        offset, length = int(self._offset[row]), int(self._length[row])
        data = b"".join(self._pieces(offset, offset + length))
        if len(data) != length:
            raise damaged(self._files, self.name.data, f"it ends before byte {offset + length}")
        captured = int(self._captured[row])
        return Record.stored(
            self._names[self._camera[row]],
            from_microseconds(int(self._received[row])),
            self._request_ids[row].as_py(),
            data,
            None if captured == _UNKNOWN else from_microseconds(captured),
            self._chunk[row].as_py() or "",
            row + 1,
        )

    def flaws(self) -> Iterator[str]:
        """What is wrong with the records' bytes, one text a record."""
        for row in range(self.facts.records):
            record = self.record(row)
            if zlib.crc32(record.encrypted or record.data) != self._crc32[row]:
                where = f"{self._files.shown}/{self.name.data}, from byte {int(self._offset[row])}"
                yield f"{where}: record {record.request_id} of camera {record.camera} is damaged"

    def unreadable(self) -> Iterator[str]:
        """The records that were no bitstreams when they were written, also to a segment before: one text a record."""
        for row in np.flatnonzero(self._bundle.is_null().to_numpy()):
            names = self._request_ids[int(row)].as_py(), self._names[self._camera[row]]
            where = f"{self._files.shown}/{self.name.data}, from byte {int(self._offset[row])}"
            yield f"{where}: record {names[0]} of camera {names[1]} was damaged before it was sealed or rewritten"

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The data from `start` to before `end`, by blocks, of which a few are held."""
        for number in range(start // _BLOCK, -(-end // _BLOCK)):
            first = number * _BLOCK
            if number not in self._blocks:
                self._blocks[number] = self._files.range(self.name.data, first, first + _BLOCK)
            self._blocks.move_to_end(number)
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
            yield self._blocks[number][max(0, start - first) : end - first]

    def begins_chunk(self, record: Record) -> bool:
        """Whether other records come from this one."""
        return record.request_id in self._chunks(record)

    def earlier_in_chunk(self, record: Record, after: int) -> Iterator[Record]:
        """See `cloud.archive.records.earlier_in_chunk`."""
        for row in self._chunks(record).get(record.chunk, ()):
            if after < row + 1 < record.id:
                yield self.record(row)

    def record_of(self, id_: int) -> Record | None:
        """See `cloud.archive.records.record_of`."""
        return self.record(id_ - 1) if 1 <= id_ <= self.facts.records else None

    def _chunks(self, record: Record) -> dict[str, list[int]]:
        """The rows of each chunk of a record's camera, the one it begins with first. Held for one camera at a time."""
        camera = int(self._camera[record.id - 1])
        if self._of_camera[0] != camera:
            rows = np.flatnonzero(self._camera == camera)
            chunks: dict[str, list[int]] = {}
            first, last = int(rows[0]), int(rows[-1]) + 1
            for row, chunk in enumerate(self._chunk[first:last].to_pylist(), first):
                if chunk is not None:
                    chunks.setdefault(chunk, []).append(row)
            for row, request_id in enumerate(self._request_ids[first:last].to_pylist(), first):
                if request_id in chunks:
                    chunks[request_id].insert(0, row)
            self._of_camera = camera, chunks
        return self._of_camera[1]


def _index(files: Files, name: Name) -> tuple[Facts, Any]:
    """What an index says of its segment, and its rows. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = files.read(name.index)
    check_index(files, name, data)
    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise damaged(files, name.index, str(error)) from None
    facts = facts_of(table.schema.metadata, name, files)
    if table.num_rows != facts.records:
        raise DataError(f"{files.shown}/{name.index} has {table.num_rows} rows, not {facts.records}")
    return facts, table


def _numbers(table: Any, column: str) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = table.column(column).to_numpy().astype(np.int64)
    return numbers


def _times(table: Any, column: str) -> NDArray[np.int64]:
    """Microseconds since 1970; `_UNKNOWN` for null, which is what NumPy's "not a time" is as an integer."""
    times: NDArray[np.int64] = table.column(column).to_numpy().astype("datetime64[us]").astype(np.int64)
    return times
