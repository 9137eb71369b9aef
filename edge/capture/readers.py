"""Images of each kind of source, in its own process: what PyAV decodes, files of a folder, what a URL returns.

A reader yields `Shot`s for ever or to its end, and None where there is nothing now but all is well. It raises
ImageError, RequestError, OSError or what PyAV raises; its process then ends, and the box starts it again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from edge.capture.gate import Pace
from edge.capture_time import capture_time
from edge.clips import IMAGES, Clip
from edge.spool.records import Version
from shared.errors import ImageError, NotAnImageError, RequestError
from shared.image import MAX_FILE_BYTES, MAX_PIXELS, read_image

POLL_S = 0.2  # how often a folder is looked at
REDIRECTS_MAX = 5  # of a snapshot's URL
GAP_S = 10.0  # of a video's clock: what is more is a jump
UNWHOLE = ("~", ".tmp", ".part", ".partial", ".crdownload", ".filepart")


@dataclass(frozen=True, eq=False)
class Shot:
    """An image. load: its pixels, RGB; takes time. at_s: on a clock of the source. flaw: why it is not usable.

    origin: the file that it is of. version: of that file, see `Message`.
    """

    load: Callable[[], Image.Image]
    captured_at: datetime | None
    at_s: float
    origin: str = ""
    flaw: str = ""
    version: Version | None = None


Shots = Iterator[Shot | None]


def read(settings: dict[str, Any], wait: Callable[[float], object]) -> Shots:
    """The images of a source. settings: see `SourceSettings.to_child`. wait: sleeps, in seconds."""
    kind = settings["kind"]
    if kind == "folder":
        return folder(Path(settings["url"]), settings["settle_ms"] / 1e3, settings["taken"], wait)
    if kind == "snapshot":
        return snapshots(settings["url"], settings["fps"] or 1.0, settings["stall_ms"] / 2e3, wait)
    if kind == "video":
        own_pace = settings["pace"] == "own"
        return video(Path(settings["url"]), settings["loop"], own_pace, wait, _hardware(settings))
    return stream(settings)


def stream(settings: dict[str, Any]) -> Shots:
    """A camera's, decoded as they come. The clock of the stream is not used: cameras' clocks jump and stand still."""
    with _opened(settings) as container:
        if not container.streams.video:
            raise ImageError("the stream holds no video")
        whole = False  # until a key frame has come, a picture is grey, or a smear
        for frame in container.decode(video=0):
            whole = whole or frame.key_frame
            flaw = "" if whole and not frame.is_corrupt else "damaged"
            yield Shot(_loader(frame), datetime.now(UTC), time.monotonic(), flaw=flaw)
        raise ImageError("the stream has ended")


def _opened(settings: dict[str, Any]) -> Any:
    """A camera's stream. Raises ImageError for one that says nothing, or what PyAV raises."""
    av = _av()
    timeout_s, began_s = settings["stall_ms"] / 1e3, time.monotonic()
    try:
        if settings["kind"] == "v4l2":
            return av.open(settings["url"], format="v4l2", timeout=timeout_s)
        options = {"rtsp_transport": settings["transport"], "fflags": "nobuffer", "max_delay": "500000"}
        return av.open(settings["url"], options=options, timeout=timeout_s, **_hardware(settings))
    except av.error.FFmpegError:
        if time.monotonic() - began_s < 0.9 * timeout_s:
            raise
        # FFmpeg calls what it was interrupted in "invalid data".
        raise ImageError(f"the camera says nothing for {timeout_s:g} s") from None


def _av() -> Any:
    """PyAV. Raises RequestError where it is not installed."""
    try:
        import av
    except ModuleNotFoundError:
        raise RequestError(
            "PyAV, which reads cameras and videos, is not installed: pip install av, or this package with [video]"
        ) from None
    return av


def _hardware(settings: dict[str, Any]) -> dict[str, Any]:
    """What PyAV opens a video with, so that the machine's own decoder is used; nothing where it has none."""
    name = settings["hwaccel"]
    if not name:
        return {}
    av = _av()
    from av.codec.hwaccel import HWAccel

    found = HWAccel(name, allow_software_fallback=True)
    try:
        av.CodecContext.create("h264", "r", hwaccel=found)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # also what FFmpeg raises: no such device, or none for us
        print(f"hwaccel {name} cannot be used here ({error}); software decodes", file=sys.stderr, flush=True)
        return {}
    return {"hwaccel": found}


def _loader(frame: Any) -> Callable[[], Image.Image]:
    if frame.width * frame.height > MAX_PIXELS:
        raise ImageError(
            f"images of {frame.width} x {frame.height} pixels; at most {MAX_PIXELS // 10**6} megapixels"
        )

    def load() -> Image.Image:
        image: Image.Image = frame.to_image()
        return image

    return load


