"""Keeps a shelf equal to a folder of bundles while the server runs.

    DIR/NAME is new or has changed, and no longer changes -> opened, checked, loaded -> on the shelf
    DIR/NAME has gone                                     -> off the shelf, once its requests are answered

A bundle that cannot be served is logged once, with the reason, and changes nothing else. Entries whose name begins with
a dot are never read: copy a bundle under such a name, and rename it.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from cloud.shelf.shelf import Shelf, is_named
from cloud.shelf.slot import BundleState
from shared.bundle import MANIFEST, Bundle
from shared.errors import BundleError, RequestError

log = logging.getLogger("isthmus.cloud.shelf")

# Each file of a bundle with its inode, time and size.
Stamp = tuple[tuple[str, int, int, int], ...]


class BundleFolder:
    """folder: holds one folder a bundle. default: see `Shelf`; it is checked before the others."""

    def __init__(self, folder: Path, shelf: Shelf, default: str = "") -> None:
        self._folder, self._shelf, self._default = folder, shelf, default
        self._seen: dict[str, Stamp] = {}  # that were taken or refused
        self._before: dict[str, Stamp] = {}  # of the last look
        self._refused: dict[str, str] = {}
        self._trouble = ""
        self._one_at_a_time = asyncio.Lock()

    @property
    def refused(self) -> dict[str, str]:
        """Why a bundle is not served as it lies on the disk, by its folder's name."""
        return dict(self._refused)

    @property
    def trouble(self) -> str:
        """What is wrong with the folder of bundles itself; empty if nothing is."""
        return self._trouble

    def states(self) -> list[BundleState]:
        """Of what is on the shelf, and of what is refused and not on it."""
        states = {state.folder: state for state in self._shelf.states()}
        for name, reason in self._refused.items():
            known = states.get(name)
            states[name] = (
                BundleState(folder=name, state="refused", reason=reason)
                if known is None
                else known.model_copy(update={"reason": reason})
            )
        return [states[name] for name in sorted(states)]

    async def look(self, *, again: bool = False, first: bool = False) -> None:
        """One look, and what follows from it.

        again: also at what was refused and at what may still change. first: until one bundle is on the shelf, without
        waiting for what may still change.
        """
        async with self._one_at_a_time:
            try:
                stamps = await asyncio.to_thread(_stamps, self._folder)
            except OSError as error:
                self._report(f"cannot read {self._folder}: {error.strerror}")
                return
            if not stamps:  # a disk that is away takes no bundle off
                self._report(f"there is no bundle in {self._folder}; what was served is served on")
                return
            self._report("")
            self._forget(set(self._shelf.places | self._refused.keys()) - stamps.keys())
            settled = {
                name for name, stamp in stamps.items() if again or first or self._before.get(name) == stamp
            }
            self._before = stamps
            changed = {
                name: stamps[name]
                for name in settled
                if self._seen.get(name) != stamps[name] or (again and name in self._refused)
            }
            await self._take(changed, first)

    async def _take(self, changed: dict[str, Stamp], first: bool) -> None:
        """Puts each bundle on the shelf, or refuses it: the default, then the newest."""
        opened: list[tuple[str, Bundle]] = []
        for name in changed:
            try:
                opened.append((name, await asyncio.to_thread(Bundle.open_without_added, self._folder / name)))
            except BundleError as error:
                self._seen[name] = changed[name]
                self._refuse(name, str(error))
        opened.sort(key=lambda one: one[1].manifest.created, reverse=True)
        opened.sort(key=lambda one: not is_named(one[0], one[1], self._default))
        for name, bundle in opened:
            if await self._put(name, bundle, changed[name]) and first:
                return

    async def _put(self, name: str, bundle: Bundle, stamp: Stamp) -> bool:
        try:
            await self._shelf.put(name, bundle)
        except (BundleError, RequestError) as error:
            self._seen[name] = stamp
            self._refuse(name, str(error))
            return False
        except Exception as error:  # by no verdict on the files: the next look tries again
            self._refuse(name, f"unexpected {type(error).__name__}: {error}")
            return False
        self._seen[name] = stamp
        self._refused.pop(name, None)
        return True

    def _forget(self, gone: set[str]) -> None:
        for name in gone:
            self._shelf.remove(name)
            self._refused.pop(name, None)
            self._seen.pop(name, None)

    def _refuse(self, name: str, reason: str) -> None:
        if self._refused.get(name) != reason:
            log.error("bundle folder %s is not loaded: %s", name, reason)
        self._refused[name] = reason

    def _report(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.error("%s", trouble)
        self._trouble = trouble


def _stamps(folder: Path) -> dict[str, Stamp]:
    """The bundles of a folder as they lie on the disk, by name. Raises OSError."""
    bundles = (entry for entry in sorted(folder.iterdir()) if not entry.name.startswith("."))
    return {entry.name: _stamp(entry) for entry in bundles if entry.is_dir()}


def _stamp(bundle: Path) -> Stamp:
    """Leaves out tasks/, which `TaskWatch` looks after. A bundle without a manifest is one as well, refused by name."""
    files = []
    for path in sorted({bundle / MANIFEST, *bundle.iterdir()}):
        try:
            stat = path.stat()
        except OSError as error:
            files.append((path.name, -(error.errno or 1), 0, 0))
            continue
        if path.is_file():
            files.append((path.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(files)
