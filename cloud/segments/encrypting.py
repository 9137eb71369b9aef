"""Encrypts what an archive keeps without a key, or with an old one: its database, and its segments, written anew."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cloud.archive.encryption import ArchiveKey
from cloud.archive.offline import encrypt_archive
from cloud.archive.records import Record
from cloud.archive.schema import FILE
from cloud.segments.seal import keep_from_sealing
from cloud.segments.segment import write_segment
from cloud.segments.store import SegmentStore, find_store
from shared.times import to_microseconds


def encrypt_everywhere(archive: str, key: ArchiveKey, old: ArchiveKey | None = None) -> int:
    """Returns how many records were encrypted. A kill leaves records of both kinds; doing it again finishes.

    old: the key that the archive has so far, which this process reads with. Raises DataError, also where there is no
    archive, or a server has it.
    """
    path, count = Path(archive), 0
    with ExitStack() as locked:
        unsealed = not keep_from_sealing(path, locked)
        if (path / FILE).is_file() or find_store(archive) is None:
            count += encrypt_archive(path, key, old)
        if unsealed:
            keep_from_sealing(
                path, locked
            )  # the first sealing may have begun, and taken readable records with it
        store = find_store(archive)
        if store is not None:
            count += encrypt_segments(store, key)
    return count


def encrypt_segments(store: SegmentStore, key: ArchiveKey) -> int:
    """Writes each segment again that holds a record without the key. Returns how many records. Raises DataError."""
    count = 0
    with store.lock():
        store.tidy()
        for name in store.names():
            records = list(store.open(name).read())
            others = sum(not record.encrypted.startswith(key.mark) for record in records)
            if others:
                write_segment(store.files, name.next, (_encrypted(record, key) for record in records))
                store.remove(name)
                count += others
    return count


def _encrypted(record: Record, key: ArchiveKey) -> Record:
    if record.encrypted.startswith(key.mark):
        return record
    about = record.camera, record.request_id, to_microseconds(record.received_at)
    return replace(record, encrypted=key.encrypt_again(record.encrypted or record.data, *about))
