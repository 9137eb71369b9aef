"""Images of a box's sources coded at the quality that settings, budget and link leave. Knows no spool and no network.

by itself    Encoder.encode: each image at a quality of its own
in a group   Group.code: for frames that are sent in a session, given earlier ones
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from dataclasses import dataclass

from PIL import Image

from edge.capture.settings import SourceSettings
from edge.groups import Bounds, Group
from edge.quality import quality_for
from edge.rate import SESSION_OVERHEAD, Rate
from edge.settings import SessionSettings
from shared.codec.frame_codec import Latent
from shared.encoder import Encoded, Encoder
from shared.errors import RequestError


@dataclass(frozen=True, eq=False)
class CodedImage:
    """A frame for the spool. expected: bytes that will be sent of it, about. id, latent: of one in a group."""

    data: bytes
    quality: int
    expected: int
    id: str = ""
    latent: Latent | None = None

    @property
    def overhead(self) -> int | None:
        """Bytes beside it on the link; None for those of a request."""
        return SESSION_OVERHEAD if self.id else None


class Coder:
    """For all sources. encoding: one thread. sessions: of groups; None for no groups at all."""

    def __init__(
        self, rate: Rate, window_s: float, encoding: Executor, sessions: SessionSettings | None
    ) -> None:
        self._rate, self._window_s, self._encoding, self._sessions = rate, window_s, encoding, sessions
        self._groups: dict[str, Group] = {}

    async def code(
        self, encoder: Encoder, name: str, image: Image.Image, settings: SourceSettings
    ) -> CodedImage | None:
        """A source's next image; None for one that even the lowest quality makes too large for the budget.

        Raises ImageError or a subclass, or RequestError.
        """
        quality = settings.quality
        if settings.loss is not None:
            quality = quality_for(encoder.bundle, settings.tasks, settings.loss)
        if self._sessions is not None and settings.is_grouped:
            group = self._group(encoder, name, self._sessions.hold)
            return await self._grouped(group, image, quality, settings)
        encoded = await self._encode(encoder, image, quality, settings.bytes_max)
        return None if encoded is None else CodedImage(encoded.data, encoded.quality, len(encoded.data))

    def learn(self, name: str, size: int, sent: int) -> None:
        """A frame of a source took so many bytes in a session; see `Group.learn`."""
        if name in self._groups:
            self._groups[name].learn(size, sent)

    def end(self, name: str) -> None:
        """The source has ended; one of the same name begins anew."""
        self._groups.pop(name, None)

    def _group(self, encoder: Encoder, name: str, hold: float | None) -> Group:
        group = self._groups.get(name)
        if group is None or group.encoder is not encoder:
            group = self._groups[name] = Group(encoder, hold, self._window_s)
        return group

    async def _grouped(
        self, group: Group, image: Image.Image, quality: int | None, settings: SourceSettings
    ) -> CodedImage | None:
        now_s, levels = time.monotonic(), group.encoder.bundle.levels
        bytes_max = settings.bytes_max
        top = (
            levels.highest
            if quality is None and bytes_max is not None
            else group.encoder.bundle.quality(quality)
        )
        bounds = Bounds(top, bytes_max, self._rate.allowance(now_s, SESSION_OVERHEAD))
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._encoding, group.code, image, bounds, now_s)
        beyond = bounds.allowed is not None and made.expected > bounds.allowed
        if beyond and not self._rate.may_send(made.expected, now_s, SESSION_OVERHEAD):
            return None
        return CodedImage(made.data, made.latent.quality, made.expected, group.id(), made.latent)

    async def _encode(
        self, encoder: Encoder, image: Image.Image, quality: int | None, bytes_max: int | None
    ) -> Encoded | None:
        """An image by itself. Raises ImageError or RequestError."""
        bundle = encoder.bundle
        allowed = self._rate.allowance(time.monotonic())
        if allowed is None or (bytes_max is not None and bytes_max <= allowed):
            return await self._encode_within(encoder, image, quality, bytes_max)
        try:
            top = quality if bytes_max is not None else bundle.quality(quality)
            return await self._encode_within(encoder, image, top, max(allowed, 1))
        except RequestError:  # it does not fit
            encoded = await self._encode_within(encoder, image, bundle.levels.lowest, None)
            return encoded if self._rate.may_send(len(encoded.data), time.monotonic()) else None

    async def _encode_within(
        self, encoder: Encoder, image: Image.Image, quality: int | None, bytes_max: int | None
    ) -> Encoded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoding, encoder.encode, image, quality, bytes_max)
