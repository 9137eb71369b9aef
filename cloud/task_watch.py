"""Keeps a running server's added tasks equal to the folders of its bundle.

BUNDLE/tasks has changed -> what is new is loaded in a thread -> `model` is another one, from the next request on
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shared.bundle import MANIFEST, TAIL, TASK, TASKS, WEIGHTS, task_folders
from shared.errors import BundleDamagedError
from shared.types import BundleInfo, Frozen

if TYPE_CHECKING:
    from cloud.engine.bundle_model import CloudModel

log = logging.getLogger("isthmus.cloud.tasks")


class Reloaded(Frozen):
    """The result of a scan of the bundle's folder. refused: why a folder was not loaded, by the folder's name."""

    bundle: BundleInfo
    refused: dict[str, str]


Stamp = tuple[tuple[str, tuple[int, ...]], ...]


def _stamp(bundle: Path) -> Stamp:
    """The folders in a bundle's tasks/ as they lie on the disk; while it is equal nothing has changed.

    Raises BundleDamagedError.
    """
    if not (bundle / MANIFEST).exists():  # a disk that is away for a while takes no task out
        raise BundleDamagedError(f"there is no bundle at {bundle} any more")
    return tuple((folder.name, _stat(folder)) for folder in task_folders(bundle))


def _stat(folder: Path) -> tuple[int, ...]:
    numbers: list[int] = []
    for path in (folder, folder / TASK, folder / WEIGHTS, folder / TAIL):
        try:
            stat = path.stat()
            numbers += (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError as error:
            numbers.append(-(error.errno or 1))
    return tuple(numbers)


class TaskWatch:
    """Keeps a model's added tasks as its bundle's folder has them.

    A folder that cannot be loaded is logged once, with the reason, and changes nothing else: a task that is served
    already is served on. model: the one to serve; replaced, never changed.
    """

    def __init__(self, model: CloudModel) -> None:
        self.model = model
        self._path = model.bundle.path
        self._seen: Stamp | None = None
        self._refused: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()

    async def run(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Look for ever, each time that `wait` is over."""
        while True:
            await wait()
            await self.look()

    @property
    def refused(self) -> dict[str, str]:
        """Why a folder was not loaded by the last scan, by the folder's name; TASKS stands for all of them."""
        return self._refused

    async def look(self, *, again: bool = False) -> Reloaded:
        """One look, and what follows from it: when this returns, new requests see the tasks on the disk. again: also
        at what was refused and has not changed since."""
        async with self._one_at_a_time:
            if again and self._refused:
                self._seen = None
            try:
                model, refused, stamp = await asyncio.to_thread(self._load)
            except (
                Exception
            ) as error:  # the outermost boundary: the server goes on with the tasks that it has
                model, stamp = self.model, None
                refused = {TASKS: f"unexpected {type(error).__name__}: {error}"}
            if model is not self.model:
                self.model = model
                log.info("tasks now: %s", ", ".join(task.name for task in model.bundle.tasks))
            for name, reason in refused.items():
                if self._refused.get(name) != reason:
                    log.error("task folder %s is not loaded: %s", name, reason)
            self._seen, self._refused = stamp, refused
            return Reloaded(bundle=model.bundle.info(), refused=refused)

    def _load(self) -> tuple[CloudModel, dict[str, str], Stamp | None]:
        """Blocking: the model for what lies on the disk, why a folder is not in it, and the stamp of what was read; it
        is taken first, so that what changes meanwhile is found by the next look. Changes nothing: `look` may be
        cancelled before it swaps."""
        model = self.model
        try:
            stamp = _stamp(self._path)
        except BundleDamagedError as error:
            return model, {TASKS: str(error)}, None
        if stamp == self._seen:
            return model, self._refused, stamp
        refused, unexpected = {}, False
        names = {name for name, _ in stamp}
        served = {added.task.name: added for added in model.bundle.added}
        for name in served.keys() - names:
            model = model.without_added(name)
        for name in sorted(names):
            try:
                added = model.bundle.read_added(self._path / TASKS / name)
                if added != served.get(name):
                    model = model.with_added(added)
            except BundleDamagedError as error:
                refused[name] = str(error)
            except Exception as error:  # whatever one folder holds, the others are loaded
                refused[name] = f"unexpected {type(error).__name__}: {error}"
                unexpected = (
                    True  # by no verdict on the files, such as too little memory: the next look tries again
                )
        if unexpected:
            return model, refused, None
        return model, refused, stamp
