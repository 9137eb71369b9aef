"""A camera's images, coded given earlier ones, and the cloud's answers: what a camera program uses.

    async with CameraSession(encoder, CloudLink(address="cloud:50051"), camera="door") as session:
        async for answer in session.run(images):
            print(answer.frame, answer.analysis.bytes.total, answer.analysis.results)

images: files, bytes of files, or RGB images, at whatever pace they come; `Shot` adds when one was captured. Where the
cloud needs a frame by itself, or the stream breaks, the same image is sent again as a frame I; nobody else notices.
Knows no gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from PIL import Image

from edge import client
from edge.session_stream import Reply, SessionCall, SessionStream
from edge.settings import CloudLink, SessionSettings
from shared.encoder import Encoder, Features, count_frame
from shared.errors import CloudUnreachableError, DeadlineError, RemoteError
from shared.session_packets import SessionOpen, SessionReady, new_session
from shared.times import check_captured_at
from shared.types import Analysis, Wanted, check_camera

INTRA_TRIES = 3  # how often one image is sent before the cloud's NEED_INTRA is taken for a fault

Source = str | Path | bytes | Image.Image


class SessionTransport(Protocol):
    """Where streams are opened. `edge.client.GrpcTransport` is one."""

    def open_session(self) -> SessionCall: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Shot:
    """An image and when it was captured, with its zone; None if unknown."""

    image: Source
    captured_at: datetime | None = None


@dataclass(frozen=True)
class SessionAnswer:
    """The answer to one image.

    frame: how it was sent: "I", "P", "S" or "I base". number: of the frame in its session. same_as: the number of the
    frame whose results these are, if the cloud said no more than that. missing: tasks that need more than was sent.
    """

    analysis: Analysis
    frame: str
    number: int
    same_as: int | None = None
    missing: tuple[str, ...] = ()


class CameraSession:
    """One camera's way to its cloud. Must be made and used in one event loop; use `async with`, or close it.

    wanted: what is asked of every image. camera: its name. transport: in place of a gRPC channel to `link.address`; it
    is left open. encoding: one thread that others use too.
    """

    def __init__(
        self,
        encoder: Encoder,
        link: CloudLink,
        settings: SessionSettings | None = None,
        wanted: Wanted | None = None,
        camera: str = "",
        transport: SessionTransport | None = None,
        encoding: Executor | None = None,
    ) -> None:
        self._encoder, self._link = encoder, link
        self._settings = settings or SessionSettings()
        self._wanted, self._camera = wanted or Wanted(), check_camera(camera)
        self._own_transport = None if transport else client.grpc_transport(link)
        self._transport: SessionTransport = transport or self._own_transport or client.grpc_transport(link)
        self._own_encoding = None if encoding else ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._encoding: Executor = encoding or self._own_encoding or ThreadPoolExecutor(1)
        self._places = asyncio.Semaphore(self._settings.in_flight_max)
        self._stream: SessionStream | None = None

    async def __aenter__(self) -> CameraSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.close()
        if self._own_encoding is not None:
            self._own_encoding.shutdown()
        if self._own_transport is not None:
            await self._own_transport.close()

    async def analyze(
        self, image: Source, quality: int | None = None, captured_at: datetime | None = None
    ) -> SessionAnswer:
        """The answer to one image. Several may be waited for at once; those beyond `in_flight_max` wait for a place.

        quality: None for the bundle's default. captured_at: with its zone.

        Raises ImageError or a subclass, RequestError, RemoteError or a subclass, or OverloadedError.
        """
        level = self._encoder.bundle.quality(quality)
        if captured_at is not None:
            check_captured_at(captured_at)
        until = asyncio.get_running_loop().time() + self._link.deadline_ms / 1e3
        try:
            async with asyncio.timeout_at(until), self._places:
                read = partial(self._encoder.read, image)
                front = await asyncio.get_running_loop().run_in_executor(self._encoding, read)
                return await self._send(front, level, captured_at, until)
        except TimeoutError:
            raise client.late(self._link) from None

    async def run(
        self, images: Iterable[Source | Shot] | AsyncIterable[Source | Shot], quality: int | None = None
    ) -> AsyncIterator[SessionAnswer]:
        """The answer to each image, in their order; the next images are read and sent meanwhile.

        Raises what `analyze` raises, for the first image that cannot be answered, and what `images` raises, once those
        before are answered.
        """
        each = _each(images)
        waiting: deque[asyncio.Task[SessionAnswer]] = deque()
        coming: asyncio.Task[Source | Shot | None] | None = None
        ended, failed = False, None
        try:
            while not ended or waiting:
                if coming is None and not ended and len(waiting) < self._settings.in_flight_max:
                    coming = asyncio.create_task(_next(each))
                first = [task for task in (coming, *list(waiting)[:1]) if task is not None]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if coming is not None and coming.done():
                    failed = coming.exception()
                    image, coming = None if failed else coming.result(), None
                    if image is None:
                        ended = True
                    else:
                        shot = image if isinstance(image, Shot) else Shot(image)
                        answer = self.analyze(shot.image, quality, shot.captured_at)
                        waiting.append(asyncio.create_task(answer))
                while waiting and waiting[0].done():
                    yield await waiting.popleft()
            if failed is not None:
                raise failed
        finally:
            left = [*waiting, *([coming] if coming else [])]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await each.aclose()

    async def _send(
        self, front: Features, quality: int, captured_at: datetime | None, until: float
    ) -> SessionAnswer:
        now, wait_s = asyncio.get_running_loop().time, client.FIRST_WAIT_S
        for attempt in range(1, self._link.attempts_max + 1):
            try:
                return await self._try(front, quality, captured_at)
            except CloudUnreachableError as error:
                if attempt == self._link.attempts_max or wait_s >= until - now():
                    raise client.unreachable(self._link, error, attempt) from None
            except DeadlineError as error:
                raise client.late(self._link, error) from None
            await asyncio.sleep(wait_s)
            wait_s *= 2
        raise AssertionError("attempts_max is at least 1")

    async def _try(self, front: Features, quality: int, captured_at: datetime | None) -> SessionAnswer:
        """Sends an image once, or more often where the cloud needs it as a frame I."""
        stream = await self._open(front)
        ready = await stream.ready()
        extract = partial(self._encoder.latent, front.u, hold=self._settings.hold)
        started = time.perf_counter()
        code_ms = 0.0
        for tries in range(INTRA_TRIES):
            reply = await stream.ask(extract, quality, captured_at, intra=tries > 0)
            code_ms += reply.code_ms
            if not reply.need_intra:
                send_ms = (time.perf_counter() - started) * 1e3 - code_ms
                spent = {"code_ms": code_ms, "send_ms": send_ms}
                return self._answer(stream.opened, ready, front, reply, captured_at, spent)
        raise RemoteError("the cloud asks for a frame I and does not take it")

    async def _open(self, front: Features) -> SessionStream:
        """The stream that is open, or a new one: then all frames begin anew."""
        if self._stream is None or self._stream.ended:
            bundle = self._encoder.bundle
            h, w = front.u.shape[2:]
            opened = SessionOpen(
                fingerprint=bytes.fromhex(bundle.manifest.fingerprint),
                session=new_session(),
                camera=self._camera,
                grid=(h, w),
                wanted=self._wanted,
                replies=self._settings.replies,
                answers_wait_ms=self._settings.answers_wait_ms,
            )
            self._stream = SessionStream(
                self._transport.open_session(),
                opened,
                self._encoder.frames,
                self._encoding,
                self._settings.intra_every_s,
            )
        return self._stream

    def _answer(
        self,
        opened: SessionOpen,
        ready: SessionReady,
        front: Features,
        reply: Reply,
        captured_at: datetime | None,
        spent: dict[str, float],
    ) -> SessionAnswer:
        sent, bundle = reply.sent, self._encoder.bundle
        times = front.times.model_copy(update=spent)
        if reply.reply.times is not None:
            times = times.model_copy(update=reply.reply.times.model_dump(exclude_none=True))
        analysis = Analysis(
            request_id=opened.request_id(sent.number),
            bundle=ready.bundle,
            fingerprint=bundle.fingerprint.hex(),
            quality=sent.latent.quality,
            results=dict(reply.results),
            bytes=count_frame(sent.frame, sent.latent, len(sent.data), self._encoder.frames, bundle),
            times=times,
            captured_at=captured_at,
            warnings=front.warnings,
            view=front.view,
        )
        return SessionAnswer(analysis, sent.frame.name, sent.number, reply.same_as, reply.missing)


async def _next(each: AsyncGenerator[Source | Shot, None]) -> Source | Shot | None:
    """None at the end."""
    return await anext(each, None)


async def _each(
    images: Iterable[Source | Shot] | AsyncIterable[Source | Shot],
) -> AsyncGenerator[Source | Shot, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
        return
    each = iter(images)

    def following() -> Source | Shot | None:
        return next(each, None)

    while True:
        working = asyncio.ensure_future(asyncio.to_thread(following))  # decoding a video takes time
        try:
            one = await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.wait([working])  # what it reads from may be closed next
            raise
        if one is None:
            return
        yield one
