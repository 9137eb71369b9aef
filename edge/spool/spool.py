"""Frames on their way to the cloud, kept on disk until they are acknowledged. Knows no image, no link and no cloud.

    put (synced to the disk: from here on the frame is accepted) -> lease -> acknowledge, or give back

Each record is a frame I, which decodes without any other, so whichever are dropped, the rest can be read. Its request
id is made once, here or by its source: sent again after any restart of either side, the frame is recorded by the cloud
once. Leases live in memory; after a kill there are none.

A frame that may have been sent before is leased as such (`Spooled.again`): those given back as sent, and after a
restart those up to a mark in the file, which goes ahead of what is leased.

- bytes: each record counts with its data and ROW_BYTES. Beyond `bytes_max` the policy decides: "drop-oldest",
  "drop-newest", or "stop": nothing is taken until there is room again. What is leased is not dropped.
- age: records spooled longer ago are dropped, by a clock that no time server moves while the process runs.
- A record whose check does not hold is dropped and counted. A file that SQLite cannot read is set aside as
  spool.sqlite3.damaged-N, named, counted, and a new one begins.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from edge.spool.records import Ids, NewFrame, Spooled, Version, spooled_of
from edge.spool.store import FILE, Store, is_damage, set_aside
from shared.errors import DataError
from shared.files import lock_folder

log = logging.getLogger("isthmus.edge.spool")

Full = Literal["drop-oldest", "drop-newest", "stop"]
Order = Literal["oldest", "newest"]
LOCK = "spool.lock"
SENT_AHEAD = (
    64  # frames by which the mark of what may have been sent goes ahead, so that it is seldom written
)
BYTES_MIN = 64 << 10
REPORT_EVERY_S = 60.0
_SANE_US = 1_577_836_800_000_000  # 2020: before, the box had no clock, and the age of its frames is unknown

T = TypeVar("T")


@dataclass(frozen=True)
class SpoolState:
    """What a spool holds now. age_s: of the oldest. drops: frames by reason, since it was opened.

    damaged_files: those set aside since then. trouble: why the disk refused last; empty if it did not.
    """

    depth: int
    bytes: int
    age_s: float
    drops: dict[str, int]
    damaged_files: tuple[str, ...]
    trouble: str


class Spool:
    """The frames of one box; one process at a time has its folder. Safe to use from several threads; close it.

    path: the folder, made where it is absent, on a local disk. order: which frames are leased first. clock:
    microseconds since 1970; the system's by default.

    Once it is open, no method raises for what a disk does: frames that it does not take are dropped and counted, and
    `trouble` says why; empty if it took the last ones.

    Raises DataError where the folder cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        bytes_max: int = 256 << 20,
        age_max_s: float = 7 * 86_400.0,
        full: Full = "drop-oldest",
        order: Order = "oldest",
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.path, self.full, self.order = Path(path), full, order
        self.bytes_max, self._age_max_us = bytes_max, int(age_max_s * 1e6)
        self._clock = clock or steady_clock()
        self._mutex = threading.RLock()
        self._leased: set[str] = set()
        self._settled: set[str] = set()  # no longer wanted, and still in the file where the disk refused
        self._again: set[str] = set()  # may have been sent, by this process
        self._sent_before = self._sent_upto = 0  # places: by an earlier process, and as the file says
        self._drops: Counter[str] = Counter()
        self._damaged: list[str] = []
        self.trouble, self._reported_at = "", -REPORT_EVERY_S
        self._store: Store | None = None
        self._ids = Ids()
        self._lock = -1
        try:
            self._lock = lock_folder(
                self.path, LOCK, f"{self.path} is the spool of another process; each box needs its own"
            )
            self._open()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise DataError(f"cannot keep a spool in {self.path}: {_reason(error)}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._mutex:
            if self._store is not None:
                self._store.close()
                self._store = None
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, frames: Sequence[NewFrame]) -> list[str | None]:
        """Keeps frames, in one transaction. They are on the disk when this returns.

        Returns the request id of each, None for one that was not taken. That is counted as dropped, unless the policy
        is "stop" and the spool full: then the frame is still the caller's.
        """
        with self._mutex:
            nothing: list[str | None] = []
            taken = self._guarded(lambda: self._put(frames), nothing)
            if len(taken) < len(frames):
                self._drops["disk"] += len(frames)
                return [None] * len(frames)
            return taken

    def lease(self, count: int, bundles: Collection[str] | None = None) -> list[Spooled]:
        """The next frames that nobody has, at most `count`. They are the caller's until they are acknowledged, given
        back or dropped. bundles: fingerprints of those that can be sent now; None for any."""
        with self._mutex:
            self._tidy()
            nothing: list[Spooled] = []
            return self._guarded(lambda: self._lease(count, bundles), nothing)

    def give_back(self, ids: Collection[str], sent: bool = False) -> None:
        """Ends leases; the frames are leased again later. sent: whether the cloud may have them."""
        with self._mutex:
            self._leased.difference_update(ids)
            if sent:
                self._again.update(ids)

    def acknowledge(self, ids: Iterable[str]) -> None:
        """The cloud has these frames: they leave the spool. An id that is not here is left out."""
        with self._mutex:
            self._settled.update(ids)
            self._guarded(self._settle, None)

    def drop(self, ids: Collection[str], reason: str) -> None:
        """Gives frames up, counted by reason."""
        with self._mutex:
            self._drops[reason] += len(ids)
            self.acknowledge(ids)

    def taken(self, source: str, keeps: bool) -> dict[str, Version | None]:
        """The files of a source that need not be read: those whose frames are here, None for each, and of a source that
        `keeps` its files those of which frames were accepted, as they were then. Files that are gone are forgotten."""
        with self._mutex:
            nothing: dict[str, Version | None] = {}
            return self._guarded(lambda: self._taken(source, keeps), nothing)

    @property
    def depth(self) -> int:
        """Frames in it."""
        return self._store.count if self._store else 0

    def state(self) -> SpoolState:
        with self._mutex:
            self._tidy()
            oldest = self._guarded(lambda: self._opened().oldest_us(_SANE_US), None)
            age_s = 0.0 if oldest is None else max(self._clock() - oldest, 0) / 1e6
            size = self._store.cost if self._store else 0
            drops, damaged = dict(self._drops), tuple(self._damaged)
            return SpoolState(self.depth, size, age_s, drops, damaged, self.trouble)

    # What follows runs under the mutex, and raises sqlite3.Error and OSError unless `_guarded` calls it.

    def _put(self, frames: Sequence[NewFrame]) -> list[str | None]:
        self._drop_aged()
        store, drops = self._opened(), Counter[str]()
        taken: list[str | None] = []
        needed = sum(one.cost for one in frames)
        short = store.disk_short(needed)
        if short and (self.full != "drop-oldest" or store.cost < needed):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        evicted: list[str] = []
        with store.transaction():
            if self.full == "drop-oldest":
                evicted = self._evict(store, needed, short)
                drops["oldest"] = len(evicted)
            for frame in frames:
                if store.cost + frame.cost > self.bytes_max:
                    # With "stop" the caller keeps it, unless it will never fit.
                    drops["newest"] += self.full != "stop" or frame.cost > self.bytes_max
                    taken.append(None)
                    continue
                now = self._clock()
                one = Spooled(frame.id or self._ids.next(now), frame, now)
                store.insert(one)
                taken.append(one.id)
        self._drops.update(+drops)
        self._again.difference_update(evicted)
        self.trouble = ""
        return taken

    def _evict(self, store: Store, needed: int, disk_short: bool) -> list[str]:
        """Deletes the oldest frames that nobody has, until so many bytes fit. Returns their ids."""
        excess = store.cost + min(needed, self.bytes_max) - self.bytes_max
        if disk_short:
            excess = max(excess, 2 * needed)
        found = []
        if excess > 0:
            for id_, cost in store.oldest():
                if id_ not in self._leased:
                    found.append(id_)
                    excess -= cost
                if excess <= 0:
                    break
        store.delete(found)
        return found

    def _lease(self, count: int, bundles: Collection[str] | None) -> list[Spooled]:
        store, found, damaged, last = self._opened(), list[Spooled](), list[int](), 0
        # Those that are leased may all be among the first.
        limit = count + len(self._leased) + len(self._settled)
        for place, row in store.rows(self.order == "newest", bundles, limit):
            if len(found) == count:
                break
            if row[0] in self._leased or row[0] in self._settled:
                continue
            try:
                one = spooled_of(row)
                found.append(replace(one, again=place <= self._sent_before or one.id in self._again))
                last = max(last, place)
            except (ValueError, OverflowError):
                log.error("%s: frame %s is damaged, and dropped", self.path / FILE, row[0])
                damaged.append(place)
                self._again.discard(row[0])
        if damaged:
            with store.transaction():
                store.delete_at(damaged)
            self._drops["damaged"] += len(damaged)
        if last > self._sent_upto and not self._mark(store, last + SENT_AHEAD):
            found = [replace(one, again=True) for one in found]
        self._leased.update(one.id for one in found)
        return found

    def _mark(self, store: Store, place: int) -> bool:
        """Notes that frames up to a place may be sent from now on. False: the disk does not take it."""
        try:
            with store.transaction():
                store.set_sent_place(place)
        except sqlite3.Error as error:
            if is_damage(error):
                raise
            return False
        self._sent_upto = place
        return True

    def _taken(self, source: str, keeps: bool) -> dict[str, Version | None]:
        store = self._opened()
        found: dict[str, Version | None] = dict.fromkeys(store.origins(source))
        known = store.files(source) if keeps else {}
        gone = _gone(known)
        if gone:
            with store.transaction():
                store.forget(source, gone)
        return found | {file: version for file, version in known.items() if file not in gone}

    def _tidy(self) -> None:
        self._guarded(self._settle, None)
        self._guarded(self._drop_aged, None)

    def _settle(self) -> None:
        """Deletes what is no longer wanted."""
        if self._settled:
            store = self._opened()
            with store.transaction():
                store.delete(self._settled)
            self._leased -= self._settled
            self._again -= self._settled
            self._settled.clear()
            self.trouble = ""

    def _drop_aged(self) -> None:
        store = self._opened()
        aged = set(store.aged(_SANE_US, self._clock() - self._age_max_us)) - self._leased - self._settled
        if aged:
            with store.transaction():
                store.delete(aged)
            self._again -= aged
            self._drops["age"] += len(aged)

    def _opened(self) -> Store:
        if self._store is None:
            self._open()
        assert self._store is not None
        return self._store

    def _open(self) -> None:
        """Opens the file; a damaged one is set aside first."""
        try:
            self._store = Store(self.path)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._set_aside(error)
            self._store = Store(self.path)
        self._ids = Ids(self._store.last_id())
        self._sent_upto = self._store.sent_place()
        self._sent_before = min(self._sent_upto, self._store.last_place())

    def _set_aside(self, error: sqlite3.Error) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        name = set_aside(self.path)
        self._damaged.append(name)
        log.error("%s is damaged (%s); it is set aside as %s, and a new spool begins", FILE, error, name)
        for known in (self._leased, self._settled, self._again):
            known.clear()

    def _guarded(self, work: Callable[[], T], otherwise: T) -> T:
        """The result of some work on the file, or `otherwise` where the disk refuses twice."""
        for _ in range(2):
            try:
                done = work()
            except (sqlite3.Error, OSError, DataError) as error:
                with suppress(sqlite3.Error, OSError, DataError):
                    self._recover(error)
            else:
                return done
        return otherwise

    def _recover(self, error: Exception) -> None:
        """Makes a second attempt worth while: damage begins a new file, and a full disk gets back what the log took."""
        self.trouble = f"the disk refused: {_reason(error)}"
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            log.error("%s: %s", self.path, self.trouble)
            self._reported_at = now
        if isinstance(error, sqlite3.Error) and is_damage(error):
            self._set_aside(error)
            self._open()
        elif self._store is not None:
            self._store.empty_log()


def steady_clock() -> Callable[[], int]:
    """The time of day in microseconds since 1970, as it was when this was called, counted on from there."""
    start_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
    return lambda: start_us + time.monotonic_ns() // 1000


def _gone(files: Iterable[str]) -> set[str]:
    """Those that are no longer in their folder; of a folder that is away, or empty as one that is not mounted, none."""
    folders: dict[str, set[str]] = {}
    for file in files:
        folders.setdefault(os.path.dirname(file), set()).add(os.path.basename(file))
    gone = set[str]()
    for folder, names in folders.items():
        with suppress(OSError):
            there = set(os.listdir(folder))
            gone.update(os.path.join(folder, name) for name in names if there and name not in there)
    return gone


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else f"{FILE}: {error}"
