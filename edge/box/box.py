"""The camera box at work: sources -> Encoder -> spool -> link -> sinks. Knows no gRPC and no HTTP.

Source (a process each) -> accept: encode at the chosen quality, spool, and only then take the next image
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from edge.box.settings import RateSettings
from edge.capture.messages import Message
from edge.capture.settings import SourceSettings
from edge.capture.source import Source
from edge.link import Cloud, Link
from edge.quality import quality_for
from edge.rate import Pacer, Rate
from edge.sinks.sinks import Sinks
from edge.spool.records import NewFrame, Spooled
from edge.spool.spool import Spool
from shared.encoder import Encoded, Encoder
from shared.errors import ImageError, RequestError
from shared.types import Analysis, Wanted

log = logging.getLogger("isthmus.edge.box")

MEASURE_S = 0.5
CODED_KEPT = 300  # frames of a source whose quality and size are shown
DONE = "done"  # folder, in a watched one, for files that the cloud has
FULL_S = 0.2  # how often a full spool is tried again, with the policy "stop"


@dataclass(frozen=True)
class Coded:
    """A frame that was accepted: when (monotonic), at which quality, and its bitstream's bytes."""

    at_s: float
    quality: int
    size: int


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
    image of each source, and the last answer. coded: its last frames.
    """

    def __init__(
        self,
        encoder: Encoder,
        spool: Spool,
        cloud: Cloud,
        sinks: Sinks,
        in_flight_max: int = 8,
        rate: RateSettings | None = None,
    ) -> None:
        self.encoder, self.spool, self.sinks = encoder, spool, sinks
        self.sources: dict[str, Source] = {}
        self.accepted: Counter[str] = Counter()
        self.drops: Counter[tuple[str, str]] = Counter()
        self.last: dict[str, tuple[Image.Image, Analysis | None]] = {}
        self.coded: dict[str, deque[Coded]] = {}
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._keeper = Keeper(spool, self._disk)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        rate = rate or RateSettings()
        budget = None if rate.kbit_per_s is None else rate.kbit_per_s * 125  # bytes a second
        self.rate = Rate(budget, rate.window_s, rate.overhead_bytes, rate.measured)
        pace = Pacer(budget, rate.window_s, rate.overhead_bytes)
        self.link = Link(spool, cloud, in_flight_max, _named(encoder), self._answered, self._disk, pace)
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
        self.link.use(_named(encoder))

    async def close(self) -> None:
        """Ends the sources, then the link; what is in the spool stays there."""
        for name in list(self.sources):
            await self._end(name)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
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
        for kept in (self.last, self.coded):
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
            encoded = await self._encode(encoder, message.image, settings)
        except (ImageError, RequestError) as error:
            self.drops[name, "encoder"] += 1
            source.state.trouble = str(error)
            return
        if encoded is None:
            self.drops[name, "budget"] += 1
            return
        wanted = Wanted.same(settings.tasks, settings.top_k)
        if not settings.tasks:
            wanted = Wanted(top_k=settings.top_k)
        frame = NewFrame(
            name,
            encoder.bundle.fingerprint.hex(),
            encoded.data,
            wanted.model_dump_json(),
            message.captured_at,
            message.origin,
            message.version if settings.after == "keep" else None,
        )
        while (id_ := await self._keeper.put(frame)) is None:
            if self.spool.full != "stop" or frame.cost > self.spool.bytes_max:
                self.drops[name, "spool"] += 1
                return
            await asyncio.sleep(FULL_S)
        self.accepted[name] += 1
        self.rate.spent(len(encoded.data), time.monotonic())
        self.last[name] = message.image, self.last.get(name, (None, None))[1]
        frame_of = Coded(time.monotonic(), encoded.quality, len(encoded.data))
        self.coded.setdefault(name, deque(maxlen=CODED_KEPT)).append(frame_of)
        log.debug("%s: frame %s spooled, %d bytes", name, id_, len(encoded.data))
        self.link.wake()

    async def _encode(self, encoder: Encoder, image: Image.Image, settings: SourceSettings) -> Encoded | None:
        """None for an image that even the lowest quality makes too large for the budget.

        Raises ImageError or RequestError.
        """
        bundle = encoder.bundle
        quality = settings.quality
        if settings.loss is not None:
            quality = quality_for(bundle, settings.tasks, settings.loss)
        allowed = self.rate.allowance(time.monotonic())
        if allowed is None or (settings.bytes_max is not None and settings.bytes_max <= allowed):
            return await self._encode_within(encoder, image, quality, settings.bytes_max)
        try:
            top = quality if settings.bytes_max is not None else bundle.quality(quality)
            return await self._encode_within(encoder, image, top, max(allowed, 1))
        except RequestError:  # it does not fit
            encoded = await self._encode_within(encoder, image, bundle.levels.lowest, None)
            return encoded if self.rate.may_send(len(encoded.data), time.monotonic()) else None

    async def _encode_within(
        self, encoder: Encoder, image: Image.Image, quality: int | None, bytes_max: int | None
    ) -> Encoded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoding, encoder.encode, image, quality, bytes_max)

    async def _measure(self, in_flight_max: int) -> None:
        """Lets the rate know what the link does."""
        while True:
            await asyncio.sleep(MEASURE_S)
            waiting = self.spool.depth > self.link.in_flight + in_flight_max
            down, now_s = bool(self.link.trouble), time.monotonic()
            self.rate.measured(self.link.bytes, self.link.sent, waiting, down, now_s)

    async def _answered(self, one: Spooled, answer: Analysis) -> None:
        """What is done with an answer before its frame leaves the spool. Done twice, it does no harm."""
        name = one.frame.source
        self.sinks.put(name, answer)
        if name in self.last:
            self.last[name] = self.last[name][0], answer
        if one.frame.origin and name in self.sources:
            await asyncio.to_thread(finish, Path(one.frame.origin), self.sources[name].settings.after)


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
