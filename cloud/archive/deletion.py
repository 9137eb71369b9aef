"""Deletion by camera and time, after which the bytes are gone from the archive's files.

    isthmus cloud archive delete -> a request, a file in the archive's folder -> whoever holds the archive's lock:
        the command itself, or the writer of the server that runs
    -> one transaction deletes the records -> the database is written anew without them -> the request is removed

A kill at any moment leaves the request, or a finished deletion; whoever opens the archive next finishes it. A deleted
row alone is not enough: its bytes would stay in free pages, in gaps of pages in use, and in the write-ahead log.
"""

from __future__ import annotations

import fnmatch
import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from cloud.archive.records import reading
from cloud.archive.schema import Clock, columns_of, transaction
from shared.errors import RequestError
from shared.files import write_atomically
from shared.frozen import Frozen
from shared.times import to_microseconds

log = logging.getLogger("isthmus.cloud.archive")

PATTERN = r"^[A-Za-z0-9_.*-]{1,64}$"
STARS_MAX = 4  # a pattern with many of them takes long to match
_FILE_BYTES_MAX = 4096


class Deletion(Frozen):
    """Records to delete: of cameras whose name matches a pattern, since_us <= time < until_us by a clock."""

    camera: str = Field(pattern=PATTERN)
    since_us: int = Field(ge=-(1 << 62), le=1 << 62)
    until_us: int = Field(ge=-(1 << 62), le=1 << 62)
    by: Clock = "captured"

    @classmethod
    def of(cls, camera: str, since: datetime | None, until: datetime | None, by: Clock) -> Deletion:
        """camera: a pattern, * for any characters. None: no bound. Raises RequestError."""
        if since is not None and until is not None and since >= until:
            raise RequestError("the start of the time must be before its end", setting="from")
        if camera.count("*") > STARS_MAX:
            raise RequestError(f"a pattern of cameras has at most {STARS_MAX} *", setting="camera")
        try:
            return cls(
                camera=camera,
                since_us=-(1 << 62) if since is None else to_microseconds(since),
                until_us=1 << 62 if until is None else to_microseconds(until),
                by=by,
            )
        except ValidationError:
            text = f"{camera!r} is no pattern of cameras: 1 to 64 characters of A-Z a-z 0-9 _ . - and *"
            raise RequestError(text, setting="camera") from None

    def matches(self, camera: str, when: datetime) -> bool:
        """Whether it takes a record of that camera and time (`Record.time`)."""
        return fnmatch.fnmatchcase(camera, self.camera) and (
            self.since_us <= to_microseconds(when) < self.until_us
        )


def plan(path: Path, deletion: Deletion) -> tuple[int, int]:
    """How many records a deletion would take, and how many later ones could no longer be decoded without them.

    Raises DataError where there is no archive.
    """
    with reading(path) as db:
        columns = columns_of(db, path)
        when = columns.clocks[deletion.by]
        bounds = (deletion.since_us, deletion.until_us)
        taken = broken = 0
        for camera in _cameras(db, deletion):
            query = f"SELECT count(*) FROM records WHERE camera = ? AND {when} >= ? AND {when} < ?"
            taken += db.execute(query, (camera, *bounds)).fetchone()[0]
            if columns.chunk == "NULL":
                continue
            span = f"camera = ? AND {when} >= ? AND {when} < ?"
            query = f"""SELECT count(*) FROM records WHERE camera = ? AND chunk IN
                        (SELECT request_id FROM records WHERE {span}) AND NOT ({span})"""
            broken += db.execute(query, (camera, camera, *bounds, camera, *bounds)).fetchone()[0]
        return taken, broken


def request(path: Path, deletion: Deletion) -> Path:
    """Asks for a deletion, which outlives a kill; the file goes once it is done. Raises OSError."""
    file = path / f"delete-{uuid.uuid4().hex}.json"
    write_atomically(file, deletion.model_dump_json().encode())
    return file


def requested(path: Path) -> list[Path]:
    """The requests that are not carried out yet."""
    return sorted(path.glob("delete-*.json"))


def read_requests(files: Sequence[Path]) -> dict[Path, Deletion]:
    """What the files ask for. One that is no request is renamed and logged, and keeps no other from being carried out.

    Raises OSError.
    """
    found = {}
    for file in files:
        with file.open("rb") as opened:
            text = opened.read(_FILE_BYTES_MAX)
        try:
            found[file] = Deletion.model_validate_json(text)
        except ValidationError:
            aside = file.rename(file.with_suffix(".unreadable"))
            log.error("%s is no request to delete records, so nothing is deleted for it; ask again", aside)
    return found


def carry_out(erase: Callable[[Sequence[Deletion]], int], requests: Mapping[Path, Deletion]) -> int:
    """Carries requests out, and removes them. Returns how many records went.

    erase: deletes records for good. Raises what it raises, or OSError; the requests then stay.
    """
    count = erase(list(requests.values()))
    for file in requests:
        file.unlink(missing_ok=True)
    return count


def erase(db: sqlite3.Connection, deletions: Sequence[Deletion]) -> int:
    """Deletes records, and what the database's file and its log still hold of these and of others deleted earlier.

    db: an archive of any schema, without an open transaction. Writes the database once more, so it needs that much
    space. Returns how many records went. Raises sqlite3.Error, also where a program that reads for long keeps the log;
    the records are deleted then, but not all their bytes.
    """
    count = 0
    with transaction(db):
        for deletion in deletions:
            count += sum(_delete(db, deletion, camera) for camera in _cameras(db, deletion))
    wipe(db)
    return count


def wipe(db: sqlite3.Connection) -> None:
    """Leaves in the database's file and its log only what its rows hold. Raises sqlite3.Error, see `erase`."""
    # secure_delete would not do: it leaves copies where rows were moved between pages.
    db.execute("VACUUM")
    if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise sqlite3.OperationalError("another program has read for long and holds the log")


def _delete(db: sqlite3.Connection, deletion: Deletion, camera: str) -> int:
    when = columns_of(db, Path()).clocks[deletion.by]
    query = f"DELETE FROM records WHERE camera = ? AND {when} >= ? AND {when} < ?"
    return db.execute(query, (camera, deletion.since_us, deletion.until_us)).rowcount


def _cameras(db: sqlite3.Connection, deletion: Deletion) -> Iterator[str]:
    names = db.execute("SELECT DISTINCT camera FROM records").fetchall()
    return (name for (name,) in names if fnmatch.fnmatchcase(name, deletion.camera))
