"""A store of segments: which there are, which may hold a time, and what a killed command left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cloud.archive.schema import Clock
from cloud.segments.files import Files
from cloud.segments.opened import OpenSegment
from cloud.segments.segment import Facts, Name, read_facts, remove_segment
from shared.files import lock_folder
from shared.times import to_microseconds

FOLDER = "segments"  # of an archive, beside its database
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
        self, since: datetime | None, until: datetime | None, by: Clock = "captured"
    ) -> list[tuple[Name, Facts]]:
        """The segments that may hold a record with since <= time < until, as `names` orders them."""
        found = ((name, self.facts(name)) for name in self.names())
        return [(name, facts) for name, facts in found if _may_hold(facts, since, until, by)]

    def open(self, name: Name) -> OpenSegment:
        return OpenSegment(self.files, name)

    def leftovers(self) -> list[str]:
        """Files of segments that were not finished or were replaced: a killed command left them behind."""
        whole = {name.data for name in self.names()} | {name.index for name in self.names()}
        ours = (name for name in self.files.names() if name.endswith(".data") or Name.of_index(name))
        return [name for name in ours if name not in whole]

    def tidy(self) -> None:
        """Removes the leftovers. Only under the lock: what another command is writing looks the same."""
        for name in self.leftovers():
            self.files.remove(name)

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


def _may_hold(facts: Facts, since: datetime | None, until: datetime | None, by: Clock) -> bool:
    first, last = facts.captured_us if by == "captured" else facts.received_us
    return (since is None or last >= to_microseconds(since)) and (
        until is None or first < to_microseconds(until)
    )
