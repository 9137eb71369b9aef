"""The sessions in which a box's frames are sent, one a source. Knows no spool and no sink.

    Spooled -> its latent -> SessionStream: I, P or S given confirmed frames, NEED_INTRA -> the same number as an I

Nothing is lost and nothing recorded twice, whoever is killed, for three reasons:

- A frame is sent in a session once. If no answer comes (`UnansweredError`), the cloud may have it, so it is sent again
  by itself, in a unary call under the same request id: if it was recorded in its session, that is a repeat.
- So whatever is sent in a session is not in the archive yet, and is recorded there before any other frame refers to it;
  what the archive's frames need is always among its records, also of a session that broke off.
- A frame leaves the spool once it is answered. With the cloud's `archived_first`, it is on that disk by then.

After a restart of the box the spool says which frames may have been sent (`Spooled.again`).

Frames S cost the cloud nothing, and their answers may wait for each other: once it is sent, such a frame leaves its
place in flight to the next one.

A session costs more than it saves for a frame a minute: such frames are sent by themselves, as are those of a bundle
that the box no longer runs, and all while the cloud opens no more sessions.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from edge import client
from edge.frames import NextFrame
from edge.session import INTRA_TRIES, SessionTransport
from edge.session_stream import Reply, SessionStream
from edge.settings import CloudLink, SessionSettings
from edge.spool.records import Spooled
from shared.codec.frame import FrameType, Packet
from shared.codec.frame_codec import Coded, Latent
from shared.encoder import Encoder, count_frame
from shared.errors import (
    BitstreamError,
    CloudUnreachableError,
    DeadlineError,
    IsthmusError,
    RemoteError,
    RequestError,
)
from shared.session_packets import SessionOpen, SessionReady, read_frame_id
from shared.types import Analysis, Times, Wanted

QUIET_US = 30_000_000  # between two frames: then a session is not opened for the second
REFUSED_S = 30.0  # for which no session is opened after the cloud has refused one
LANES_MAX = 64
LIGHT_MAX = 32  # frames S of a source without an answer, besides those that hold a place
LATENTS_MAX = 16  # of frames that were spooled last, so that they need not be decoded


class UnansweredError(Exception):
    """A frame was sent, and the cloud may have it. cause: why there is no answer."""

    def __init__(self, cause: IsthmusError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True)
class InSession:
    """The answer to a frame of a session. size: the frame's bytes in it. type: I, P or S, as `Frame.name`."""

    answer: Analysis
    size: int
    type: str


@dataclass(eq=False)
class _Lane:
    """last_us: when its last frame was spooled. refused_s: until when no session is opened. users: frames in it.

    light: of them, frames S that are sent and hold no place.
    """

    places: asyncio.Semaphore
    stream: SessionStream | None = None
    last_us: int | None = None
    refused_s: float = 0.0
    users: int = 0
    light: int = 0

    @property
    def is_open(self) -> bool:
        return self.stream is not None and not self.stream.ended


@dataclass(frozen=True)
class _Asked:
    """A frame to send in a session, and the encoder of the bundle that it was coded with."""

    one: Spooled
    encoder: Encoder
    session: bytes
    number: int
    wanted: Wanted
    latent: Latent


@dataclass
class _Progress:
    """stream: where the frame went. sent: whether the cloud may have it. light: it holds no place any more."""

    stream: SessionStream | None = None
    sent: bool = False
    light: bool = False


