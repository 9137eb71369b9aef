"""Archives for tests: made-up records in order of time, and what holds a database."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cloud.archive.archive import Archive
from cloud.archive.records import Record
from cloud.archive.schema import FILE
from cloud.archive.sources import open_parts

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
LONG_S = 1000 * 366 * 86_400.0  # for records whose times are made up


@contextmanager
def archive_at(
    path: Path, bytes_max: int = 8 << 20, age_max_s: float = LONG_S, **more: Any
) -> Iterator[Archive]:
    archive = Archive(path, bytes_max, age_max_s, **more)
    try:
        yield archive
    finally:
        archive.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program that holds the database's write lock, so that the archive's writer stands still."""
    with closing(sqlite3.connect(path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def at(second: int) -> datetime:
    return NOON + timedelta(seconds=second)


def record(i: int, camera: str = "door", size: int = 200) -> Record:
    return Record(camera, at(i), f"r{i}", i.to_bytes(4, "big") * (size // 4))


def put(archive: Archive, *records: Record) -> None:
    for one in records:
        assert archive.append(
            one.camera, one.received_at, one.request_id, one.data, one.captured_at, one.chunk
        )


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.001)  # lets the writer run


def held(*places: Path | str) -> Counter[Any]:
    """Every record that archives and stores give, and how often."""
    return Counter(
        one
        for place in places
        for source in open_parts(place)
        for one in source.read(None, None, None, "captured")
    )
