"""What the cloud answered, kept on disk: camera, times, request id, bitstream. Knows no bundle, no model, no request.

    append (event loop, never waits) -> queue, bounded -> writer thread -> Store: SQLite in DIR/archive.sqlite3
    cloud.archive.records.read (any process, also while one writes) <- DIR

A request id of a camera is recorded once however often it is sent, also after a restart, as long as its record is
there: clients send a request again when an answer got lost. With another bitstream it is not recorded, and warned of,
unless one of the two is a frame given others: a camera box sends such a frame by itself after a break.

While the disk is full or away, what comes is dropped and counted; it is archived again once the disk takes it. DIR is
a local disk: a network file system does not carry a write-ahead log.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cloud.archive.deletion import Deletion, carry_out, read_requests, requested
from cloud.archive.encryption import ArchiveKey, use_key
from cloud.archive.records import UNNAMED, Record, read
from cloud.archive.schema import FILE, Clock
from cloud.archive.store import BYTES_MIN, Store, identity
from shared.errors import DataError, RequestError
from shared.files import lock_folder

log = logging.getLogger("isthmus.cloud.archive")

LOCK = "archive.lock"

LOOK_EVERY_S = 1.0  # for records that are too old, and for requests to delete some
WARN_EVERY_S = 60.0
QUEUE_MAX = 16_384  # records; while a deletion writes a gigabyte anew, some seconds' worth of them wait
ERASE_AGAIN_S = 60.0  # after a deletion that failed


def check_bounds(bytes_max: int, age_max_s: float) -> None:
    """Raises RequestError for bounds that no archive can have."""
    if bytes_max < BYTES_MIN:
        text = f"an archive of {bytes_max} bytes; it must be at least {BYTES_MIN}"
        raise RequestError(text, setting="archive_bytes_max")
    if not age_max_s > 0:  # NaN too
        text = f"an archive that keeps records for {age_max_s:g} s; it must be above 0"
        raise RequestError(text, setting="archive_age_max_days")


class Archive:
    """The writing side; one process at a time has it. Close it.

    path: a folder, made where it is absent. bytes_max: all its files together; from 64 MiB up, every valid bitstream
    fits, and below that one of more than about an eighth of it is dropped. age_max_s: records that were received
    longer ago are deleted. Requests to delete records (`cloud.archive.deletion`) are carried out within seconds.
    queue_max, queue_bytes_max: what may wait for the disk; more is dropped. key: encrypts what is written, and this
    process then reads with it; without one an archive that has a key is refused.

    written, repeated, dropped: how many records so far were new, were there already, and were not kept.

    trouble: why the last batch was not written; empty if it was.

    Raises DataError where the folder cannot be used, RequestError for a bound out of range.
    """

    def __init__(
        self,
        path: str | Path,
        bytes_max: int,
        age_max_s: float,
        queue_max: int = QUEUE_MAX,
        queue_bytes_max: int = 32 << 20,
        key: ArchiveKey | None = None,
    ) -> None:
        check_bounds(bytes_max, age_max_s)
        self.path = Path(path)
        self.written = self.repeated = self.dropped = 0
        self.trouble = ""
        self._queue_max, self._queue_bytes_max = queue_max, queue_bytes_max
        self._queue: deque[Record] = deque()
        self._queue_bytes = 0
        self._accepted = self._settled = 0  # settled: written, repeated or dropped after the queue
        self._warned_at, self._not_reported = -WARN_EVERY_S, 0
        self._erase_at = 0.0
        self._closing = False
        self._changed = threading.Condition()
        self._store = Store(self.path, bytes_max, age_max_s, key)
        if key is not None:
            use_key(key)
        self._lock = -1
        try:
            self._lock = self._locked()
            self._store.open()
        except (sqlite3.Error, OSError) as error:
            self._unlock()
            raise DataError(f"cannot keep an archive in {self.path}: {reason_of(error)}") from None
        except BaseException:
            self._unlock()
            raise
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def append(
        self,
        camera: str,
        received_at: datetime,
        request_id: str,
        data: bytes,
        captured_at: datetime | None = None,
        chunk: str = "",
    ) -> bool:
        """Hands one record to the writer, without waiting. False: dropped and counted.

        Times: with their zone. chunk: the request id of the frame I at the root of its references; empty: none.
        """
        record = Record(camera or UNNAMED, received_at, request_id, data, captured_at, chunk)
        with self._changed:
            why = self._refusal(record)
            if why:
                self._drop(1, why)
                return False
            self._queue.append(record)
            self._queue_bytes += len(data)
            self._accepted += 1
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until what was accepted before this call is on the disk, or dropped. False: not within the time."""
        with self._changed:
            mark = self._accepted
            return self._changed.wait_for(lambda: self._settled >= mark, timeout_s)

    def read(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        camera: str | None = None,
        by: Clock = "captured",
    ) -> Iterator[Record]:
        """See `cloud.archive.records.read`; what still waits for the disk is not in it."""
        return read(self.path, since, until, camera, by)

    def close(self) -> None:
        """Writes what waits, and ends. Appending drops from here on."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _refusal(self, record: Record) -> str:
        if self._closing:
            return "the archive is closed"
        if not self._store.holds(record):
            return f"a bitstream of {len(record.data)} bytes is too large for an archive of this size"
        if (
            len(self._queue) >= self._queue_max
            or self._queue_bytes + len(record.data) > self._queue_bytes_max
        ):
            return "the disk is slower than what comes"
        return ""

    # What follows runs in the writer thread, except `_drop`, which runs under the condition.

    def _run(self) -> None:
        more = True  # a bound that shrank since the last run leaves work at the start
        while True:
            with self._changed:
                if not self._queue and not self._closing and not more:
                    self._changed.wait(LOOK_EVERY_S)
                batch = [self._queue.popleft() for _ in range(self._store.batch(self._queue))]
                self._queue_bytes -= sum(len(record.data) for record in batch)
                if not batch and self._closing:
                    break
            more = self._step(batch)
            with self._changed:
                self._settled += len(batch)
                self._changed.notify_all()
        self._store.close()

    def _step(self, batch: list[Record]) -> bool:
        """Writes a batch, then does some of what age and size ask. True: more of that is left."""
        unwritten = len(batch)
        try:
            self._look()
            if batch:
                new, others = self._store.insert(batch)
                self.trouble, unwritten = "", 0
                self._count(len(batch), new, others)
            self._erase()
            return self._store.tidy()
        except (sqlite3.Error, DataError, OSError) as error:
            self.trouble = f"the disk refused: {reason_of(error)}"
            with self._changed:
                self._drop(unwritten, self.trouble)
            # A connection that met an I/O error may be of no more use; the next step opens another.
            self._store.close()
            return False

    def _erase(self) -> None:
        """Carries out what is asked to be deleted, also of what waits here. A failure is logged, and tried again."""
        files = requested(self.path)
        if not files or time.monotonic() < self._erase_at:
            return
        try:
            asked = read_requests(files)
            if not asked:
                return
            deletions = list(asked.values())
            with self._changed:
                kept = [one for one in self._queue if not _taken(one, deletions)]
                self._settled += len(self._queue) - len(kept)
                self._queue_bytes = sum(len(one.data) for one in kept)
                self._queue = deque(kept)
            count = carry_out(self._store.erase, asked)
            log.info("%s: %d records deleted for good, as asked", self.path, count)
        except (sqlite3.Error, DataError, OSError) as error:
            log.error("%s: a deletion is not done yet: %s", self.path, reason_of(error))
            self._erase_at = time.monotonic() + ERASE_AGAIN_S
            self._store.close()

    def _count(self, total: int, new: int, others: list[Record]) -> None:
        self.written += new
        self.repeated += total - new - len(others)
        for record in others:
            with self._changed:
                self._drop(
                    1,
                    f"request id {record.request_id} of camera {record.camera} is recorded with another bitstream; "
                    "ids must not be used again",
                )

    def _look(self) -> None:
        """Begins anew where the files were deleted or replaced: what is written to deleted ones is kept by nobody, and
        grows without a bound. Raises DataError or OSError."""
        folder = self._lock >= 0 and identity(self.path / LOCK) != _identity(os.fstat(self._lock))
        if folder or self._store.replaced():
            log.error("%s: files of this archive were deleted or replaced; a new one begins", self.path)
            self._store.close()
        if folder:
            self._unlock()
        if self._lock < 0:
            self._lock = self._locked()

    def _locked(self) -> int:
        """Raises OSError, or DataError if another process has the folder."""
        taken = f"{self.path} is the archive of another process; each server needs its own"
        return lock_folder(self.path, LOCK, taken)

    def _drop(self, count: int, why: str) -> None:
        """Counts records that are not kept, and warns once a minute."""
        self.dropped += count
        self._not_reported += count
        now = time.monotonic()
        if now - self._warned_at >= WARN_EVERY_S:
            count, self._not_reported = self._not_reported, 0
            log.warning("%s: %s; %d records not kept (%d in all)", self.path, why, count, self.dropped)
            self._warned_at = now


def _taken(record: Record, deletions: list[Deletion]) -> bool:
    return any(one.matches(record.camera, record.time(one.by)) for one in deletions)


def reason_of(error: Exception) -> str:
    """Why the disk or the database refused, for people."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else f"{FILE}: {error}"


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino
