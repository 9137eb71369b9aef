"""The process of one source: reads it, decides what is worth sending, hands one image after the other to the box.

    reader -> rate, schedule -> mask, region -> motion -> slot (the newest wins) -> stdout, when the box says "next"

What a live source delivers while the slot is taken replaces what is in it; any other source waits. The process ends
when the box does, however stuck its decoder is.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from edge.capture.gate import MotionGate, Pace, Rectangle, Schedule, View
from edge.capture.messages import write_message
from edge.capture.readers import Shot, read
from shared.errors import IsthmusError
from shared.times import to_microseconds

ALIVE_EVERY_S = 0.5
MEMORY_EVERY = 100  # images


class Slot:
    """Holds the one image that goes to the box next. counts: shared with the reader, which has them alone."""

    def __init__(self, file: BinaryIO, newest_wins: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._file, self._newest_wins = file, newest_wins
        self._held: tuple[dict[str, Any], bytes] | None = None
        self._wanted = 0
        self._said_s = 0.0
        self._changed = threading.Condition()

    def next(self) -> None:
        """The box takes one more image."""
        with self._changed:
            self._wanted += 1
            self._send()
            self._changed.notify_all()

    def put(self, head: dict[str, Any], pixels: bytes) -> None:
        """Sends an image, or holds it until it is wanted; waits for room unless the newest wins."""
        with self._changed:
            while self._held is not None and not self._newest_wins:
                self._changed.wait()
            self.counts["slow"] += self._held is not None
            self._held = head, pixels
            self._send()

    def say(self, event: str, **more: Any) -> None:
        """Sends an event by itself."""
        with self._changed:
            while self._held is not None and event == "end":  # what was captured goes first
                self._changed.wait()
            self._write({"event": event, **more}, b"")

    def alive(self) -> None:
        """Says so where nothing was said for a while."""
        if time.monotonic() - self._said_s > ALIVE_EVERY_S:
            self.say("alive")

    def _send(self) -> None:
        if self._held is not None and self._wanted:
            (head, pixels), self._held = self._held, None
            self._wanted -= 1
            self._write({"event": "image", **head}, pixels)

    def _write(self, head: dict[str, Any], pixels: bytes) -> None:
        self._said_s = time.monotonic()
        try:
            write_message(self._file, {**head, "counts": dict(+self.counts)}, pixels)
        except OSError:  # the box has gone
            os._exit(0)


class Gates:
    """Decides about each image. counts: gets why one is not sent."""

    def __init__(self, settings: dict[str, Any], counts: Counter[str]) -> None:
        region = settings["region"]
        self._view = View(
            None if region is None else Rectangle.of(region), tuple(map(Rectangle.of, settings["mask"]))
        )
        self._schedule = Schedule(settings["schedule"])
        # Files of a folder wait for their turn instead, and a snapshot is asked for when it is due.
        self._pace = Pace(None if settings["kind"] in ("folder", "snapshot") else settings["fps"])
        self._motion = MotionGate(settings["motion"], settings["heartbeat_s"])
        self._counts = counts

    def image(self, shot: Shot) -> Image.Image | None:
        """What the front sees of it; None if it is not sent."""
        self._counts["captured"] += 1
        reason = self._refusal(shot)
        if reason:
            self._counts[reason] += 1
            return None
        image = self._view.of(shot.load())
        if not self._motion.takes(image, time.monotonic()):
            self._counts["motion"] += 1
            return None
        return image

    def _refusal(self, shot: Shot) -> str:
        if shot.flaw:
            return "damaged"
        if not self._schedule.holds(datetime.now()):
            return "schedule"
        return "" if self._pace.takes(shot.at_s) else "rate"


def capture(settings: dict[str, Any], slot: Slot) -> None:
    """Reads the source to its end. Raises what `read` raises."""
    gates = Gates(settings, slot.counts)

    def wait(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            slot.alive()
            time.sleep(min(left, ALIVE_EVERY_S))

    for shot in read(settings, wait):
        slot.alive()
        if shot is None:
            continue
        image = gates.image(shot)
        if image is not None:
            captured = None if shot.captured_at is None else to_microseconds(shot.captured_at)
            head = {
                "size": image.size,
                "captured_us": captured,
                "origin": shot.origin,
                "version": shot.version,
            }
            slot.put(head, image.tobytes())
        elif shot.flaw and shot.origin:
            slot.say("flaw", text=shot.flaw, origin=shot.origin)
        if slot.counts["captured"] % MEMORY_EVERY == 0:
            _check_memory(settings["memory_max"])


def _check_memory(bytes_max: int) -> None:
    """Raises IsthmusError where the process has grown too large."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if used > bytes_max:
        raise IsthmusError(f"the source's process has grown to {used >> 20} MiB")


def main() -> None:
    """What the box starts. Settings come as the first line of stdin."""
    with suppress(OSError):  # where memory runs out, a source ends before the box, which starts it again
        Path("/proc/self/oom_score_adj").write_text("1000")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write among the messages
    settings = json.loads(sys.stdin.readline())
    slot = Slot(out, settings["is_live"])

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "next":
                slot.next()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    try:
        capture(settings, slot)
        slot.say("end")
    except Exception as error:  # the outermost boundary of the process: the box says it and starts another
        slot.say("error", text=_line(error))
    os._exit(0)


def _line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:400]


if __name__ == "__main__":
    main()
