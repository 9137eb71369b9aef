"""systemd: "ready", "ending", and the signs of life that its watchdog waits for. Without systemd nothing is sent."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress


class Systemd:
    """environment: has NOTIFY_SOCKET and WATCHDOG_USEC where systemd runs the process (sd_notify(3))."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        microseconds = environment.get("WATCHDOG_USEC", "")
        self._every_s = int(microseconds) / 2e6 if microseconds.isdecimal() else None

    def send(self, text: str) -> None:
        """READY=1, STOPPING=1, WATCHDOG=1 or STATUS=..."""
        if not self._address:
            return
        # "@" stands for the zero byte of an address that is no file.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.sendto(text.encode(), address)

    async def watch(self, alive: Callable[[], Awaitable[object]]) -> None:
        """Sends signs of life, each after `alive` has returned. Returns at once if there is no watchdog."""
        while self._every_s is not None:
            await alive()
            self.send("WATCHDOG=1")
            await asyncio.sleep(self._every_s)
