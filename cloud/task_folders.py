"""Adds task folders to a bundle on disk and removes them; `task_watch` loads them into a running server.

    TASK_DIR -> checked, torch included -> BUNDLE/tasks/.NAME.xxxx -> synced -> renamed to BUNDLE/tasks/NAME

No existing file of the bundle is touched, so its fingerprint and every stored bitstream stay valid, and a server
sees a whole folder or none.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.bundle import TASK, TASKS, AddedTask, Bundle, task_folders
from shared.errors import RequestError, UnknownTaskError
from shared.files import sync_folder, write_atomically


def add_task(bundle: Path, folder: Path) -> AddedTask:
    """Copies the task in `folder` into the bundle, once everything about it is known to be sound.

    Raises BundleError, or RequestError if the bundle has a task of that name or cannot be written to.
    """
    from cloud.engine.bundle_model import load_branch

    opened = Bundle.open(bundle)
    added = opened.read_task(folder)
    name = added.task.name
    place = bundle / TASKS / name
    if any(one.task.name == name for one in opened.added):
        raise RequestError(f"{place} exists; take it out first: isthmus task remove {bundle} {name}")
    load_branch(opened, added, folder)
    with _reporting(place):
        if not place.parent.is_dir():
            place.parent.mkdir()
            sync_folder(bundle)
        _sweep(place.parent, name)
        temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{name}."))
        try:
            write_atomically(temporary / TASK, added.sealed_json())
            for file, data in added.read(folder).items():
                write_atomically(temporary / file, data)
            os.chmod(temporary, 0o755)  # mkdtemp's 0700 would hide it from a server of another user
            os.rename(temporary, place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(place.parent)
    return added


def remove_task(bundle: Path, name: str) -> None:
    """Removes an added task, also one that is damaged. Raises BundleError, UnknownTaskError or RequestError."""
    opened = Bundle.open_without_added(bundle)
    if any(task.name == name for task in opened.manifest.tasks):
        raise RequestError(f"{name!r} is a task of the bundle itself; only an added one can be removed")
    folders = {folder.name: folder for folder in task_folders(bundle)}
    if name not in folders:
        raise UnknownTaskError(name, [task.name for task in opened.manifest.tasks] + list(folders))
    with _reporting(folders[name]):
        _sweep(bundle / TASKS, name)
        # Renamed first: a server must not see a folder that is half gone.
        hidden = Path(tempfile.mkdtemp(dir=bundle / TASKS, prefix=f".{name}."))
        try:
            os.rename(folders[name], hidden / name)
            sync_folder(bundle / TASKS)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _sweep(tasks: Path, name: str) -> None:
    """Deletes what a killed change of the task left; anything younger than an hour may still be in use."""
    for left in tasks.glob(f".{glob.escape(name)}.*"):
        if left.stat().st_mtime < time.time() - 3600:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _reporting(place: Path) -> Iterator[None]:
    """Turns an OSError into a RequestError."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"cannot change {place}: {error.strerror}") from None
