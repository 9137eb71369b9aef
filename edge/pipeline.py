"""An image -> bytes -> the cloud -> its answer: the edge's whole way, top to bottom. Knows no gRPC and no HTTP.

image -> Encoder (read, front, code) -> bitstream -> Client -> Analysis, with the edge's times beside the cloud's
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from edge.client import Client
from shared.encoder import Encoder
from shared.types import Analysis, Wanted


class Pipeline:
    """A loaded encoder and a client. Must be made and used in one event loop."""

    def __init__(self, encoder: Encoder, client: Client) -> None:
        self.encoder, self.client = encoder, client
        # One image at a time: an edge has few cores, and ONNX Runtime has its own threads.
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")

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
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._encoding, self.encoder.encode, image, quality, bytes_max)
        sent = time.perf_counter()
        answer = await self.client.analyze(request_id, encoded.data, wanted, camera, captured_at)
        edge = encoded.times.model_copy(update={"send_ms": (time.perf_counter() - sent) * 1e3})
        times = answer.times.model_copy(update=edge.model_dump(exclude_none=True))
        # The sizes are those that this side sent, not those that the other says it received.
        return answer.model_copy(
            update={
                "times": times,
                "bytes": encoded.bytes,
                "warnings": (*encoded.warnings, *answer.warnings),
            }
        )

    async def close(self) -> None:
        self._encoding.shutdown()
        await self.client.close()
