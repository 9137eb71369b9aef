"""One source as the box sees it: its process, started again when it ends, stalls or fails; its images, one at a time.

    run(accept):  process -> "next" -> image -> accept (encoded and spooled) -> "next" ...

What goes wrong with a source is its own: it is logged, stands in `state`, and the process starts again after a wait
that grows, with jitter, so that a box of many cameras does not ask a recovering network for all at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge.capture.messages import Message, read_message
from edge.capture.settings import SourceSettings
from edge.spool.records import Version
from shared.errors import ImageError, IsthmusError

log = logging.getLogger("isthmus.edge.source")

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-c", "from edge.capture.child import main; main()")
FIRST_WAIT_S, WAIT_MAX_S = 0.5, 60.0
START_S = 20.0  # that a process may take until its first message, on a busy machine

# What the box does with an image; a source goes on once it returns.
Accept = Callable[[Message], Awaitable[None]]


@dataclass
class SourceState:
    """status: "starting", "running", "waiting" (to start again), or "ended" (a video that was sent whole).

    flaw: of the last file of a folder that could not be read. counts: images by what became of them, over all starts.
    images: handed to the box. last_s: when, monotonic.
    """

    status: str = "starting"
    trouble: str = ""
    flaw: str = ""
    starts: int = 0
    images: int = 0
    last_s: float | None = None
    earlier: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> Counter[str]:
        return self.earlier + self.now


class Source:
    """name: of the camera. taken: see `Spool.taken`, of a folder; may block."""

    def __init__(
        self, name: str, settings: SourceSettings, taken: Callable[[], Mapping[str, Version | None]] = dict
    ) -> None:
        self.name, self.settings = name, settings
        self.state = SourceState()
        self._taken = taken

    async def run(self, accept: Accept) -> None:
        """Captures until it is cancelled, or a video has ended."""
        wait_s = FIRST_WAIT_S
        while True:
            images = self.state.images
            try:
                await self._once(accept)
            except (IsthmusError, OSError, EOFError, ValueError) as error:
                self.state.trouble = str(error) or type(error).__name__
            else:
                self.state.status, self.state.trouble = "ended", ""
                log.info("%s: has ended", self.name)
                return
            if self.state.images > images:
                wait_s = FIRST_WAIT_S
            pause_s = wait_s * random.uniform(0.5, 1.5)
            self.state.status = "waiting"
            log.warning("%s: %s; starting again in %.1f s", self.name, self.state.trouble, pause_s)
            await asyncio.sleep(pause_s)
            wait_s = min(2 * wait_s, WAIT_MAX_S)

    async def _once(self, accept: Accept) -> None:
        """One process, to its end. Raises IsthmusError where that was not the end of a video."""
        self.state.starts += 1
        self.state.status = "starting"
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            # Ctrl-C at a terminal is for the box, which ends its sources.
            start_new_session=True,
        )
        try:
            await self._talk(process, accept)
        except EOFError:
            raise IsthmusError(await _ending(process)) from None
        finally:
            self.state.earlier += self.state.now
            self.state.now = Counter()
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())

    async def _talk(self, process: asyncio.subprocess.Process, accept: Accept) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        taken: dict[str, Version | None] = {}
        if self.settings.kind == "folder":
            files = await asyncio.to_thread(self._taken)
            taken = {Path(file).name: version for file, version in files.items()}
        settings = json.dumps(self.settings.to_child() | {"taken": taken})
        process.stdin.write(f"{settings}\nnext\n".encode())
        stall_s = max(START_S, self.settings.stall_ms / 1e3)
        while True:
            message = await self._message(process.stdout, stall_s)
            stall_s = self.settings.stall_ms / 1e3
            if self.state.status != "running":
                self.state.status, self.state.trouble = "running", ""
            self.state.now = Counter(message.counts)
            if message.event == "image":
                await accept(message)
                self.state.images += 1
                self.state.last_s, self.state.trouble = time.monotonic(), ""
                process.stdin.write(b"next\n")
            elif message.event == "flaw":
                self.state.flaw = message.text
                log.warning("%s: %s", self.name, message.text)
            elif message.event == "error":
                raise ImageError(message.text)
            elif message.event == "end":
                return

    async def _message(self, stream: asyncio.StreamReader, stall_s: float) -> Message:
        try:
            async with asyncio.timeout(stall_s):
                return await read_message(stream)
        except TimeoutError:
            raise IsthmusError(f"nothing came for {stall_s:g} s") from None


async def _ending(process: asyncio.subprocess.Process) -> str:
    """How a process ended that said nothing."""
    try:
        async with asyncio.timeout(1):
            status = await process.wait()
    except TimeoutError:
        return "its process closed its output"
    if status < 0:
        with suppress(ValueError):
            return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"