class Lanes:
    """Must be made and used in one event loop; close it.

    transport: left open. encoding: one thread that others use too.
    """

    def __init__(
        self,
        transport: SessionTransport,
        link: CloudLink,
        settings: SessionSettings,
        encoder: Encoder,
        encoding: Executor,
    ) -> None:
        self._transport, self._link, self._settings = transport, link, settings
        self._encoder, self._encoding = encoder, encoding
        self._lanes: OrderedDict[tuple[str, bytes, str], _Lane] = OrderedDict()
        self._latents: OrderedDict[str, Latent] = OrderedDict()

    @property
    def light(self) -> int:
        """Frames that wait for no more than an answer "as before"."""
        return sum(lane.light for lane in self._lanes.values())

    def use(self, encoder: Encoder) -> None:
        """The box codes with another bundle from now on."""
        self._encoder = encoder

    def remember(self, request_id: str, latent: Latent) -> None:
        """What a frame says that was just spooled."""
        self._latents[request_id] = latent
        while len(self._latents) > LATENTS_MAX:
            self._latents.popitem(last=False)

    async def close(self) -> None:
        for lane in self._lanes.values():
            if lane.stream is not None:
                await lane.stream.close()
        self._lanes.clear()

    async def analyze(self, one: Spooled) -> InSession | None:
        """The answer to a frame; None for one to be sent by itself.

        Raises UnansweredError if the cloud may have the frame, or CloudUnreachableError or DeadlineError if it has not.
        """
        asked = await self._asked(one)
        if asked is None:
            return None
        progress = _Progress()
        async with self._lane(asked) as lane, _place(lane, progress):
            try:
                async with asyncio.timeout(self._link.deadline_ms / 1e3):
                    return await self._send(asked, lane, progress)
            except TimeoutError:
                late = client.late(self._link)
                if progress.stream is not None:  # it may hang for longer than the next frame's deadline
                    await progress.stream.close()
                if progress.sent:
                    raise UnansweredError(late) from None
                raise late from None

    async def _asked(self, one: Spooled) -> _Asked | None:
        """What is sent of a frame; None if it belongs into no session, or cannot be read."""
        named, encoder = read_frame_id(one.id), self._encoder
        if named is None or one.again or one.frame.bundle != encoder.bundle.fingerprint.hex():
            return None
        latent = self._latents.pop(one.id, None)
        if latent is None:
            loop = asyncio.get_running_loop()
            latent = await loop.run_in_executor(self._encoding, _decoded, encoder, one.frame.data)
        if latent is None:
            return None
        return _Asked(one, encoder, *named, Wanted.model_validate_json(one.frame.wanted), latent)

    @asynccontextmanager
    async def _lane(self, asked: _Asked) -> AsyncIterator[_Lane]:
        """Where the frame goes; lanes that nobody uses give way to it."""
        key = asked.one.frame.source, asked.session, asked.one.frame.wanted
        lane = self._lanes.get(key)
        if lane is None:
            lane = _Lane(asyncio.Semaphore(self._settings.in_flight_max))
            self._lanes[key] = lane
        self._lanes.move_to_end(key)
        lane.users += 1
        try:
            idle = [key for key, one in self._lanes.items() if not one.users]
            # All at once: while one is closed, another frame may look for idle ones, too.
            given_up = [self._lanes.pop(old) for old in idle[:-LANES_MAX]]
            for old_lane in given_up:
                if old_lane.stream is not None:
                    await old_lane.stream.close()
            yield lane
        finally:
            lane.users -= 1

    async def _send(self, asked: _Asked, lane: _Lane, progress: _Progress) -> InSession | None:
        """Raises what `analyze` raises."""
        spooled_us, before_us = asked.one.spooled_us, lane.last_us
        lane.last_us = spooled_us
        if not lane.is_open:
            quiet = before_us is not None and spooled_us - before_us > QUIET_US
            if quiet or asyncio.get_running_loop().time() < lane.refused_s:
                return None
            lane.stream = self._opened(asked)
        assert lane.stream is not None
        stream = progress.stream = lane.stream
        try:
            ready = await stream.ready()
        except (CloudUnreachableError, DeadlineError):
            raise
        except IsthmusError:  # it opens none, or not this one; sent by itself, the frame gets its own answer
            lane.refused_s = asyncio.get_running_loop().time() + REFUSED_S
            return None
        progress.sent = True
        try:
            reply = await self._reply(stream, asked, partial(_lighten, lane, progress))
        except IsthmusError as error:
            raise UnansweredError(error) from None
        answer = self._answer(ready, asked, reply)
        return InSession(answer, len(reply.sent.data), reply.sent.frame.name)

    def _opened(self, asked: _Asked) -> SessionStream:
        opened = SessionOpen(
            fingerprint=bytes.fromhex(asked.encoder.bundle.manifest.fingerprint),
            session=asked.session,
            camera=asked.one.frame.source,
            grid=asked.latent.grid,
            wanted=asked.wanted,
            replies=self._settings.replies,
            # Beyond the deadline each frame would be sent again.
            answers_wait_ms=min(self._settings.answers_wait_ms, self._link.deadline_ms // 4),
        )
        return SessionStream(
            self._transport.open_session(),
            opened,
            asked.encoder.frames,
            self._encoding,
            self._settings.intra_every_s,
        )

    async def _reply(
        self, stream: SessionStream, asked: _Asked, queued: Callable[[NextFrame], None]
    ) -> Reply:
        """Raises IsthmusError."""
        latent, captured_at = asked.latent, asked.one.frame.captured_at

        def extract(_: int, __: Latent | None) -> Latent:  # rounded when it was spooled
            return latent

        for tries in range(INTRA_TRIES):
            reply = await stream.ask(extract, latent.quality, captured_at, tries > 0, asked.number, queued)
            if not reply.need_intra:
                return reply
        raise RemoteError("the cloud asks for a frame I and does not take it")

    def _answer(self, ready: SessionReady, asked: _Asked, reply: Reply) -> Analysis:
        encoder, sent = asked.encoder, reply.sent
        return Analysis(
            request_id=asked.one.id,
            bundle=ready.bundle,
            fingerprint=asked.one.frame.bundle,
            quality=sent.latent.quality,
            results=dict(reply.results),
            bytes=count_frame(sent.frame, sent.latent, len(sent.data), encoder.frames, encoder.bundle),
            times=reply.reply.times or Times(),
            captured_at=asked.one.frame.captured_at,
        )


@asynccontextmanager
async def _place(lane: _Lane, progress: _Progress) -> AsyncIterator[None]:
    """A frame's place in flight, for as long as it is not light."""
    await lane.places.acquire()
    try:
        yield
    finally:
        if progress.light:
            lane.light -= 1
        else:
            lane.places.release()


def _lighten(lane: _Lane, progress: _Progress, sent: NextFrame) -> None:
    """Gives back the place of a frame S that was sent."""
    if sent.frame.type is FrameType.S and not progress.light and lane.light < LIGHT_MAX:
        progress.light = True
        lane.light += 1
        lane.places.release()


def _decoded(encoder: Encoder, data: bytes) -> Latent | None:
    """What a spooled frame says; None for what cannot be read, whose own answer says why."""
    try:
        packet = Packet.unpack(data)
        frame, (h, w) = packet.frame, encoder.bundle.manifest.codec["grid"]
        coded = Coded.of(frame, packet.grid or (h, w))
        (latent,) = encoder.frames.decode([coded])
    except (BitstreamError, RequestError, ValueError, KeyError):
        return None
    return latent if isinstance(latent, Latent) else None
