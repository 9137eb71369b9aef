"""Deletes records wherever an archive has them: in its database and in its segments.

Segments that hold such a record are written again without it, and the old files are removed: of a local disk's file
nothing is left but what the disk itself keeps, of an object store's what its versions keep.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cloud.archive.deletion import Deletion, plan
from cloud.archive.offline import delete_records
from cloud.archive.schema import FILE
from cloud.segments.change import remove_records
from cloud.segments.seal import keep_from_sealing
from cloud.segments.store import find_store


def plan_everywhere(archive: str, deletion: Deletion) -> tuple[int, int]:
    """How many records a deletion would take, and how many that stay could no longer be decoded without them.

    Raises DataError where there is no archive.
    """
    taken = broken = 0
    if (store := find_store(archive)) is not None:
        for name, _ in store.between(*_span(deletion), deletion.by):
            segment = store.open(name)
            matching = segment.matching(deletion)
            taken += int(matching.sum())
            broken += segment.broken_without(matching)
    if store is None or (Path(archive) / FILE).is_file():
        more = plan(Path(archive), deletion)
        taken, broken = taken + more[0], broken + more[1]
    return taken, broken


def delete_everywhere(archive: str, deletion: Deletion, say: Callable[[str], None]) -> None:
    """Returns once the records are gone from the files. say: takes a line for people. Raises DataError."""
    path = Path(archive)
    with ExitStack() as locked:
        # Otherwise records that are being sealed just now would be in a segment that is not there yet.
        unsealed = not keep_from_sealing(path, locked)
        if (path / FILE).is_file() or find_store(archive) is None:
            delete_records(path, deletion, say)
        if unsealed:
            keep_from_sealing(
                path, locked
            )  # the first sealing may have begun, and taken some of them with it
        store = find_store(archive)
        if store is not None:
            remove_records(store, lambda segment: ~segment.matching(deletion), *_span(deletion), deletion.by)


def _span(deletion: Deletion) -> tuple[int, int]:
    return deletion.since_us, deletion.until_us
