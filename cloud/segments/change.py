"""Takes records out of a store's segments, or copies them into another store: segments are written anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from cloud.archive.records import bounds
from cloud.archive.schema import Clock
from cloud.segments.opened import OpenSegment
from cloud.segments.segment import Facts, Name, write_segment
from cloud.segments.store import SegmentStore
from shared.errors import RequestError

# The rows of a segment that are kept, as a mask.
Keep = Callable[[OpenSegment], NDArray[np.bool_]]


@dataclass
class Changed:
    """How many records went or were copied, and how many segments that touched."""

    records: int = 0
    segments: int = 0


def remove_records(store: SegmentStore, keep: Keep, since_us: int, until_us: int, by: Clock) -> Changed:
    """Removes the records that are not kept: a segment is written again without them, or goes.

    since_us, until_us, by: which segments to look at. The old files are removed once the new ones are there; a kill
    between leaves both, of which only the new one counts, and the next command removes the old one. Raises DataError.
    """
    changed = Changed()
    with store.lock():
        store.tidy()
        for name, facts in store.between(since_us, until_us, by):
            segment = store.open(name)
            kept = np.flatnonzero(keep(segment))
            if len(kept) == facts.records:
                continue
            if len(kept):
                write_segment(store.files, name.next, (segment.record(int(row)) for row in kept))
            store.remove(name)
            changed.records += facts.records - len(kept)
            changed.segments += 1
    return changed


def expire_records(store: SegmentStore, before: datetime) -> Changed:
    """Removes whole chunks whose last frame was received before a time. Raises DataError."""
    since_us, before_us = bounds(None, before)
    return remove_records(
        store, lambda segment: segment.last_received() >= before_us, since_us, before_us, "received"
    )


def copy_records(
    source: SegmentStore,
    target: SegmentStore,
    since: datetime | None = None,
    until: datetime | None = None,
    camera: str | None = None,
    by: Clock = "captured",
) -> Changed:
    """Copies the chunks that have a frame with since <= time < until, of one camera or of all.

    Done again, it writes what is not there yet: a segment of the same records has the same name. Raises DataError, or
    RequestError where both are one store.
    """
    if source.files.is_same(target.files):
        raise RequestError(
            f"{target.files.shown} is where the records are; choose another place", setting="out"
        )
    changed = Changed()
    with target.lock():
        target.tidy()
        there = {str(name) for name in target.names()}
        for name, facts in source.between(*bounds(since, until), by):
            segment = source.open(name)
            rows = np.flatnonzero(segment.whole_chunks(segment.rows(since, until, camera, by)))
            if not len(rows):
                continue
            copy = _name_of_copy(name, facts, rows)
            if str(copy) not in there:
                write_segment(target.files, copy, (segment.record(int(row)) for row in rows))
            changed.records += len(rows)
            changed.segments += 1
    return changed


def _name_of_copy(name: Name, facts: Facts, rows: NDArray[np.int64]) -> Name:
    """The segment's own name if it is copied whole; otherwise one that its rows decide."""
    if len(rows) == facts.records:
        return Name(name.base, name.generation)
    digest = hashlib.sha256(f"{name}".encode() + rows.tobytes()).hexdigest()
    return Name(f"{name.base.partition('-')[0]}-{digest[:12]}")
