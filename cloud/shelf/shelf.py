"""Bundles by their fingerprint: loaded when a request needs them, unloaded when memory runs short. Knows no request.

    use(mark) -> on the shelf? -> loaded? ------------------------------------> Served, counted until the block ends
                                  no -> room: the least recently used go ----> loaded in a thread --^
    put(place, bundle) -> loaded, warmed up, its tasks read: only then is it on the shelf, in place of what was there

What is unloaded or replaced answers the requests that have it, and its memory counts until the last of them is done.
While `put` checks a bundle it may take memory beyond the limit, and one bundle may always be loaded, however large.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING

from cloud.engine.batch_work import Served
from cloud.shelf.slot import BundleState, Slot
from cloud.shelf.stock import Stock
from shared.bundle import Bundle
from shared.errors import (
    BundleDamagedError,
    BundleError,
    BundleMismatchError,
    NotReadyError,
    RequestError,
    UnknownBundleError,
)
from shared.types import BundleInfo

if TYPE_CHECKING:
    from cloud.engine.load import Loaded

log = logging.getLogger("isthmus.cloud.shelf")

LOAD_WAIT_S = 30.0  # of one request for its bundle
RETRY_S = 5.0  # after a load that failed


class Shelf:
    """load: loads a bundle without its added tasks; blocks. Use it in one event loop.

    bytes_max: about the memory of loaded bundles. default: name or fingerprint of the one for images that are sent as
    they are; empty: the newest. waiting_max: requests that wait for one bundle to be loaded.
    """

    def __init__(
        self, load: Callable[[Bundle], Loaded], bytes_max: int, default: str = "", waiting_max: int = 64
    ) -> None:
        self._load, self._bytes_max = load, bytes_max
        self._wanted, self._waiting_max = default, waiting_max
        self._slots: dict[bytes, Slot] = {}
        self._ending: set[Stock] = set()  # no longer on the shelf, and still used
        self._released = asyncio.Event()
        self._loading = asyncio.Lock()
        self._clock = count(1)
        self.complete = asyncio.Event()  # not set while bundles of the first look are still to be checked
        self.complete.set()

    @contextlib.asynccontextmanager
    async def use(self, mark: bytes) -> AsyncIterator[Served]:
        """What a request is answered with. mark: the bundle's fingerprint, as a bitstream's header has it.

        Raises BundleMismatchError, or NotReadyError if the bundle cannot be loaded now.
        """
        slot = self._slots.get(mark)
        if slot is None and not self.complete.is_set():
            raise NotReadyError("the server is still loading its bundles; send the request again")
        if slot is None:
            raise BundleMismatchError(mark.hex(), ", ".join(one.hex() for one in self._slots) or "none")
        stock = await self._stock_of(slot)
        stock.users += 1
        if slot.stock is not stock:  # unloaded since, for another that waits
            self._ending.add(stock)
        slot.requests += 1
        slot.used = next(self._clock)
        try:
            yield stock.served
        finally:
            self._release(stock)

    @contextlib.asynccontextmanager
    async def use_default(self) -> AsyncIterator[Served]:
        """The same of the default bundle. Raises NotReadyError."""
        async with self.use(self.default.bundle.fingerprint) as served:
            yield served

    def marks(self) -> Iterable[bytes]:
        """See `cloud.requests.Bundles`."""
        return self._slots.keys()

    @property
    def default(self) -> Slot:
        """Raises NotReadyError if it is not on the shelf."""
        newest = sorted(self._slots.values(), key=lambda slot: slot.bundle.manifest.created, reverse=True)
        for slot in newest:
            if not self._wanted or is_named(slot.place, slot.bundle, self._wanted):
                return slot
        raise NotReadyError(f"the bundle {self._wanted or 'to serve'} is not here; send the request again")

    @property
    def places(self) -> set[str]:
        """Names of the folders whose bundle is on the shelf."""
        return {slot.place for slot in self._slots.values()}

    @property
    def bytes(self) -> int:
        """About the memory of loaded bundles, those included that are unloaded once their requests are done."""
        return self._loaded_bytes() + sum(stock.bytes for stock in self._ending)

    def infos(self) -> list[BundleInfo]:
        """What can be asked for, loaded or not; the default first, then by folder."""
        slots = sorted(self._slots.values(), key=lambda slot: (not self._is_default(slot), slot.place))
        return [slot.info for slot in slots]

    def bundle(self, fingerprint: str) -> Bundle:
        """The bundle of that fingerprint, of which 8 digits are enough. Raises UnknownBundleError."""
        return self._slot(fingerprint).bundle

    def find(self, name: str) -> Bundle:
        """The bundle of that folder, name or fingerprint. Raises UnknownBundleError."""
        for slot in sorted(self._slots.values(), key=lambda slot: slot.place):
            if is_named(slot.place, slot.bundle, name):
                return slot.bundle
        return self.bundle(name)

    def bundles(self) -> list[Bundle]:
        """All bundles on the shelf, without added tasks, by folder."""
        return [slot.bundle for slot in sorted(self._slots.values(), key=lambda slot: slot.place)]

    def others(self, bundle: Bundle) -> list[Bundle]:
        """The bundles on the shelf but for that one."""
        return [slot.bundle for mark, slot in self._slots.items() if mark != bundle.fingerprint]

    def states(self) -> list[BundleState]:
        """Every bundle on the shelf, by its folder's name."""
        slots = sorted(self._slots.values(), key=lambda slot: slot.place)
        return [slot.state(default=self._is_default(slot)) for slot in slots]

    def state(self, fingerprint: str) -> BundleState:
        """Raises UnknownBundleError."""
        slot = self._slot(fingerprint)
        return slot.state(default=self._is_default(slot))

    async def put(self, place: str, bundle: Bundle) -> None:
        """Takes a bundle, without its added tasks, once all of it is loaded and has run.

        Raises BundleError or RequestError, and then nothing has changed.
        """
        self._check_free(place, bundle)
        async with self._loading:
            stock = await self._stock(bundle)
        self._check_free(place, bundle)
        slot = Slot(place, bundle, bundle.info())
        before = next((one for one in self._slots.values() if one.place == place), None)
        if before is not None:
            slot.used, slot.requests, slot.loads = before.used, before.requests, before.loads
            self._take_off(before)
        slot.fill(stock)
        self._slots[bundle.fingerprint] = slot
        self._make_room(0)
        log.info(
            "bundle %s of %s is served, fingerprint %s", bundle.manifest.name, place, bundle.fingerprint.hex()
        )

    def remove(self, place: str) -> None:
        """Takes a folder's bundle off the shelf; its requests are answered."""
        for slot in [one for one in self._slots.values() if one.place == place]:
            self._take_off(slot)
            log.info("bundle %s of %s is no longer served", slot.bundle.manifest.name, place)

    async def load(self, fingerprint: str) -> None:
        """Loads a bundle before it is asked for. Raises UnknownBundleError or NotReadyError."""
        slot = self._slot(fingerprint)
        slot.retry_at = 0.0
        await self._stock_of(slot)
        slot.used = next(self._clock)

    def unload(self, fingerprint: str) -> None:
        """Unloads a bundle, which a request loads again. Raises UnknownBundleError."""
        self._evict(self._slot(fingerprint))

    async def look(self, *, again: bool = False) -> dict[str, dict[str, str]]:
        """Reads the added tasks of loaded bundles anew; why task folders were refused, by the bundle's folder."""
        refused = {}
        for slot in [one for one in self._slots.values() if one.stock]:
            if slot.stock is not None:  # it may have gone while another was looked at
                refused[slot.place] = (await slot.stock.look(again=again)).refused
                slot.note()
        return refused

    @property
    def refused_tasks(self) -> dict[str, dict[str, str]]:
        """Why task folders were refused by the last look, by the bundle's folder."""
        return {slot.place: slot.stock.watch.refused for slot in self._slots.values() if slot.stock}

    def _is_default(self, slot: Slot) -> bool:
        with contextlib.suppress(NotReadyError):
            return slot is self.default
        return False

    def _slot(self, fingerprint: str) -> Slot:
        for slot in self._slots.values():
            if len(fingerprint) >= 8 and slot.bundle.manifest.fingerprint.startswith(fingerprint):
                return slot
        raise UnknownBundleError(fingerprint[:64], [one.hex() for one in self._slots])

    def _check_free(self, place: str, bundle: Bundle) -> None:
        other = self._slots.get(bundle.fingerprint)
        if other is not None and other.place != place:
            raise BundleDamagedError(
                f"the bundle in {place} has the fingerprint {bundle.fingerprint.hex()} of the one in {other.place}, "
                "which is served; take one of them away"
            )

    async def _stock_of(self, slot: Slot) -> Stock:
        """Loaded, at once or after a wait. Raises BundleMismatchError or NotReadyError."""
        if slot.stock is not None:
            return slot.stock
        name = slot.bundle.manifest.name
        if slot.waiting >= self._waiting_max:
            raise NotReadyError(
                f"{slot.waiting} requests wait for bundle {name} to be loaded; try again later"
            )
        slot.waiting += 1
        try:
            async with asyncio.timeout(LOAD_WAIT_S):
                if slot.loading is None:
                    slot.loading = asyncio.create_task(self._fill(slot))
                    slot.loading.add_done_callback(_seen)
                # Shielded: a request with little time must not end the loading that others wait for.
                return await asyncio.shield(slot.loading)
        except TimeoutError:
            raise NotReadyError(f"bundle {name} is being loaded; send the request again") from None
        finally:
            slot.waiting -= 1

    async def _fill(self, slot: Slot) -> Stock:
        """Loads a bundle that was checked before. Raises BundleMismatchError or NotReadyError."""
        name, now = slot.bundle.manifest.name, asyncio.get_running_loop().time
        again = NotReadyError(f"bundle {name} cannot be loaded now; the server's log says why")
        try:
            if now() < slot.retry_at:
                raise again
            async with self._loading:
                await self._wait_for_room(slot.bytes)
                stock = await self._stock(slot.bundle)
            if slot.gone:
                raise BundleMismatchError(slot.bundle.fingerprint.hex(), "another in its place")
            slot.fill(stock)
            slot.used = next(self._clock)
            log.info("bundle %s is loaded, about %.0f MB", name, slot.bytes / 1e6)
            return stock
        except (BundleMismatchError, NotReadyError):
            raise
        except Exception as error:  # whatever it is, the requests for other bundles go on
            slot.reason = _reason(error)
            slot.retry_at = now() + RETRY_S
            log.error("bundle %s cannot be loaded: %s", name, slot.reason)
            raise again from None
        finally:
            slot.loading = None

    async def _stock(self, bundle: Bundle) -> Stock:
        stock = Stock(await asyncio.to_thread(self._load, bundle))
        await stock.look()
        return stock

    async def _wait_for_room(self, size: int) -> None:
        self._make_room(size)
        while self._ending and self.bytes + size > self._bytes_max:
            self._released.clear()
            await self._released.wait()

    def _make_room(self, size: int) -> None:
        """Unloads the least recently used until `size` more bytes fit; with size 0 one is kept, however large."""
        while self._loaded_bytes() + size > self._bytes_max:
            loaded = [slot for slot in self._slots.values() if slot.stock is not None]
            if len(loaded) <= (size == 0):
                return
            # Of those that were never used, the one that came last.
            self._evict(min(reversed(loaded), key=lambda slot: slot.used))

    def _loaded_bytes(self) -> int:
        return sum(slot.stock.bytes for slot in self._slots.values() if slot.stock is not None)

    def _evict(self, slot: Slot) -> None:
        stock, slot.stock = slot.stock, None
        if stock is None:
            return
        if stock.users:
            self._ending.add(stock)
        log.info("bundle %s is unloaded", slot.bundle.manifest.name)

    def _take_off(self, slot: Slot) -> None:
        slot.gone = True
        del self._slots[slot.bundle.fingerprint]
        self._evict(slot)

    def _release(self, stock: Stock) -> None:
        stock.users -= 1
        if not stock.users and stock in self._ending:
            self._ending.discard(stock)
            self._released.set()


def is_named(place: str, bundle: Bundle, name: str) -> bool:
    """Whether `name` is the folder's name, the bundle's, or 8 or more first digits of its fingerprint."""
    manifest = bundle.manifest
    by_mark = len(name) >= 8 and manifest.fingerprint.startswith(name)
    return name in (place, manifest.name) or by_mark


def _seen(task: asyncio.Task[Stock]) -> None:
    """Takes notice of how a loading ended for which nobody waits any more."""
    if not task.cancelled():
        task.exception()


def _reason(error: Exception) -> str:
    if isinstance(error, BundleError | RequestError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}"
