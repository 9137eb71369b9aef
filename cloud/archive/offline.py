"""Changes an archive from outside a server: deletes records, which a running server does instead; encrypts."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from cloud.archive.archive import LOCK, reason_of
from cloud.archive.deletion import Deletion, carry_out, erase, read_requests, request, requested
from cloud.archive.encrypting import change_key
from cloud.archive.encryption import ArchiveKey
from cloud.archive.records import reading
from cloud.archive.schema import FILE
from cloud.archive.store import Store
from shared.database import Database
from shared.errors import DataError
from shared.files import lock_folder

_LOOK_S = 0.1
_UNBOUNDED = 1 << 40
_BUSY_S = 2.0  # how long a write waits for another program's lock


def delete_records(path: Path, deletion: Deletion, say: Callable[[str], None], wait_s: float = 600.0) -> None:
    """Returns once the records are gone from the files. say: takes a line for people.

    Raises DataError where that fails, or takes longer than `wait_s`; the request stays then, for whoever opens the
    archive next.
    """
    try:
        file = request(path, deletion)
    except OSError as error:
        raise DataError(f"cannot write into {path}: {error.strerror}") from None
    until, said = time.monotonic() + wait_s, False
    while file.exists() and not _done_here(path):
        if not said:
            say(f"a server has {path} and deletes within seconds; waiting for it")
            said = True
        if time.monotonic() > until:
            raise DataError(
                f"the server that has {path} has not finished yet; its log says why, and it goes on"
            )
        time.sleep(_LOOK_S)


def _done_here(path: Path) -> bool:
    """Carries out all requests. False: another process has the archive. Raises DataError."""
    try:
        lock = lock_folder(path, LOCK, "")
    except DataError:
        return False
    try:
        # Not through `Store`: what goes needs no key, no bounds and no newer schema.
        with closing(sqlite3.connect(path / FILE, _BUSY_S, isolation_level=None, factory=Database)) as db:
            carry_out(lambda deletions: erase(db, deletions), read_requests(requested(path)))
    except (sqlite3.Error, OSError) as error:
        again = "the next start of a server or of this command goes on"
        raise DataError(f"{path}: not all is deleted yet: {reason_of(error)}; {again}") from None
    finally:
        os.close(lock)
    return True


def encrypt_archive(path: Path, key: ArchiveKey, old: ArchiveKey | None = None) -> int:
    """Encrypts the database of an archive. old: the key that it has so far, in whose place `key` comes.

    Returns how many records. Raises DataError.
    """
    with reading(path):
        pass  # there is one, which is not made here
    lock = lock_folder(path, LOCK, f"a server has {path}; stop it first")
    store = Store(path, _UNBOUNDED, float("inf"), key)
    try:
        if old is not None:
            with closing(sqlite3.connect(path / FILE, _BUSY_S, isolation_level=None, factory=Database)) as db:
                change_key(db, old, key)
        return store.encrypt(key)
    except (sqlite3.Error, OSError) as error:
        raise DataError(f"{path}: not all is encrypted yet: {reason_of(error)}; do it again") from None
    finally:
        store.close()
        os.close(lock)
