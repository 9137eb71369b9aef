"""A bundle's place on the shelf, loaded or not, and what is reported of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cloud.shelf.stock import Stock
from shared.bundle import Bundle
from shared.types import BundleInfo, Frozen, TaskInfo

State = Literal["loaded", "on disk", "refused"]


class BundleState(Frozen):
    """One folder of the shelf, as GET /bundles reports it."""

    folder: str = Field(description="its name")
    state: State = Field(description="on disk: it was checked, and is loaded when a request needs it")
    reason: str | None = Field(default=None, description="why it is refused, or could not be loaded last")
    name: str | None = Field(default=None, description="the bundle's; null if it cannot be read")
    fingerprint: str | None = Field(default=None, description="all 64 hex digits")
    created: str | None = None
    default: bool = Field(default=False, description="whether it answers images that are sent as they are")
    tasks: tuple[TaskInfo, ...] = ()
    requests: int = Field(default=0, ge=0, description="requests and frames that it was used for")
    running: int = Field(default=0, ge=0, description="of these, those that run now")
    loads: int = Field(default=0, ge=0, description="how often it was loaded")
    memory_bytes: int | None = Field(default=None, description="about the memory that it takes when loaded")


@dataclass(eq=False)
class Slot:
    """place: its folder's name. bundle: without added tasks. info: with those that it had last.

    bytes: of memory, when it was last loaded. used: the larger, the later it was used. waiting: requests that wait for
    it to be loaded. gone: it was taken off the shelf.
    """

    place: str
    bundle: Bundle
    info: BundleInfo
    stock: Stock | None = None
    loading: asyncio.Task[Stock] | None = None
    bytes: int = 0
    used: int = 0
    waiting: int = 0
    requests: int = 0
    loads: int = 0
    gone: bool = False
    reason: str | None = None
    retry_at: float = 0.0  # of the event loop's clock, after a load that failed

    def fill(self, stock: Stock) -> None:
        self.stock, self.reason = stock, None
        self.loads += 1
        self.note()

    def note(self) -> None:
        """Remembers what is reported also when it is not loaded."""
        if self.stock is not None:
            self.bytes, self.info = self.stock.bytes, self.stock.served.bundle.info()

    def state(self, *, default: bool) -> BundleState:
        manifest = self.bundle.manifest
        return BundleState(
            folder=self.place,
            state="loaded" if self.stock else "on disk",
            reason=self.reason,
            name=manifest.name,
            fingerprint=manifest.fingerprint,
            created=manifest.created,
            default=default,
            tasks=self.info.tasks,
            requests=self.requests,
            running=self.stock.users if self.stock else 0,
            loads=self.loads,
            memory_bytes=self.bytes or None,
        )
