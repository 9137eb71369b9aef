"""A disk that stands still when a test wants it to, as the clock of a spool: whoever uses the spool then waits."""

from __future__ import annotations

import threading
import time

LIMIT_S = 10.0  # then it goes on, and says so


class SlowDisk:
    """Give it to `Spool` as its clock. waited: somebody is at the disk. gave_up: nobody let it go on in time."""

    def __init__(self) -> None:
        self.gave_up = False
        self.waited = threading.Event()
        self._going = threading.Event()
        self._going.set()

    def stand_still(self) -> None:
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def __call__(self) -> int:
        if not self._going.is_set():
            self.waited.set()
            if not self._going.wait(LIMIT_S):
                self.gave_up = True
                self._going.set()
        return time.time_ns() // 1000
