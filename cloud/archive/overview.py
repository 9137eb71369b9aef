"""Looks over an archive for people: how much of which camera when, and a camera's newest records. Only reads.

Each query is short, so that a server that writes meanwhile can empty its log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloud.archive.encryption import MAGIC, OVERHEAD, decrypt
from cloud.archive.records import Record, reading, record_of
from cloud.archive.schema import CHUNKS_SINCE, columns_of, pragma
from shared.errors import DataError
from shared.times import from_microseconds, to_microseconds

_STEP = timedelta(hours=1)


@dataclass(frozen=True)
class Slot:
    """What a camera sent in one slot of time.

    size: bytes of its bitstreams. last_at: when the last of them was received. head: the first bytes of that one.
    """

    camera: str
    records: int
    size: int
    last_at: datetime
    head: bytes


def slots(path: Path, since: datetime, until: datetime, slot_s: int) -> Iterator[Slot]:
    """Records received in since <= time < until, by camera and by slots of `slot_s` since 1970. Raises DataError."""
    with reading(path) as db:
        received = columns_of(db, path).received
        # SQLite takes a bare column beside max() from the row that has the maximum.
        query = f"""SELECT camera, count(*), total(length(data)), total(substr(data, 1, 2) = ?),
                           max({received}), request_id, data FROM records
                    WHERE {received} >= ? AND {received} < ? GROUP BY camera, {received} / ?"""
        start = since
        while start < until:
            end = min(start + _STEP, until)
            values = MAGIC, to_microseconds(start), to_microseconds(end), slot_s * 1_000_000
            found = db.execute(query, values).fetchall()
            for camera, records, size, encrypted, last_us, request_id, data in found:
                head = decrypt(bytes(data), camera, request_id, last_us)[:8]
                plain = int(size - encrypted * OVERHEAD)
                yield Slot(camera, records, plain, from_microseconds(last_us), head)
            start = end


def last_day(path: Path, slot_s: int = 900) -> list[Slot]:
    """What was received in the last 24 hours, in order of time. Raises DataError."""
    now = datetime.now(UTC)
    return sorted(slots(path, now - timedelta(days=1), now, slot_s), key=lambda slot: slot.last_at)


def newest(path: Path, camera: str, limit: int, before: int | None = None) -> list[Record]:
    """A camera's records, those written last first. before: only those written before the record of this id.

    Raises DataError, also for an archive of an older schema.
    """
    with reading(path) as db:
        _check_schema(pragma(db, "user_version"), path)
        # The index of cameras and request ids: a search by time would read all cameras to find a rare one.
        query = """SELECT id FROM records INDEXED BY records_once
                   WHERE camera = ? AND id < ? ORDER BY id DESC LIMIT ?"""
        ids = db.execute(query, (camera, 1 << 62 if before is None else before, limit)).fetchall()
        found = (record_of(db, id_) for (id_,) in ids)
        return [record for record in found if record is not None]


def one_record(path: Path, id_: int) -> Record | None:
    """The record of that id, if there is one. Raises DataError."""
    with reading(path) as db:
        _check_schema(pragma(db, "user_version"), path)
        return record_of(db, id_)


def _check_schema(found: int, path: Path) -> None:
    if found < CHUNKS_SINCE:
        raise DataError(
            f"{path} is an archive of an older release; a server that writes to it brings it up to date"
        )
