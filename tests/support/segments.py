"""Stores of segments for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cloud.archive.chunks import Opened
from cloud.archive.records import Record
from cloud.archive.replay import ReplayRequest, open_records
from cloud.segments.segment import Name, write_segment
from cloud.segments.store import SegmentStore
from support.archives import at
from support.coded_sessions import reader


def written(url: str | Path, records: Iterable[Record]) -> Name:
    """One segment of records that are given in the order of writing."""
    ordered = sorted(records, key=lambda one: one.camera)
    return write_segment(SegmentStore(url).files, Name.new(ordered[0]), ordered)


def opened(archive: str | Path, since: Any = None, **more: Any) -> list[Opened]:
    asked = ReplayRequest(archive, since or at(-(10**6)), at(10**6), None, "classification", **more)
    return list(open_records(asked, reader()))


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
