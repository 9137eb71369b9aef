"""What `isthmus edge encode` and `analyze` do with a clip: a log of frames, or a session with a cloud.

Only the latter loads gRPC.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import typer

from edge.clips import Clip
from edge.record import Recorder
from edge.settings import CloudLink, SessionSettings
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.files import writing_atomically
from shared.process.cli import MapFolder, format_analysis, is_standard_output, stem_of
from shared.times import to_microseconds
from shared.types import Analysis, Wanted

if TYPE_CHECKING:
    from edge.session import SessionAnswer, Shot


def encode_clip(
    path: Path,
    output: Path,
    encoder: Encoder,
    fps: float | None,
    quality: int | None,
    settings: SessionSettings,
    as_json: bool,
) -> None:
    """Writes a log of frames, whole or not at all, and prints what is in it.

    Raises ImageError or a subclass, or RequestError.
    """
    counts: Counter[str] = Counter()
    size, at_ms, began = 0, 0, time.perf_counter()
    with Clip(path, fps) as clip, _written(output) as file:
        started_at_us = to_microseconds(clip.started_at) if clip.started_at else 0
        recorder = Recorder(encoder, file, settings, started_at_us)
        for one in clip.images():
            sent = recorder.add(one.image, one.at_ms, quality)
            counts[sent.frame.name] += 1
            size, at_ms = size + len(sent.data), one.at_ms
        frames = counts.total()
        if not frames:
            raise RequestError(f"{path} holds no images")
    ms = 1e3 * (time.perf_counter() - began) / frames
    level = encoder.bundle.quality(quality)
    if as_json:
        fields = {"clip": str(path), "output": str(output), "quality": level, "seconds": at_ms / 1e3}
        text = json.dumps(fields | {"frames": dict(counts), "bytes": size, "ms_each": ms})
    else:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        text = (
            f"{path} -> {output}: {frames} frames ({kinds}) in {at_ms / 1e3:.1f} s, {size} bytes, "
            f"{size / frames:.1f} each, quality {level}, {ms:.0f} ms each"
        )
    typer.echo(text, err=is_standard_output(output))


@contextmanager
def _written(output: Path) -> Iterator[BinaryIO]:
    """Raises RequestError."""
    if is_standard_output(output):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with writing_atomically(output) as file:
            yield cast(BinaryIO, file)
    except OSError as error:
        raise RequestError(f"cannot write {output}: {error.strerror}") from None


async def analyze_clip(
    path: Path,
    encoder: Encoder,
    link: CloudLink,
    wanted: Wanted,
    camera: str,
    folder: MapFolder,
    fps: float | None,
    quality: int | None,
    settings: SessionSettings,
    as_json: bool,
) -> None:
    """Sends a clip in a session, as fast as answers come, and prints a line a frame or more.

    Raises ImageError or a subclass, RequestError, RemoteError or a subclass, or OverloadedError.
    """
    from edge.session import CameraSession, Shot

    times: deque[int] = deque()
    with Clip(path, fps) as clip:

        def shots() -> Iterator[Shot]:
            for one in clip.images():
                times.append(one.at_ms)
                started = clip.started_at
                yield Shot(one.image, started + timedelta(milliseconds=one.at_ms) if started else None)

        async with CameraSession(encoder, link, settings, wanted, camera) as session:
            async for answer in session.run(shots(), quality):
                at_s = times.popleft() / 1e3
                analysis = answer.analysis
                if answer.same_as is None:
                    analysis = folder.save(f"{stem_of(path)}_{answer.number}", analysis)
                fields = {
                    "at_s": at_s,
                    "frame": answer.frame,
                    "number": answer.number,
                    "same_as": answer.same_as,
                }
                if as_json:
                    typer.echo(json.dumps(fields | {"analysis": analysis.model_dump(mode="json")}))
                else:
                    typer.echo(_format(f"{path} {at_s:.3f} s", answer, analysis))


def _format(where: str, answer: SessionAnswer, analysis: Analysis) -> str:
    size = analysis.bytes
    head = f"{where}: {answer.frame}, {size.total} bytes (b_v {size.b_v}, b_z {size.b_z})"
    if answer.same_as is not None:
        return f"{head}; as before"
    return format_analysis(head, analysis)
