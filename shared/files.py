"""Files that are whole or absent: written next to their place, synced, renamed. Folders that commands fill."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.errors import DataError, RequestError

NAMED_MAX = 3  # files of a foreign folder that an error names


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one, never a part. Raises OSError."""
    with writing_atomically(path) as file:
        file.write(data)


@contextmanager
def writing_atomically(path: str | Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A file that becomes `path` when the block is left, and nothing where it is left by an error.

    mode: its permissions. Of a symbolic link the target is written. Raises OSError, also where `path` is there and no
    regular file: renaming over a device or a pipe would destroy it.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        kind = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(kind, "is a folder" if path.is_dir() else "is not a regular file", str(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # mkstemp's 0600 would hide most files from other users
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def refuse_existing(path: Path) -> None:
    """Raises DataError of the setting `out` where there is anything at `path` but an empty folder."""
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise DataError(f"{path} exists already; delete it, or choose another", setting="out")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` when the block is left, and nothing where it is left by an error.

    Raises DataError as `refuse_existing`, OSError.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o755)  # mkdtemp's 0700 would hide it from other users
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make sure that what was renamed or made in a folder outlives a crash. Raises OSError."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def refuse_foreign_folder(folder: Path, begun_by: Sequence[str], *, force: bool = False) -> None:
    """Keeps a command from writing among files of something else.

    begun_by: names of files, any of which shows that the same command began the folder. A folder that is empty or not
    there yet is anybody's, and so is any with `force`. Raises RequestError.
    """
    if force or not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir())
    if not names or any((folder / name).exists() for name in begun_by):
        return
    shown = ", ".join(names[:NAMED_MAX]) + (", ..." if len(names) > NAMED_MAX else "")
    raise RequestError(
        f"{folder} holds files of something else ({shown}); choose another folder, or force it",
        setting="force",
    )


def lock_folder(path: Path, name: str, taken: str) -> int:
    """The open lock of a folder, which is made; close it to let go. The kernel does when its process is killed.

    name: the lock's file in the folder. taken: what is said where another process has it.

    Raises OSError, or DataError with `taken`.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not lock_now(lock, fcntl.LOCK_EX):
            raise DataError(taken)
    except BaseException:
        os.close(lock)
        raise
    return lock


def lock_now(descriptor: int, kind: int) -> bool:
    """Takes a lock without waiting: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`. False: another process has one against it.

    Raises OSError where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
