"""Stores of segments for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cloud.archive.records import Record
from cloud.segments.segment import Name, write_segment
from cloud.segments.store import SegmentStore


def written(url: str | Path, records: Iterable[Record]) -> Name:
    """One segment of records that are given in the order of writing."""
    ordered = sorted(records, key=lambda one: one.camera)
    return write_segment(SegmentStore(url).files, Name.new(ordered[0]), ordered)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
