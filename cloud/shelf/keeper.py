"""Keeps a running server's shelf as the disk has it: one bundle (`--bundle`), or a folder of them (`--bundles`).

begin -> a bundle is on the shelf: the server is ready -> run: look again and again, or when an operator calls
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from cloud.shelf.folder import BundleFolder
from cloud.shelf.rollout import Rollout, RolloutState
from cloud.shelf.shelf import Shelf
from cloud.shelf.slot import BundleState
from shared.bundle import TASKS, Bundle
from shared.errors import RequestError
from shared.types import BundleInfo, Frozen


class Looked(Frozen):
    """The result of a look at the disk.

    bundle: the default one. refused: why a folder is not served as it lies there, by its path in the folder of bundles,
    or in the bundle's own tasks/ where one bundle is served.
    """

    bundle: BundleInfo
    bundles: tuple[BundleState, ...]
    refused: dict[str, str]


class Keeper:
    """source: the bundle, without added tasks, or the folder of bundles. default: see `Shelf`.

    rollout: which camera should run which of them.
    """

    def __init__(
        self, shelf: Shelf, source: Bundle | Path, default: str = "", rollout: Rollout | None = None
    ) -> None:
        self.shelf, self.rollout = shelf, rollout or Rollout()
        self._one = source if isinstance(source, Bundle) else None
        self._folder = None if isinstance(source, Bundle) else BundleFolder(source, shelf, default)

    async def begin(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Until a bundle is on the shelf. wait: between two looks at a folder that has none.

        Raises BundleError if the only bundle cannot be served.
        """
        if self._one is not None:
            await self.shelf.put(self._one.path.name or str(self._one.path), self._one)
            return
        assert self._folder is not None
        self.shelf.complete.clear()
        while not self.shelf.places:
            await self._folder.look(first=True)
            if not self.shelf.places:
                await wait()

    async def run(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Look for ever, each time that `wait` is over."""
        while True:
            await wait()
            await self._look(again=False)

    async def look(self, *, again: bool = False) -> Looked:
        """One look: when this returns, new requests see what lies on the disk.

        again: also at what was refused and has not changed since. Raises NotReadyError if there is no default bundle.
        """
        await self._look(again=again)
        return Looked(bundle=self.shelf.default.info, bundles=tuple(self.states()), refused=self.refused)

    async def roll_out(
        self, bundle: str, to: str, base: str | None, errors_max: float, requests_min: int
    ) -> RolloutState:
        """See `Rollout.begin`; bundles by folder, name or 8 digits of the fingerprint.

        Raises UnknownBundleError, RequestError or NotReadyError.
        """
        new, plan = self.shelf.find(bundle), self.rollout.plan
        if base is not None:
            old = self.shelf.find(base).manifest.fingerprint
        elif plan is not None and plan.bundle == new.manifest.fingerprint:
            old = plan.base
        elif plan is not None:
            old = plan.bundle if plan.share == 1 and not plan.back else plan.base
        else:
            others = self.shelf.others(new)
            if len(others) != 1:
                raise RequestError(
                    f"{len(others)} other bundles are served; name the one that cameras go back to",
                    setting="from",
                )
            old = others[0].manifest.fingerprint
        fingerprint = new.manifest.fingerprint
        await asyncio.to_thread(self.rollout.begin, fingerprint, old, to, errors_max, requests_min)
        return self.rollout.state()

    async def roll_back(self) -> RolloutState:
        """See `Rollout.back`. Raises RequestError or NotReadyError."""
        await asyncio.to_thread(self.rollout.back)
        return self.rollout.state()

    def states(self) -> list[BundleState]:
        return self.shelf.states() if self._folder is None else self._folder.states()

    @property
    def refused(self) -> dict[str, str]:
        """See `Looked`."""
        tasks = self.shelf.refused_tasks
        if self._folder is None:
            return {name: reason for refused in tasks.values() for name, reason in refused.items()}
        found = {
            f"{place}/{TASKS}/{n}": why for place, refused in tasks.items() for n, why in refused.items()
        }
        return self._folder.refused | found

    @property
    def troubles(self) -> dict[str, str]:
        """Why parts do not work now, by name, for /readyz."""
        if self._folder is None:
            return {f"{TASKS}/{name}": why for name, why in self.refused.items()}
        whole = {"bundles": self._folder.trouble} if self._folder.trouble else {}
        return whole | {f"bundles/{name}": why for name, why in self.refused.items()}

    async def _look(self, *, again: bool) -> None:
        if self._folder is not None:
            await self._folder.look(again=again)
            self.shelf.complete.set()
        await self.shelf.look(again=again)
