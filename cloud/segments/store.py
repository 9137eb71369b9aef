"""A store of segments: which there are, which may hold a time, and what a killed command left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud.archive.schema import FILE, Clock
from cloud.segments.files import Files
from cloud.segments.head import FOLDER
from cloud.segments.opened import OpenSegment
from cloud.segments.segment import Facts, Name, read_facts, remove_segment
from shared.errors import DataError
from shared.files import lock_folder

LOCK = "segments.lock"


class SegmentStore:
    """Segments in one folder. url: see `Files`. Every method raises DataError."""

    def __init__(self, url: str | Path) -> None:
        self.files = Files(url)

    def names(self) -> list[Name]:
        """The segments, in order of their first reception: of each the last generation."""
        last: dict[str, Name] = {}
        for name in sorted(filter(None, map(Name.of_index, self.files.names(".parquet")))):
            last[name.base] = name
        return sorted(last.values())

    def facts(self, name: Name) -> Facts:
        return read_facts(self.files, name)

    def between(
        self, since_us: int, until_us: int, by: Clock = "captured", unfinished: str = ""
    ) -> Iterator[tuple[Name, Facts]]:
        """The segments that may hold a record with since_us <= time < until_us, as `names` orders them.

        unfinished: the one that does not count yet.
        """
        for name in self.names():
            if str(name) == unfinished:
                continue
            facts = self.facts(name)
            first, last = facts.span_us(by)
            if since_us <= last and first < until_us:
                yield name, facts

    def open(self, name: Name) -> OpenSegment:
        return OpenSegment(self.files, name)

    def leftovers(self) -> list[str]:
        """Files of segments that were not finished or were replaced: a killed command left them behind."""
        whole = {name.data for name in self.names()} | {name.index for name in self.names()}
        ours = (name for name in self.files.names() if name.endswith(".data") or Name.of_index(name))
        cut = (name for name in self.files.unfinished() if Name.of_unfinished(name))
        return [*(name for name in ours if name not in whole), *cut]

    def tidy(self) -> None:
        """Removes the leftovers, under the lock: what another command is writing looks the same. Where there is no lock
        only those go that a later generation has replaced."""
        last = {name.base: name.generation for name in self.names()}
        for file in self.leftovers():
            name = Name.of_index(file) or Name.of_text(file.removesuffix(".data"))
            replaced = name is not None and name.generation < last.get(name.base, 0)
            if replaced or self.files.folder is not None:
                self.files.remove(file)

    def remove(self, name: Name) -> None:
        remove_segment(self.files, name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other commands on this machine from changing a local store. One that is elsewhere has no lock: one
        command at a time may change it."""
        if self.files.folder is None:
            yield
            return
        taken = f"another command changes {self.files.shown}; try again when it has ended"
        held = lock_folder(self.files.folder, LOCK, taken)
        try:
            yield
        finally:
            os.close(held)


def find_store(archive: str | Path) -> SegmentStore | None:
    """The segments of an archive's folder, or the store itself; None: there is none."""
    path = Path(archive)
    if (path / FILE).is_file():
        return SegmentStore(path / FOLDER) if (path / FOLDER).is_dir() else None
    return SegmentStore(archive) if "://" in str(archive) or any(path.glob("*.parquet")) else None


def store_of(archive: str | Path) -> SegmentStore:
    """Raises DataError where there is no segment."""
    found = find_store(archive)
    if found is None or not found.names():
        raise DataError(f"there is no segment at {archive}; `isthmus cloud archive seal` makes them")
    return found
