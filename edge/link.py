"""From the spool to the cloud: frames are leased, sent, and leave the spool once the cloud has them. Knows no image.

    describe (until the cloud serves our bundle) -> lease -> in a session, or by itself; several at once -> acknowledge

What a failure means for the frame:
    unreachable, late, overloaded, no permission, another bundle    it stays, and is sent again after a wait that grows
    refused as such (a task that is unknown, bytes that are wrong)  dropped as "refused": sent again it would be refused
    the cloud failed                                                sent again a few times, then dropped as "failed"

What was sent in a session and not answered, or refused there, is sent again by itself, and that answer counts.

The wait holds for the link as a whole: while a cloud is away, one frame tries.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from edge.lanes import InSession, UnansweredError
from edge.spool.records import Spooled
from edge.spool.spool import Spool
from shared.errors import (
    CloudUnreachableError,
    DeadlineError,
    IsthmusError,
    OverloadedError,
    RemoteRejectedError,
)
from shared.process.logs import about
from shared.types import Analysis, BundleInfo, Wanted

log = logging.getLogger("isthmus.edge.link")

T = TypeVar("T")

FIRST_WAIT_S, WAIT_MAX_S = 0.2, 10.0
LOOK_S = 1.0  # how often the spool is looked at, where nobody says that there is something
DESCRIBE_EVERY_S = 300.0
TRIES = 5  # of a frame at which the cloud fails
TRIED_MAX = 1024  # frames whose tries are counted; those that the spool drops meanwhile would stay for ever
REFUSED = ("INVALID_ARGUMENT", "NOT_FOUND")
PASSING = (CloudUnreachableError, DeadlineError, OverloadedError)
WAITS = ("FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED")


class Cloud(Protocol):
    """What a link needs of `edge.client.Client`."""

    async def analyze(
        self,
        request_id: str,
        bitstream: bytes,
        wanted: Wanted,
        camera: str = "",
        captured_at: datetime | None = None,
    ) -> Analysis: ...

    async def describe(self) -> list[BundleInfo]: ...


class Sessions(Protocol):
    """What a link needs of `edge.lanes.Lanes`. light: frames in flight on which the cloud has no work."""

    @property
    def light(self) -> int: ...

    async def analyze(self, one: Spooled) -> InSession | None: ...


class Pace(Protocol):
    """What a link needs of `edge.rate.Pacer`."""

    async def __call__(self, size: int) -> None: ...

    def in_session(self, size: int, sent: int) -> None: ...


@dataclass(frozen=True)
class Sent:
    """An answered frame. size: bytes that were sent of it. type: I, P or S in a session, otherwise empty."""

    answer: Analysis
    size: int
    type: str = ""


# What is done with an answer, before its frame leaves the spool.
Answered = Callable[[Spooled, Sent], Awaitable[None]]
# What is done where a frame is given up, and why it is.
Dropped = Callable[[Spooled, str], None]


class Link:
    """Sends what a spool holds. Must be made in the event loop that runs it.

    in_flight_max: frames at once, without those of sessions on which the cloud has no work. bundle: the box's own, name
    and fingerprint. pace: waits before so many bytes are sent. disk: one thread in which the spool is used. sessions:
    None sends each frame by itself.

    sent, bytes: frames acknowledged, and what was sent of them. in_session: those of them that were sent in one.
    trouble: why nothing goes through; empty if it does.
    """

    def __init__(
        self,
        spool: Spool,
        cloud: Cloud,
        in_flight_max: int,
        bundle: tuple[str, str],
        answered: Answered,
        disk: ThreadPoolExecutor,
        pace: Pace | None = None,
        sessions: Sessions | None = None,
        dropped: Dropped = lambda _, __: None,
    ) -> None:
        self.trouble = ""
        self.sent = self.bytes = self.in_session = 0
        self._sessions, self._dropped = sessions, dropped
        self._spool, self._cloud, self._answered = spool, cloud, answered
        self._bundle, self._disk, self._pace = bundle, disk, pace
        self._in_flight_max = in_flight_max
        self._served: set[str] = set()
        self._described_s = float("-inf")
        self._wait_s = 0.0  # before the next attempt
        self._tries: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Frames that the cloud works on."""
        return len(self._tasks)

    def use(self, bundle: tuple[str, str]) -> None:
        """The box codes with another bundle from now on; what is in the spool goes to whom it was coded for."""
        self._bundle, self._described_s = bundle, float("-inf")
        self.wake()

    def wake(self) -> None:
        """There is something in the spool."""
        self._changed.set()

    async def run(self) -> None:
        """Sends until it is cancelled; what is in flight then stays in the spool."""
        try:
            while True:
                if self._wait_s:
                    await self._finish()
                    await asyncio.sleep(self._wait_s * random.uniform(0.7, 1.3))
                if time.monotonic() - self._described_s > DESCRIBE_EVERY_S and not await self._describe():
                    continue
                if not await self._send_some():
                    await self._look()
        finally:
            for task in self._tasks:
                task.cancel()
            await self._finish()

    async def _describe(self) -> bool:
        """Learns what the cloud serves. False: not now."""
        try:
            served = await self._cloud.describe()
        except IsthmusError as error:
            self._failed(str(error))
            return False
        self._served = {one.fingerprint for one in served}
        name, fingerprint = self._bundle
        if fingerprint not in self._served:
            theirs = ", ".join(f"{one.name} ({one.fingerprint})" for one in served) or "none"
            self._failed(
                f"the cloud serves bundle {theirs}, and this box codes with {name} ({fingerprint}); frames wait until "
                "both have the same"
            )
            return bool(self._served)
        self._described_s = time.monotonic()
        return True

    async def _send_some(self) -> bool:
        """Starts sending what there is room for. False: there is nothing, or no room."""
        # After a failure one frame tries; the rest follows once it is through.
        light = self._sessions.light if self._sessions is not None else 0
        room = (1 if self._wait_s else self._in_flight_max + light) - len(self._tasks)
        if room <= 0:
            return False
        frames = await self._on_disk(lambda: self._spool.lease(room, self._served))
        for one in frames:
            if self._pace is not None:
                await self._pace(len(one.frame.data))
            task = asyncio.create_task(self._send(one))
            self._tasks.add(task)
            task.add_done_callback(self._done)
        return bool(frames)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("unexpected error", exc_info=task.exception())

    async def _look(self) -> None:
        """Waits until there may be something to do."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def _finish(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, one: Spooled) -> None:
        about(one.id)
        try:
            sent = await self._ask(one)
            await self._answered(one, sent)
        except UnansweredError as error:
            if isinstance(error.cause, PASSING):
                self._failed(str(error))
            await self._on_disk(lambda: self._spool.give_back([one.id], sent=True))
        except IsthmusError as error:
            await self._sort(one, error)
        except BaseException:
            self._spool.give_back([one.id])
            raise
        else:
            self._tries.pop(one.id, None)
            self.trouble, self._wait_s = "", 0.0
            self.sent, self.bytes = self.sent + 1, self.bytes + sent.size
            self.in_session += bool(sent.type)
            await self._on_disk(lambda: self._spool.acknowledge([one.id]))

    async def _ask(self, one: Spooled) -> Sent:
        """Raises UnansweredError or IsthmusError."""
        frame = one.frame
        if self._sessions is not None:
            done = await self._sessions.analyze(one)
            if done is not None:
                if self._pace is not None:
                    self._pace.in_session(len(frame.data), done.size)
                return Sent(done.answer, done.size, done.type)
        wanted = Wanted.model_validate_json(frame.wanted)
        answer = await self._cloud.analyze(one.id, frame.data, wanted, frame.source, frame.captured_at)
        return Sent(answer, len(frame.data))

    async def _sort(self, one: Spooled, error: IsthmusError) -> None:
        """What becomes of a frame that was not answered."""
        code = error.code if isinstance(error, RemoteRejectedError) else ""
        if code in REFUSED:
            await self._drop(one, "refused", error)
            return
        if code == "FAILED_PRECONDITION":
            self._described_s = float("-inf")
        passing = isinstance(error, PASSING) or code in WAITS
        if not passing:
            self._tries[one.id] += 1
            while len(self._tries) > TRIED_MAX:
                del self._tries[next(iter(self._tries))]
            if self._tries[one.id] >= TRIES:
                await self._drop(one, "failed", error)
                return
        self._failed(str(error))
        await self._on_disk(lambda: self._spool.give_back([one.id]))

    async def _drop(self, one: Spooled, reason: str, error: IsthmusError) -> None:
        self._tries.pop(one.id, None)
        log.error("frame %s of %s is dropped (%s): %s", one.id, one.frame.source, reason, error)
        self._dropped(one, f"frames are {reason}: {error}")
        await self._on_disk(lambda: self._spool.drop([one.id], reason))

    def _failed(self, text: str) -> None:
        if text != self.trouble:
            log.warning("%s", text)
        self.trouble = text
        self._wait_s = min(max(2 * self._wait_s, FIRST_WAIT_S), WAIT_MAX_S)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)
