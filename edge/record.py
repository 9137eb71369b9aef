"""A camera's images as a log of frames in a file: a session whose receiver is the file. Knows no network.

    image -> Encoder.read -> u -> FrameEncoder (I, P, S) -> LogWriter

What is written counts as confirmed, so that each frame may refer to the one before it.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from edge.frames import FrameEncoder, NextFrame
from edge.settings import SessionSettings
from shared.codec.frame import SESSION_BYTES
from shared.codec.session_log import LogHeader, LogRecord, LogWriter
from shared.encoder import Encoder


class Recorder:
    """Writes a log. settings: hold and intra_every_s count. started_at_us: see `LogHeader`. session: random if None."""

    def __init__(
        self,
        encoder: Encoder,
        file: BinaryIO,
        settings: SessionSettings | None = None,
        started_at_us: int = 0,
        session: bytes | None = None,
    ) -> None:
        self._encoder, self._file = encoder, file
        self._settings = settings or SessionSettings()
        self._started_at_us, self._session = started_at_us, session or os.urandom(SESSION_BYTES)
        self._open: tuple[FrameEncoder, LogWriter] | None = None  # once the grid is known

    def add(
        self, image: str | Path | bytes | Image.Image, at_ms: int, quality: int | None = None
    ) -> NextFrame:
        """Codes and writes an image. at_ms: since the start. quality: None for the bundle's default.

        Raises ImageError or a subclass, RequestError, or OSError.
        """
        level = self._encoder.bundle.quality(quality)
        front = self._encoder.read(image)
        frames, log = self._open or self._begin((front.u.shape[2], front.u.shape[3]))
        extract = partial(self._encoder.latent, front.u, hold=self._settings.hold)
        sent = frames.next(extract, level, at_ms / 1e3)
        log.append(LogRecord(sent.number, at_ms, sent.data, sent.reference))
        frames.confirm(sent.number)
        return sent

    def _begin(self, grid: tuple[int, int]) -> tuple[FrameEncoder, LogWriter]:
        fingerprint = bytes.fromhex(self._encoder.bundle.manifest.fingerprint)
        header = LogHeader(fingerprint, self._session, grid, self._started_at_us)
        frames = FrameEncoder(self._encoder.frames, header.key, intra_every_s=self._settings.intra_every_s)
        self._open = frames, LogWriter(self._file, header)
        return self._open
