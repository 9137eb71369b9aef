"""An image -> bytes -> the cloud -> its answer: the edge's whole way, top to bottom. Knows no gRPC and no HTTP.

an image by itself    Encoder (read, front, code) -> bitstream -> Client -> Analysis, with the edge's times, too
one of a session      CameraSession: coded given earlier images of the same session
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge.client import Client
from edge.client_sessions import ClientSessions
from edge.observer import Observer, seeing
from edge.session import CameraSession, SessionTransport
from edge.settings import CloudLink, SessionSettings
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.process import tracing
from shared.types import Analysis, Wanted


@dataclass(frozen=True)
class SessionLink:
    """How sessions of clients reach the cloud. camera: for sessions that name none. transport: closed by its owner."""

    link: CloudLink
    settings: SessionSettings
    transport: SessionTransport
    camera: str = ""


class Pipeline:
    """A loaded encoder and a client. Must be made and used in one event loop.

    sessions: None if it has none. observer: gets a report of each image.
    """

    def __init__(
        self,
        encoder: Encoder,
        client: Client,
        sessions: SessionLink | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.encoder, self.client, self._observer = encoder, client, observer
        # One image at a time: an edge has few cores, and ONNX Runtime has its own threads.
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._sessions = None if sessions is None else self._client_sessions(sessions)

    async def analyze(
        self,
        image: str | Path | bytes,
        wanted: Wanted,
        request_id: str,
        quality: int | None = None,
        bytes_max: int | None = None,
        camera: str = "",
        captured_at: datetime | None = None,
    ) -> Analysis:
        """One image, a file or its bytes.

        quality, bytes_max: see `Encoder.encode`. camera: its name; if empty, the one in the settings.
        captured_at: with its zone; None if unknown.

        Raises what `Encoder.encode` raises, RemoteError or a subclass, or OverloadedError.
        """
        with seeing(self._observer, camera) as seen:
            answer = await self._analyze(image, wanted, request_id, quality, bytes_max, camera, captured_at)
            seen.answered(answer)
            return answer

    async def _analyze(
        self,
        image: str | Path | bytes,
        wanted: Wanted,
        request_id: str,
        quality: int | None,
        bytes_max: int | None,
        camera: str,
        captured_at: datetime | None,
    ) -> Analysis:
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._encoding, self.encoder.encode, image, quality, bytes_max)
        sent = time.perf_counter()
        tracing.stages(sent, encoded.times.encoding)
        answer = await self.client.analyze(request_id, encoded.data, wanted, camera, captured_at)
        edge = encoded.times.model_copy(update={"send_ms": (time.perf_counter() - sent) * 1e3})
        times = answer.times.model_copy(update=edge.model_dump(exclude_none=True))
        # The sizes are those that this side sent, not those that the other says it received.
        return answer.model_copy(
            update={
                "times": times,
                "bytes": encoded.bytes,
                "warnings": (*encoded.warnings, *answer.warnings),
                "view": encoded.view,
            }
        )

    async def analyze_in_session(
        self,
        session: str,
        image: str | Path | bytes,
        wanted: Wanted,
        quality: int | None = None,
        camera: str = "",
        captured_at: datetime | None = None,
    ) -> Analysis:
        """One image of a session, whose name the client chose. The answer's request id is that of its frame.

        Raises what `CameraSession.analyze` raises, and OverloadedError where there are too many sessions.
        """
        if self._sessions is None:
            raise RequestError("this edge has no sessions; send the image without one")
        with seeing(self._observer, camera) as seen:
            async with self._sessions.use(session, wanted, camera) as one:
                answer = await one.analyze(image, quality, captured_at)
            seen.answered(answer.analysis, answer.frame)
        if not answer.missing:
            return answer.analysis
        text = f"only the base of this image was sent; tasks that need the rest: {', '.join(answer.missing)}"
        warnings = (*answer.analysis.warnings, text)
        return answer.analysis.model_copy(update={"warnings": warnings})

    @property
    def sessions_open(self) -> int:
        return 0 if self._sessions is None else len(self._sessions)

    def swap(self, encoder: Encoder) -> None:
        """Encodes with another bundle from the next image on; sessions begin anew."""
        self.encoder = encoder
        if self._sessions is not None:
            self._sessions.renew()

    def _client_sessions(self, to: SessionLink) -> ClientSessions:
        def make(wanted: Wanted, camera: str) -> CameraSession:
            name = camera or to.camera
            return CameraSession(
                self.encoder, to.link, to.settings, wanted, name, to.transport, self._encoding
            )

        return ClientSessions(make, to.settings.sessions_max)

    async def close(self) -> None:
        if self._sessions is not None:
            await self._sessions.close()
        self._encoding.shutdown()
        await self.client.close()
