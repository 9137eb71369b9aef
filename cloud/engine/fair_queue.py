"""What waits for a batch, shared fairly by those who sent it. Knows no batch, no thread and no token.

    Waiting (lane, key, share) -> room? -> put ... first -> take(key, most)

Each share's own order is kept. Between shares the one goes first that was served least, in proportion to the weights
(stride scheduling: C. A. Waldspurger, W. E. Weihl, 1995, "Stride Scheduling"). A share that was away begins where the
others are: nobody saves up turns.

The places of a lane are divided in the same proportion among those who wait in it. Whoever is alone has all of them,
and who comes to a lane that others have filled still gets a part: with n equal shares up to 1 + 1/2 + .. + 1/n times
the places are taken, until the first have gone down to theirs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True)
class Share:
    """Who an item is from. weight: what the share counts against others, above 0."""

    name: str = ""
    weight: float = 1.0


NOBODYS = Share()


class Waiting(Protocol):
    """lane: has places of its own. key: what is taken together has equal ones."""

    @property
    def lane(self) -> Hashable: ...

    @property
    def key(self) -> Hashable: ...

    @property
    def share(self) -> Share: ...


Entry = TypeVar("Entry", bound=Waiting)


@dataclass(eq=False)
class _Line(Generic[Entry]):
    """One share's entries, in order. served: how many were taken, over the weight, counted from a common start.

    lanes: how many entries there are of each.
    """

    weight: float
    served: float
    entries: dict[int, Entry] = field(default_factory=dict)
    lanes: Counter[Hashable] = field(default_factory=Counter)

    def put(self, entry: Entry) -> None:
        self.entries[id(entry)] = entry
        self.lanes[entry.lane] += 1

    def remove(self, entry: Entry) -> bool:
        if self.entries.pop(id(entry), None) is None:
            return False
        self.lanes[entry.lane] -= 1
        if not self.lanes[entry.lane]:
            del self.lanes[entry.lane]
        return True

    def first(self, key: Hashable) -> Entry | None:
        return next((entry for entry in self.entries.values() if entry.key == key), None)


class FairQueue(Generic[Entry]):
    """places: of one lane. Several threads may use it at once."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._lock = threading.RLock()
        self._lines: dict[
            str, _Line[Entry]
        ] = {}  # also of those who were served ahead of all others and left
        self._now = 0.0  # what the share that was served last had been served before

    def __len__(self) -> int:
        with self._lock:
            return sum(len(line.entries) for line in self._lines.values())

    def __iter__(self) -> Iterator[Entry]:
        """Over what waits now."""
        with self._lock:
            return iter([entry for line in self._lines.values() for entry in line.entries.values()])

    def in_lane(self, lane: Hashable) -> int:
        with self._lock:
            return sum(line.lanes[lane] for line in self._lines.values())

    def has_room(self, lane: Hashable, share: Share) -> bool:
        """Whether one more of this share may wait in the lane."""
        own, weights = 0, share.weight
        with self._lock:
            for name, line in self._lines.items():
                waiting = line.lanes[lane]
                if name == share.name:
                    own = waiting
                elif waiting:
                    weights += line.weight
        return own < max(1, int(self._places * share.weight / weights))

    def put(self, entry: Entry) -> None:
        share = entry.share
        with self._lock:
            line = self._lines.get(share.name)
            if line is None:
                line = self._lines[share.name] = _Line(share.weight, self._now)
            line.weight = share.weight
            if not line.entries:
                line.served = max(line.served, self._now)
            line.put(entry)

    def discard(self, entry: Entry) -> None:
        """Takes an entry out without counting it as served. Does nothing if it is not there."""
        with self._lock:
            line = self._lines.get(entry.share.name)
            if line is not None and line.remove(entry):
                self._forget(entry.share.name, line)

    def drop(self, is_over: Callable[[Entry], bool]) -> None:
        """Discards every entry of which that is true."""
        with self._lock:
            for entry in filter(is_over, self):
                self.discard(entry)

    def first(self) -> Entry | None:
        """The entry that is taken next; None if nothing waits."""
        with self._lock:
            lines = [line for line in self._lines.values() if line.entries]
            if not lines:
                return None
            return next(iter(min(lines, key=lambda line: line.served).entries.values()))

    def count(self, key: Hashable) -> int:
        return sum(entry.key == key for entry in self)

    def take(self, key: Hashable, most: int) -> list[Entry]:
        """Up to `most` entries of a key, in their turn, removed."""
        with self._lock:
            return self._take(key, most)

    def _take(self, key: Hashable, most: int) -> list[Entry]:
        taken: list[Entry] = []
        while len(taken) < most:
            turns = [(line.served, name, line.first(key)) for name, line in self._lines.items()]
            ready = [(served, name, entry) for served, name, entry in turns if entry is not None]
            if not ready:
                break
            served, name, entry = min(ready, key=lambda turn: turn[0])
            self._now = max(self._now, served)
            line = self._lines[name]
            line.served += 1 / line.weight
            line.remove(entry)
            taken.append(entry)
        for name, line in list(self._lines.items()):
            self._forget(name, line)
        return taken

    def _forget(self, name: str, line: _Line[Entry]) -> None:
        """Forgets a share with nothing to come that is not ahead of the others."""
        if not line.entries and line.served <= self._now:
            del self._lines[name]
