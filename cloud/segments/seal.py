"""Seals an archive's older records into segments, and takes them out of its database. See `cloud.segments.head`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cloud.archive.records import Record, record_of
from cloud.segments import head
from cloud.segments.segment import DATA_BYTES_MAX, RECORDS_MAX, Name, write_segment
from cloud.segments.store import SegmentStore
from shared.errors import DataError, RequestError
from shared.times import to_microseconds

_KEYS = 1000  # rows that a query takes at once


class StoreAwayError(DataError):
    """The store into which a killed command was sealing cannot be reached now."""


@dataclass
class Sealed:
    """How much was sealed."""

    segments: int = 0
    records: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Limits:
    """Of one segment; a chunk that is larger by itself has a segment of its own."""

    bytes: int = DATA_BYTES_MAX
    records: int = RECORDS_MAX


def seal_archive(
    archive: Path, before: datetime, store: str | None = None, limits: Limits | None = None
) -> Sealed:
    """Moves records that were received before a time into segments: whole chunks, of which no frame came later.

    store: where to, see `cloud.segments.files.Files`; the archive's own folder by default. A server may write
    meanwhile. What a killed command left is finished first. Raises DataError.
    """
    place = _place(archive, store)
    with head.change_lock(archive), head.move_lock(archive), head.writing(archive) as db:
        recover(db, archive)
        segments, sealed = _store(archive, place), Sealed()
        with segments.lock():
            segments.tidy()
            chooser = _Chooser(db, to_microseconds(before), limits or Limits())
            while chosen := chooser.next():
                _seal(db, segments, place, chosen, sealed)
        return sealed


def _place(archive: Path, store: str | None) -> str:
    """How the database names a store: empty for the archive's own folder, which may be moved with it."""
    if store is None or "://" in store:
        return store or ""
    place = Path(store).absolute()
    return "" if place == (archive / head.FOLDER).absolute() else str(place)


def _store(archive: Path, place: str) -> SegmentStore:
    return SegmentStore(place or archive / head.FOLDER)


def keep_from_sealing(path: Path, locked: ExitStack, away: list[str] | None = None) -> bool:
    """Finishes what a killed sealing left, and lets nobody seal or delete from an archive until `locked` ends.

    away: gets the reason where the store of that sealing cannot be reached, in place of an error: its records are still
    in the database. False: nobody has sealed it so far, and somebody may begin. Raises DataError.
    """
    if not (path / head.LOCK).exists():
        return False
    locked.enter_context(head.change_lock(path))
    with head.writing(path) as db:
        if head.pending(db) is not None:
            with head.move_lock(path):
                try:
                    recover(db, path)
                except StoreAwayError as error:
                    if away is None:
                        raise
                    away.append(str(error))
    return True


def recover(db: sqlite3.Connection, archive: Path) -> None:
    """Finishes what a killed command left, or gives it up where its segment was not written whole.

    Raises StoreAwayError or another DataError.
    """
    found = head.pending(db)
    if found is None:
        return
    if not found.written:
        try:
            written = _is_written(_store(archive, found.store), found.name)
        except (DataError, RequestError) as error:
            raise StoreAwayError(f"{error}; a sealing into it was killed, and is to be finished") from None
        if not written:
            head.give_up(db)
            return
        head.set_written(db)
    head.finish(db)


def _is_written(store: SegmentStore, segment: str) -> bool:
    """Whether a segment is there and whole; otherwise what there is of it is removed. Raises DataError."""
    folder = store.files.folder
    if folder is not None and not folder.is_dir():  # which would look like a store without segments
        raise DataError(f"{store.files.shown} is not there")
    name = next((name for name in store.names() if str(name) == segment), None)
    if name is not None and _whole(store, name):
        return True
    unfinished = Name.of_text(segment)
    if unfinished is not None:
        store.files.remove(unfinished.data)
    if name is not None:
        store.remove(name)
    return False


def _whole(store: SegmentStore, name: Name) -> bool:
    try:
        return not any(store.open(name).flaws())
    except DataError:
        return False


