"""Simulated cameras: each has a session of its own, and sends real frames that were coded once. Knows no model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edge.client import GrpcSessionCall, GrpcTransport, grpc_transport
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.codec.frame import Frame, FrameType
from shared.codec.frame_codec import Latent
from shared.encoder import Encoder
from shared.errors import RemoteError
from shared.session_packets import NeedIntra, Refused, SentFrame, SessionOpen, new_session
from shared.types import Wanted
from shared.wire.sessions import FrameWriter, ReplyReader, open_message, ready_of


@dataclass(frozen=True)
class Footage:
    """A frame I, which every camera sends first; later ones say "as before". latent: what it says."""

    intra: Frame
    latent: Latent
    fingerprint: bytes

    @classmethod
    def of(cls, encoder: Encoder, image: str) -> Footage:
        bundle: Bundle = encoder.bundle
        quality = bundle.quality(None)
        latent = encoder.latent(encoder.read(image).u, quality, None)
        frame = Frame(FrameType.I, quality, True, True, encoder.frames.encode(latent))
        return cls(frame, latent, bytes.fromhex(bundle.manifest.fingerprint))


class Camera:
    """One session. number: of the last frame that was sent."""

    def __init__(self, transport: GrpcTransport, footage: Footage, name: str, task: str) -> None:
        self._transport, self._footage = transport, footage
        self._opened = SessionOpen(
            fingerprint=footage.fingerprint,
            session=new_session(),
            camera=name,
            grid=footage.latent.grid,
            wanted=Wanted.same((task,), top_k=1, maps="none"),
            replies="changes",
        )
        self._writer, self.number = FrameWriter(), 0

    async def open(self) -> None:
        """Opens the session, and sends the frame I. Raises RemoteError or a subclass, or OverloadedError."""
        # Not before: the cloud ends a call whose first message is late.
        self._call: GrpcSessionCall = self._transport.open_session()
        await self._call.send(open_message(self._opened))
        first = await self._call.receive()
        if first is None or first.WhichOneof("message") != "ready":
            raise RemoteError("the cloud did not answer the opening of a session")
        self._reader = ReplyReader(ready_of(first.ready))
        await self._send(self._footage.intra, None)

    async def same(self) -> None:
        """Sends a frame as before. Raises what `open` raises."""
        frame = Frame(FrameType.S, self._footage.intra.quality, False, False, b"")
        await self._send(frame, self._footage.latent.digest)

    async def _send(self, frame: Frame, reference: bytes | None) -> None:
        self.number += 1
        data = frame.pack(self._opened.key, self.number, reference)
        await self._call.send(self._writer.message(SentFrame(self.number, data)))
        message = await self._call.receive()
        if message is None:
            raise RemoteError("the cloud ended a session")
        for reply in self._reader.replies(message):
            outcome = getattr(reply, "outcome", None)
            if isinstance(outcome, Refused):
                raise outcome.error
            if isinstance(outcome, NeedIntra):
                raise RemoteError("the cloud has lost a session's reference")


class Cameras:
    """Many cameras over a few connections. at_once: that wait for an answer. Must be used in one event loop."""

    def __init__(self, address: str, footage: Footage, task: str, connections: int, at_once: int) -> None:
        self._transports = [self._transport(address) for _ in range(connections)]
        self._footage, self._task = footage, task
        self._at_once = asyncio.Semaphore(at_once)
        self.cameras: list[Camera] = []

    @staticmethod
    def _transport(address: str) -> GrpcTransport:
        return grpc_transport(CloudLink(address=address))

    async def open(self, count: int, advance: Callable[[], None]) -> tuple[list[float], float]:
        """Opens sessions until there are `count` more. Returns the milliseconds of each, and the seconds of all."""
        first, transports = len(self.cameras), self._transports
        new = [
            Camera(transports[i % len(transports)], self._footage, f"camera-{i}", self._task)
            for i in range(first, first + count)
        ]
        took = await self._all([camera.open for camera in new], advance)
        self.cameras += new
        return took

    async def same(self, advance: Callable[[], None]) -> tuple[list[float], float]:
        """A frame "as before" of every camera. Returns as `open`."""
        return await self._all([camera.same for camera in self.cameras], advance)

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()

    async def _all(
        self, calls: list[Callable[[], Awaitable[None]]], advance: Callable[[], None]
    ) -> tuple[list[float], float]:
        async def timed(call: Callable[[], Awaitable[None]]) -> float:
            async with self._at_once:
                began = time.perf_counter()
                await call()
                advance()
                return 1e3 * (time.perf_counter() - began)

        began = time.perf_counter()
        ms = await asyncio.gather(*(timed(call) for call in calls))
        return list(ms), time.perf_counter() - began
