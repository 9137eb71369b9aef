"""Deletes records wherever an archive has them: in its database, in its segments, in stores that it was sealed into.

Segments that hold such a record are written again without it, and the old files are removed: of a local disk's file
nothing is left but what the disk itself keeps, of an object store's what its versions keep.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from cloud.archive.deletion import Deletion, plan
from cloud.archive.offline import delete_records
from cloud.archive.records import reading
from cloud.archive.schema import FILE
from cloud.segments.change import Changed, expire_records, remove_records
from cloud.segments.head import FOLDER, sealed_into
from cloud.segments.seal import keep_from_sealing
from cloud.segments.store import SegmentStore, find_store, store_of
from shared.errors import DataError, RequestError


def plan_everywhere(
    archive: str, deletion: Deletion, say: Callable[[str], None] | None = None
) -> tuple[int, int]:
    """How many records a deletion would take, and how many that stay could no longer be decoded without them.

    say: takes a line for people about a store that cannot be reached, which is then left out; None: it is an error.
    Raises DataError where there is no archive.
    """
    taken = broken = 0
    for place in _places(archive):
        try:
            more = _planned(_reached(place), deletion)
        except (DataError, RequestError) as error:
            if say is None:
                raise
            say(f"not counted: {error}")
            continue
        taken, broken = taken + more[0], broken + more[1]
    if (Path(archive) / FILE).is_file() or find_store(archive) is None:
        more = plan(Path(archive), deletion)
        taken, broken = taken + more[0], broken + more[1]
    return taken, broken


def _planned(store: SegmentStore, deletion: Deletion) -> tuple[int, int]:
    taken = broken = 0
    for name, _ in store.between(*_span(deletion), deletion.by):
        segment = store.open(name)
        matching = segment.matching(deletion)
        taken += int(matching.sum())
        broken += segment.broken_without(matching)
    return taken, broken


def delete_everywhere(archive: str, deletion: Deletion, say: Callable[[str], None]) -> None:
    """Returns once the records are gone from the files. say: takes a line for people.

    Raises DataError; where it is about a store that cannot be reached, all others have been seen to.
    """
    path = Path(archive)
    with ExitStack() as locked:
        # Otherwise records that are being sealed just now would be in a segment that is not there yet.
        failed: list[str] = []
        unsealed = not keep_from_sealing(path, locked, failed)
        if (path / FILE).is_file() or find_store(archive) is None:
            delete_records(path, deletion, say)
        if unsealed:
            # The first sealing may have begun, and taken some of them with it.
            keep_from_sealing(path, locked, failed)
        for place in _places(archive):
            try:
                store = _reached(place)
                remove_records(
                    store, lambda segment: ~segment.matching(deletion), *_span(deletion), deletion.by
                )
            except (DataError, RequestError) as error:
                failed.append(str(error))
        if failed:
            raise DataError(f"not all is deleted yet: {'; '.join(failed)}; the same command goes on")


def expire_everywhere(archive: str, before: datetime) -> Changed:
    """Removes sealed records that were received before a time, see `expire_records`; not in stores elsewhere, each of
    which has a command of its own. Raises DataError."""
    with ExitStack() as locked:
        # A sealing that was killed is finished first: it would not know its segment again.
        keep_from_sealing(Path(archive), locked)
        return expire_records(store_of(archive), before)


def _places(archive: str) -> list[str | Path]:
    """The archive's own segments, and the stores elsewhere that it was sealed into. Raises DataError."""
    path = Path(archive)
    if not (path / FILE).is_file():
        return [archive] if find_store(archive) else []
    with reading(path) as db:
        elsewhere = sealed_into(db)
    return [*([path / FOLDER] if find_store(archive) else []), *elsewhere]


def _reached(place: str | Path) -> SegmentStore:
    """Raises DataError where a disk is not there, which would look like a store without segments; RequestError."""
    store = SegmentStore(place)
    if store.files.folder is not None and not store.files.folder.is_dir():
        raise DataError(f"{store.files.shown} is not there, which records were sealed into")
    return store


def _span(deletion: Deletion) -> tuple[int, int]:
    return deletion.since_us, deletion.until_us