@dataclass(frozen=True, order=True)
class _Chosen:
    """A record to seal. Sorts as in a segment."""

    camera: str
    id: int
    request_id: str
    size: int


def _seal(
    db: sqlite3.Connection, store: SegmentStore, place: str, chosen: list[_Chosen], sealed: Sealed
) -> None:
    """Seals what is still there of what was chosen. sealed: is counted up."""
    first = next(
        (record for one in sorted(chosen, key=lambda one: one.id) if (record := _still(db, one))), None
    )
    if first is None:
        return  # all of them too old, and deleted just now
    chosen.sort()
    name = Name.new(first)
    head.begin(db, str(name), place, [(one.id, head.digest_of(one.camera, one.request_id)) for one in chosen])

    def records() -> Iterator[Record]:
        for one in chosen:
            # The first is there in any case: a segment has one record at least.
            record = first if one.id == first.id else _still(db, one)
            if record is not None:
                sealed.records += 1
                sealed.bytes += one.size
                yield record

    write_segment(store.files, name, records())
    head.set_written(db)
    head.finish(db)
    sealed.segments += 1


def _still(db: sqlite3.Connection, one: _Chosen) -> Record | None:
    """The record, unless it has been deleted since it was chosen."""
    record = record_of(db, one.id)
    same = record is not None and (record.camera, record.request_id) == (one.camera, one.request_id)
    return record if same else None


class _Chooser:
    """Chooses what the next segment holds: whole chunks, those first that began first. Each query is short.

    before_us: records that were received then or later stay, and with them the chunks that they belong to.
    """

    def __init__(self, db: sqlite3.Connection, before_us: int, limits: Limits) -> None:
        self._db, self._before_us, self._limits = db, before_us, limits
        self._after = 0  # id of the last record that was looked at

    def next(self) -> list[_Chosen]:
        """Empty: there is nothing more. Those that were chosen before are gone from the database."""
        chosen: list[_Chosen] = []
        size = 0
        for id_, group in self._groups():
            size += sum(one.size for one in group)
            if chosen and (size > self._limits.bytes or len(chosen) + len(group) > self._limits.records):
                break
            chosen += group
            self._after = id_
        return chosen

    def _groups(self) -> Iterator[tuple[int, list[_Chosen]]]:
        """Whole chunks, with the id of the frame that each begins with."""
        query = f"""SELECT id, camera, request_id, copy, chunk, received_us, length(data) FROM records
                    WHERE id > ? ORDER BY id LIMIT {_KEYS}"""
        after = self._after
        while page := self._db.execute(query, (after,)).fetchall():
            after = page[-1][0]
            for id_, camera, request_id, copy, chunk, received_us, size in page:
                one = _Chosen(camera, id_, request_id, size)
                # Nothing begins with a copy, which an older release's archive may hold; see `cloud.archive.schema`.
                if received_us >= self._before_us or (chunk is not None and self._has_root(camera, chunk)):
                    continue
                members = self._members(camera, request_id) if chunk is None and not copy else []
                if members is not None:
                    yield id_, [one, *members]

    def _has_root(self, camera: str, chunk: str) -> bool:
        """Whether the frame that a chunk begins with is here, and the chunk is chosen with it."""
        query = "SELECT 1 FROM records WHERE camera = ? AND request_id = ? AND copy = 0 AND chunk IS NULL"
        return self._db.execute(query, (camera, chunk)).fetchone() is not None

    def _members(self, camera: str, chunk: str) -> list[_Chosen] | None:
        """The other records of a chunk; None where one of them came too late."""
        query = "SELECT id, request_id, received_us, length(data) FROM records WHERE camera = ? AND chunk = ?"
        rows = self._db.execute(query, (camera, chunk)).fetchall()
        if any(received_us >= self._before_us for _, _, received_us, _ in rows):
            return None
        return [_Chosen(camera, id_, request_id, size) for id_, request_id, _, size in rows]
