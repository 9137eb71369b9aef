"""Answers files of bitstreams in this process: what a server does, without the network and without an archive.

    a bitstream of version 1, or a packet of version 2  -> one answer
    a log of frames (`shared.codec.session_log`)        -> an answer for each frame

A packet that needs another frame finds it among the files before it, a frame of a log among the frames before it. What
one of them lacks is an error of that one alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from io import BufferedReader
from pathlib import Path

from cloud.archive.chunks import CHUNK_BYTES_MAX, LATENTS
from cloud.archive.frames import FrameReader, Known, References, missing_reference
from cloud.engine.batch_work import Done, Job, Served, base_tasks_of, work
from cloud.requests import base_warnings, check_base, check_grid, queries_of, split_for_base
from shared.codec.bitstream import FINGERPRINT_BYTES, MAX_STREAM_BYTES, Bitstream
from shared.codec.frame import Frame, FrameType, Sent
from shared.codec.frame_codec import Latent
from shared.codec.session_log import LogHeader, LogReader, LogRecord
from shared.encoder import count_bytes, count_frame
from shared.errors import BundleMismatchError, ChecksumError, IsthmusError
from shared.process.cli import open_stream, stem_of
from shared.process.inspect_streams import is_log
from shared.times import from_microseconds
from shared.types import Analysis, ByteCount, TaskQuery, Times, Wanted, new_request_id

PACKETS = 1024  # latents of packets that later files may need
PACKETS_BYTES_MAX = 256 << 20


@dataclass(frozen=True)
class FileAnswer:
    """name: what was answered, for people. stem: the same, for names of files. analysis: or why there is none."""

    name: str
    stem: str
    analysis: Analysis | IsthmusError


@dataclass(frozen=True, eq=False)
class _Read:
    """One frame, decoded. name: its type, for people; empty for a bitstream of version 1."""

    known: Known
    name: str
    bytes: ByteCount
    decode_ms: float
    request_id: str
    captured_at: datetime | None = None


class FileDecoder:
    """Answers files, one after the other.

    wanted: what each frame is asked; of a base, what it can answer. cells_max: of a latent grid. Raises
    UnknownTaskError or RequestError for tasks that cannot be asked.
    """

    def __init__(self, served: Served, wanted: Wanted, cells_max: int) -> None:
        self._served, self._wanted, self._cells_max = served, wanted, cells_max
        self._queries = queries_of(served.bundle, wanted)
        self._reader = FrameReader(served.bundle, served.model.codec, cells_max)
        self._packets = References(PACKETS, PACKETS_BYTES_MAX)

    def answers(self, path: Path) -> Iterator[FileAnswer]:
        """What a file's frames are answered with, in order.

        Raises RequestError where it cannot be read, and what is wrong with the whole file; of a log, only after what
        comes before the damage.
        """
        with open_stream(path) as file:
            if is_log(file.peek(1)):
                yield from self._log(file, path)
            else:
                yield self._one(file.read(MAX_STREAM_BYTES + 1), path)

    def _one(self, data: bytes, path: Path) -> FileAnswer:
        """Raises IsthmusError."""
        read = self._read(data)
        name = str(path) if read.name in ("", "I") else f"{path} ({read.name})"
        return FileAnswer(name, stem_of(path), self._analysis(read))

    def _read(self, data: bytes) -> _Read:
        """Raises IsthmusError."""
        started, stream = time.perf_counter(), self._reader.read(data)
        if isinstance(stream, Bitstream):
            known, name = Known(self._reader.latent_of(stream)), ""
            size = count_bytes(stream, len(data), self._served.bundle)
        else:
            reference, name = None, stream.frame.name
            if stream.reference is not None:
                reference = self._packets.find(stream.reference)
                if reference is None:
                    raise missing_reference(stream.frame, "among the files before it")
            known = self._known(stream.frame, self._reader.grid_of(stream), reference, self._packets)
            size = self._size(stream.frame, known.latent, len(data))
        return _Read(known, name, size, _ms_since(started), new_request_id())

    def _log(self, file: BufferedReader, path: Path) -> Iterator[FileAnswer]:
        log = LogReader(file)
        header, bundle = log.header, self._served.bundle
        if header.fingerprint.hex() != bundle.manifest.fingerprint:
            short = header.fingerprint[:FINGERPRINT_BYTES].hex()
            raise BundleMismatchError(short, bundle.fingerprint.hex())
        check_grid(header.grid, bundle, self._cells_max)
        latents = References(LATENTS, CHUNK_BYTES_MAX)
        for record in log:
            name, stem = f"{path} frame {record.number}", f"{stem_of(path)}_{record.number}"
            outcome: Analysis | IsthmusError
            try:
                read = self._logged(header, record, latents)
                name, outcome = f"{name} ({read.name})", self._analysis(read)
            except IsthmusError as error:
                outcome = type(error)(f"frame {record.number}: {error}")
            yield FileAnswer(name, stem, outcome)

    def _logged(self, header: LogHeader, record: LogRecord, latents: References) -> _Read:
        """One frame of a log. Raises IsthmusError."""
        started, sent = time.perf_counter(), Sent.unpack(record.data)
        frame, reference = sent.frame, None
        if frame.needs_reference:
            digests = (one.latent.digest for one in latents)
            digest = sent.reference_among(header.key, record.number, digests)
            reference = None if digest is None else latents.find(digest)
            if reference is None:
                raise missing_reference(frame, "among those before it in this log; or it is damaged")
        elif not sent.fits(header.key, record.number, None):
            raise ChecksumError("the frame is damaged: its check does not hold")
        if reference is not None and frame.type is FrameType.S:
            frame = replace(frame, quality=reference.latent.quality)
        self._served.bundle.quality(frame.quality)
        known = self._known(frame, header.grid, reference, latents)
        size = self._size(frame, known.latent, len(record.data))
        request_id, when = f"s.{header.session.hex()}.{record.number}", _when(header, record)
        return _Read(known, frame.name, size, _ms_since(started), request_id, when)

    def _known(
        self, frame: Frame, grid: tuple[int, int], reference: Known | None, latents: References
    ) -> Known:
        latent = self._reader.latent(frame, grid, None if reference is None else reference.latent)
        return latents.add(latent)

    def _size(self, frame: Frame, latent: Latent, total: int) -> ByteCount:
        return count_frame(frame, latent, total, self._reader.codec, self._served.bundle)

    def _analysis(self, read: _Read) -> Analysis:
        """Runs the tails, unless this latent was answered before. Raises IsthmusError."""
        known, served, tails_ms = read.known, self._served, 0.0
        queries, missing = self._asked(known.latent)
        if known.answer is None:
            (done,) = work([Job(known.latent, queries, served)])
            if not isinstance(done, Done):
                raise done
            known.answer, tails_ms = done.results, done.tails_ms
        return Analysis(
            request_id=read.request_id,
            bundle=served.bundle.manifest.name,
            fingerprint=served.bundle.fingerprint.hex(),
            quality=known.latent.quality,
            results=known.answer,
            bytes=read.bytes,
            times=Times(decode_ms=read.decode_ms, tails_ms=tails_ms),
            captured_at=read.captured_at,
            warnings=base_warnings(missing),
        )

    def _asked(self, latent: Latent) -> tuple[tuple[TaskQuery, ...], tuple[str, ...]]:
        """What a frame is asked, and the tasks that its base does not answer. Raises RequestError."""
        if latent.z is not None:
            return self._queries, ()
        queries, missing = split_for_base(self._queries, base_tasks_of(self._served.model))
        check_base(queries, missing, self._wanted)
        return queries, missing


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3


def _when(header: LogHeader, record: LogRecord) -> datetime | None:
    """When a frame of a log was captured; None if that is unknown."""
    try:
        at_us = header.started_at_us + 1000 * record.at_ms
        return from_microseconds(at_us) if header.started_at_us else None
    except OverflowError:
        return None
