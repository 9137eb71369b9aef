"""Deletes records from outside a server: waits for the server that has the archive, or does it itself."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from cloud.archive.archive import LOCK
from cloud.archive.deletion import Deletion, carry_out, request, requested
from cloud.archive.schema import FILE
from cloud.archive.store import Store
from shared.errors import DataError
from shared.files import lock_folder

_LOOK_S = 0.1
_UNBOUNDED = 1 << 40


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
    store = Store(path, _UNBOUNDED, float("inf"))
    try:
        carry_out(store, requested(path))
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{FILE}: {error}"
        again = "the next start of a server or of this command goes on"
        raise DataError(f"{path}: not all is deleted yet: {reason}; {again}") from None
    finally:
        store.close()
        os.close(lock)
    return True
