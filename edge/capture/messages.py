"""What a source's process and the box say to each other, over two pipes.

box -> source    a line of JSON: the settings; then "next" for each image that it takes; the end of it ends the source
source -> box    length of the head, length of the pixels (4 bytes each, big endian), head as JSON, pixels

A head is an event and its fields: "image" (with pixels, RGB), "alive" (it works; nothing to send), "flaw" (a
file that cannot be read), "end", "error".
Every head has `counts`, what became of the images so far.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO, Protocol

from PIL import Image

from edge.spool.records import Version
from shared.times import from_microseconds

LENGTHS = struct.Struct(">II")
HEAD_MAX, PIXELS_MAX = 1 << 20, 3 * 25_000_000


class Stream(Protocol):
    """What is read from: an `asyncio.StreamReader`."""

    async def readexactly(self, n: int) -> bytes: ...


@dataclass(frozen=True, eq=False)
class Message:
    """event: see above. image: of "image". captured_at: None if unknown. origin: the file that it is of.
    version: size and modification time (ns) of that file when it was read.

    counts: images since the process began: "captured", and those not sent by reason ("rate", "schedule", "motion",
        "slow", "damaged"). text: of "error", one line.
    """

    event: str
    counts: Mapping[str, int] = field(default_factory=dict)
    image: Image.Image | None = None
    captured_at: datetime | None = None
    origin: str = ""
    text: str = ""
    version: Version | None = None


def write_message(file: BinaryIO, head: dict[str, Any], pixels: bytes = b"") -> None:
    """Raises OSError once the box has gone."""
    text = json.dumps(head).encode()
    file.write(LENGTHS.pack(len(text), len(pixels)) + text)
    file.write(pixels)
    file.flush()


async def read_message(stream: Stream) -> Message:
    """Raises EOFError at the end (also `asyncio.IncompleteReadError`), and ValueError for bytes that are no message."""
    head_bytes, size = LENGTHS.unpack(await stream.readexactly(LENGTHS.size))
    if head_bytes > HEAD_MAX or size > PIXELS_MAX:
        raise ValueError("the source's process writes something else")
    head = json.loads(await stream.readexactly(head_bytes))
    pixels = await stream.readexactly(size)
    image = Image.frombytes("RGB", tuple(head["size"]), pixels) if pixels else None
    captured_us = head.get("captured_us")
    captured_at = None if captured_us is None else from_microseconds(captured_us)
    counts = head.get("counts", {})
    size_and_time = head.get("version")
    version = None if size_and_time is None else (int(size_and_time[0]), int(size_and_time[1]))
    origin, text = head.get("origin", ""), head.get("text", "")
    return Message(head["event"], counts, image, captured_at, origin, text, version)
