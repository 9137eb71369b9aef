"""Looks for damage in an archive: every byte of its segments, and the records of its database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloud.archive.records import read, reading
from cloud.archive.schema import FILE
from cloud.segments.head import pending
from cloud.segments.segment import Name, described
from cloud.segments.store import SegmentStore, find_store
from shared.errors import DataError

_BLOCK = 4 << 20


@dataclass
class Looked:
    """How much was looked at."""

    segments: int = 0
    records: int = 0
    bytes: int = 0


def flaws(archive: str, looked: Looked) -> Iterator[str]:
    """What is wrong, one line a flaw, each with the file and the record. looked: is counted up.

    Raises DataError where there is no archive.
    """
    head, store = (Path(archive) / FILE).is_file(), find_store(archive)
    if store is not None:
        for name in store.names():
            yield from _of_segment(store, name, looked)
        for file in store.leftovers():
            yield f"{store.files.shown}/{file} belongs to no segment: a command was killed; the next one removes it"
    if head:
        yield from _of_head(Path(archive), looked)
    elif store is None or not looked.segments:
        raise DataError(f"no archive at {archive}: there is neither {FILE} nor a segment in it")


def _of_segment(store: SegmentStore, name: Name, looked: Looked) -> Iterator[str]:
    looked.segments += 1
    try:
        segment = store.open(name)
        looked.records += segment.facts.records
        looked.bytes += segment.facts.data_bytes
        if _digest(store, name) == segment.facts.data_sha256:
            yield from segment.unreadable()
            return
        damaged = list(segment.flaws())
        yield from damaged or [f"{store.files.shown}/{name.data} is damaged outside its records"]
    except DataError as error:
        yield str(error)


def _digest(store: SegmentStore, name: Name) -> str:
    digest = hashlib.sha256()
    # S3 refuses a range that begins at the end.
    for start in range(0, store.files.size(name.data), _BLOCK):
        digest.update(store.files.range(name.data, start, start + _BLOCK))
    return digest.hexdigest()


def _of_head(path: Path, looked: Looked) -> Iterator[str]:
    with reading(path) as db:
        if pending(db) is not None:
            yield f"{path / FILE}: a command was killed while it sealed; the next one goes on"
    try:
        for record in read(path):
            looked.records += 1
            looked.bytes += len(record.data)
            if described(record.data)[0] is None:
                yield f"{path / FILE}: record {record.request_id} of camera {record.camera} is damaged"
    except DataError as error:
        yield str(error)