def video(
    path: Path,
    loop: bool,
    own_pace: bool,
    wait: Callable[[float], object],
    opening: Mapping[str, Any] | None = None,
) -> Shots:
    """A file's, once or for ever. own_pace: as its clock says. opening: see `Clip`.

    Capture times: if the file says when it began.
    """
    began_s = time.monotonic()
    ahead_s = 0.0  # of the first image of this round, to `began_s`
    while True:
        last_s = 0.0
        with Clip(path, None, opening) as clip:
            for one in clip.images():
                last_s = one.at_ms / 1e3
                due_s = began_s + ahead_s + last_s
                if own_pace:
                    wait(max(due_s - time.monotonic(), 0))
                started = None if loop else clip.started_at
                captured_at = started + timedelta(seconds=last_s) if started else None
                image = one.image
                assert isinstance(image, Image.Image)
                yield Shot(_held(image), captured_at, ahead_s + last_s)
        ahead_s += last_s + 0.04
        if (
            own_pace and time.monotonic() - began_s - ahead_s > GAP_S
        ):  # the machine is too slow, or was asleep
            ahead_s = time.monotonic() - began_s
        if not loop:
            return


def folder(
    path: Path, settle_s: float, taken: Mapping[str, Sequence[int] | None], wait: Callable[[float], object]
) -> Shots:
    """Files of a folder, in the order of their times, once each.

    taken: names of files that the box has already, with the size and time that each had; None for any.

    A file counts as whole if it has not changed for `settle_s`. One that cannot be read is not read again until it has.
    """
    seen: dict[str, tuple[tuple[int, int], float]] = {}  # what a file was, and since when
    handed = {name: None if one is None else (one[0], one[1]) for name, one in taken.items()}
    while True:
        whole = []
        names = set()
        for file in path.iterdir():
            if file.suffix.lower() not in IMAGES or file.name.startswith(".") or file.name.endswith(UNWHOLE):
                continue
            names.add(file.name)
            found = _state(file)
            if found is None or (file.name in handed and handed[file.name] in (None, found)):
                continue
            before, since_s = seen.get(file.name, (None, 0.0))
            if before != found:
                seen[file.name] = found, time.monotonic()
            elif time.monotonic() - since_s >= settle_s:
                whole.append((found[1], file.name, found))
        for gone in (seen.keys() | handed.keys()) - names:
            seen.pop(gone, None)
            handed.pop(gone, None)
        for _, name, found in sorted(whole):
            handed[name] = found
            yield _file(path / name, found)
        if not whole:
            yield None
            wait(POLL_S)


def _state(file: Path) -> tuple[int, int] | None:
    """Size and time of a file; None for what is none, or has gone."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return (stat.st_size, stat.st_mtime_ns) if file.is_file() else None


def _file(path: Path, version: Version) -> Shot:
    shown = os.fsencode(path).decode("utf-8", "replace")
    try:
        if shown != str(path):  # it could be kept in no text: the spool's, a log's, an answer's
            raise ImageError(f"{shown}: the name is not UTF-8; rename the file")
        image = read_image(path)
    except ImageError as error:
        return Shot(lambda: Image.new("RGB", (1, 1)), None, time.monotonic(), shown, str(error))
    captured_at = capture_time(path, "mtime").captured_at
    return Shot(_held(image), captured_at, time.monotonic(), str(path), version=version)


def _held(image: Image.Image) -> Callable[[], Image.Image]:
    return lambda: image


def snapshots(url: str, fps: float, timeout_s: float, wait: Callable[[float], object]) -> Shots:
    """What a URL returns, asked for so often."""
    import httpx

    pace = Pace(fps)
    with httpx.Client(timeout=timeout_s, headers={"Accept-Encoding": "identity"}) as client:
        while True:
            began_s = time.monotonic()
            if pace.takes(began_s):
                captured_at = datetime.now(UTC)
                image = read_image(_body(client, url), "the snapshot")
                yield Shot(_held(image), captured_at, began_s)
            wait(min(1 / fps, 1.0) / 4)
            yield None


def _body(client: Any, url: str) -> bytes:
    """Raises ImageError, or httpx's error."""
    import httpx

    try:
        request = client.build_request("GET", url)
        for _ in range(REDIRECTS_MAX + 1):  # httpx, following by itself, would read each answer whole
            with closing(client.send(request, stream=True)) as answer:
                if answer.next_request is None:
                    return _read(answer)
                request = answer.next_request
        raise ImageError(f"the camera's URL redirects more than {REDIRECTS_MAX} times")
    except httpx.HTTPError as error:
        raise ImageError(f"the camera does not answer: {error or type(error).__name__}") from None
    except httpx.InvalidURL as error:
        raise RequestError(f"url: {error}") from None


def _read(answer: Any) -> bytes:
    """A body as it is sent: decoded, a small one may grow beyond any memory. Raises ImageError, or httpx's error."""
    if answer.status_code != 200:
        raise ImageError(f"the camera answers {answer.status_code} {answer.reason_phrase}")
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise ImageError(f"the camera compresses its answer ({encoding[:40]}), which was not asked for")
    data = bytearray()
    for part in answer.iter_raw():
        data += part
        if len(data) > MAX_FILE_BYTES:
            raise NotAnImageError(f"the camera's answer has more than {MAX_FILE_BYTES} bytes")
    return bytes(data)
