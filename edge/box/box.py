"""The camera box at work: sources -> Encoder -> spool -> link -> sinks. Knows no gRPC and no HTTP.

Source (a process each) -> accept: encode at the chosen quality, spool, and only then take the next image
  (by itself, or as one of a Group of frames, which the link sends in a session)
spool -> Link -> the cloud's answer -> sinks; the file of a folder is moved or deleted; the frame leaves the spool
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from PIL import Image

from edge.box.coder import Coder
from edge.box.posted import Posted
from edge.box.settings import RateSettings
from edge.capture.messages import Message
from edge.capture.settings import SourceSettings
from edge.capture.source import Source
from edge.lanes import Lanes
from edge.link import Cloud, Link, Sent
from edge.observer import Observer
from edge.pipeline import SessionLink
from edge.rate import SESSION_OVERHEAD, Pacer, Rate
from edge.sinks.sinks import Sinks
from edge.spool.records import NewFrame, Spooled
from edge.spool.spool import Spool
from shared.encoder import Encoder
from shared.errors import ImageError, RequestError
from shared.types import Analysis, Wanted

log = logging.getLogger("isthmus.edge.box")

MEASURE_S = 0.5
KEPT = 300  # frames of a source whose quality is shown, and whose size
DONE = "done"  # folder, in a watched one, for files that the cloud has
FULL_S = 0.2  # how often a full spool is tried again, with the policy "stop"


class Keeper:
    """Puts frames into the spool, all that wait in one transaction: a sync of the disk serves several cameras."""

    def __init__(self, spool: Spool, disk: ThreadPoolExecutor) -> None:
        self._spool, self._disk = spool, disk
        self._waiting: list[tuple[NewFrame, asyncio.Future[str | None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def put(self, frame: NewFrame) -> str | None:
        """The frame's request id once it is on the disk; None if it was not taken. Raises what `Spool.put` raises."""
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((frame, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            frames = [frame for frame, _ in batch]
            loop = asyncio.get_running_loop()
            try:
                ids = await loop.run_in_executor(self._disk, self._spool.put, frames)
            except Exception as error:  # whoever waits must hear of it; the next batch may well go
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), id_ in zip(batch, ids, strict=True):
                if not future.done():
                    future.set_result(id_)


class Box:
    """The sources, the spool and the link of one process. Must be made in the event loop that runs it; close it.

    accepted: frames spooled by source. drops: images that no frame was made of, by source and reason. last: the last
    image of each source, and the last answer. qualities: of its last frames. sizes: when (monotonic) frames of it were
    answered, and bytes that were sent of each. types: how many were, by how they were sent: I, P or S in a session,
    otherwise empty. refused: why the cloud did not take a source's last frame. posted: images that are not of
    sources, if there is a pipeline for them.
    """

    def __init__(
        self,
        encoder: Encoder,
        spool: Spool,
        cloud: Cloud,
        sinks: Sinks,
        in_flight_max: int = 8,
        rate: RateSettings | None = None,
        sessions: SessionLink | None = None,
    ) -> None:
        """sessions: of sources that have groups; None sends each frame by itself."""
        self.encoder, self.spool, self.sinks = encoder, spool, sinks
        self.sources: dict[str, Source] = {}
        self.accepted: Counter[str] = Counter()
        self.drops: Counter[tuple[str, str]] = Counter()
        self.last: dict[str, tuple[Image.Image, Analysis | None]] = {}
        self.refused: dict[str, str] = {}
        self.types: Counter[tuple[str, str]] = Counter()
        self.sizes: dict[str, deque[tuple[float, int]]] = {}
        self.qualities: dict[str, deque[int]] = {}
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._keeper = Keeper(spool, self._disk)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        rate = rate or RateSettings()
        budget = None if rate.kbit_per_s is None else rate.kbit_per_s * 125  # bytes a second
        self.rate = Rate(budget, rate.window_s, rate.overhead_bytes, rate.measured)
        self.lanes = None if sessions is None else lanes_of(sessions, encoder, self._encoding)
        of_groups = None if sessions is None else sessions.settings
        self._coder = Coder(self.rate, rate.window_s, self._encoding, of_groups)
        self._overhead = rate.overhead_bytes
        self._pace = Pacer(budget, rate.window_s, rate.overhead_bytes)
        own = _named(encoder)
        self.link = Link(
            spool,
            cloud,
            in_flight_max,
            own,
            self._answered,
            self._disk,
            self._pace,
            self.lanes,
            self._dropped,
        )
        self.posted: Posted | None = None
        self._running = [
            asyncio.create_task(self.link.run()),
            asyncio.create_task(self._measure(in_flight_max)),
        ]

    async def use(self, sources: Mapping[str, SourceSettings]) -> None:
        """Makes these the sources: new ones begin, others end, changed ones begin anew, the rest goes on."""
        known = {name: source.settings for name, source in self.sources.items()}
        for name in [name for name, settings in known.items() if sources.get(name) != settings]:
            log.info("%s: ends", name)
            await self._end(name)
        for name, settings in sources.items():
            if name not in self.sources:
                taken = partial(self.spool.taken, name, settings.after == "keep")
                source = Source(name, settings, taken)
                self.sources[name] = source
                self._tasks[name] = asyncio.create_task(self._run(source))
                log.info("%s: begins, %s %s", name, settings.kind, settings.place)

    def swap(self, encoder: Encoder) -> None:
        """Encodes with another bundle from the next image on; what is spooled is sent as it is."""
        self.encoder = encoder
        if self.lanes is not None:
            self.lanes.use(encoder)
        self.link.use(_named(encoder))

    def observer(self, other: Observer, camera: str) -> Posted:
        """What a pipeline outside the sources reports to, so that its images count among theirs; see `Posted`."""
        self.posted = Posted(other, camera, self._spent_elsewhere, self.sinks.put)
        return self.posted

    def _spent_elsewhere(self, size: int, now_s: float, overhead: int | None) -> None:
        self.rate.spent(size, now_s, overhead)
        self._pace.spent(size, overhead)

    async def close(self) -> None:
        """Ends the sources, then the link; what is in the spool stays there."""
        for name in list(self.sources):
            await self._end(name)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self.lanes is not None:
            await self.lanes.close()
        await self.sinks.close()
        self._encoding.shutdown()
        self._disk.shutdown()
        self.spool.close()

    async def disk_answers(self) -> None:
        """Returns once the thread of the spool has done what waits before this call."""
        await asyncio.get_running_loop().run_in_executor(self._disk, lambda: None)

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del self.sources[name]
        self._coder.end(name)
        for kept in (self.last, self.qualities, self.sizes, self.refused):
            kept.pop(name, None)

    async def _run(self, source: Source) -> None:
        async def accept(message: Message) -> None:
            await self._accept(source, message)

        try:
            await source.run(accept)
        except Exception:  # the outermost boundary of a source: the others go on
            log.exception("%s: unexpected error; this source has ended", source.name)
            source.state.status, source.state.trouble = "failed", "unexpected error; the log has more"

    async def _accept(self, source: Source, message: Message) -> None:
        """Encodes an image and spools it. Returns once it is on the disk, or dropped and counted."""
        assert message.image is not None
        settings, name, encoder = source.settings, source.name, self.encoder
        try:
            coded = await self._coder.code(encoder, name, message.image, settings)
        except (ImageError, RequestError) as error:
            self.drops[name, "encoder"] += 1
            source.state.trouble = str(error)
            return
        if coded is None:
            self.drops[name, "budget"] += 1
            return
        wanted = Wanted.same(settings.tasks, settings.top_k)
        if not settings.tasks:
            wanted = Wanted(top_k=settings.top_k)
        frame = NewFrame(
            name,
            encoder.bundle.fingerprint.hex(),
            coded.data,
            wanted.model_dump_json(),
            message.captured_at,
            message.origin,
            message.version if settings.after == "keep" else None,
            coded.id,
        )
        while (id_ := await self._keeper.put(frame)) is None:
            if self.spool.full != "stop" or frame.cost > self.spool.bytes_max:
                self.drops[name, "spool"] += 1
                return
            await asyncio.sleep(FULL_S)
        self.accepted[name] += 1
        self.rate.spent(coded.expected, time.monotonic(), coded.overhead)
        if self.lanes is not None and coded.latent is not None:
            self.lanes.remember(id_, coded.latent)
        self.last[name] = message.image, self.last.get(name, (None, None))[1]
        self.qualities.setdefault(name, deque(maxlen=KEPT)).append(coded.quality)
        log.debug("%s: frame %s spooled, %d bytes", name, id_, len(coded.data))
        self.link.wake()

    async def _measure(self, in_flight_max: int) -> None:
        """Lets the rate know what the link does."""
        while True:
            await asyncio.sleep(MEASURE_S)
            link = self.link
            waiting = self.spool.depth > link.in_flight + in_flight_max
            down, now_s = bool(link.trouble), time.monotonic()
            by_itself = link.sent - link.in_session
            through = link.bytes + self._overhead * by_itself + SESSION_OVERHEAD * link.in_session
            self.rate.measured(through, 0, waiting, down, now_s)

    async def _answered(self, one: Spooled, sent: Sent) -> None:
        """What is done with an answer before its frame leaves the spool. Done twice, it does no harm."""
        name, answer = one.frame.source, sent.answer
        self.refused.pop(name, None)
        self.types[name, sent.type] += 1
        if name in self.sources:
            self.sizes.setdefault(name, deque(maxlen=KEPT)).append((time.monotonic(), sent.size))
        if sent.type not in ("", "S"):
            self._coder.learn(name, len(one.frame.data), sent.size)
        self.sinks.put(name, answer)
        if name in self.last:
            self.last[name] = self.last[name][0], answer
        if one.frame.origin and name in self.sources:
            await asyncio.to_thread(finish, Path(one.frame.origin), self.sources[name].settings.after)

    def _dropped(self, one: Spooled, why: str) -> None:
        if one.frame.source in self.sources:
            self.refused[one.frame.source] = why


def lanes_of(to: SessionLink, encoder: Encoder, encoding: ThreadPoolExecutor) -> Lanes:
    return Lanes(to.transport, to.link, to.settings, encoder, encoding)


def _named(encoder: Encoder) -> tuple[str, str]:
    """Name and fingerprint of its bundle."""
    return encoder.bundle.manifest.name, encoder.bundle.fingerprint.hex()


def finish(file: Path, after: str) -> None:
    """Deletes a file that the cloud has, or moves it; one that cannot be is left where it is, and logged."""
    try:
        with suppress(FileNotFoundError):
            if after == "delete":
                file.unlink()
            elif after == "move":
                (file.parent / DONE).mkdir(exist_ok=True)
                os.replace(file, file.parent / DONE / file.name)
    except OSError as error:
        log.error("cannot %s %s: %s", after, file, error.strerror)
