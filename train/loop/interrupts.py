"""Ctrl-C and SIGTERM of a training: it stops between two steps, or at once where nothing is half done.

    with Interrupts() as interrupts:
        prepare()                       # a signal ends this at once
        for ...:
            with interrupts.held():     # a signal waits for the end of the block
                step()

The outer block ends with `Interruption`, which says what is kept and becomes the command's exit status. A further
signal ends a held block too, for a step that hangs.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from shared.errors import Interruption
from train.loop.distributed import Workers

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = (
    1.0  # within it a further signal is the same wish: torchrun passes on what the terminal sends to all
)


class StopSignal(KeyboardInterrupt):
    """A signal arrived, and nothing is half done."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interrupts:
    """Catches SIGINT and SIGTERM while it is entered.

    kept: what an interrupted user has on disk and how to continue; empty in a process that reports nothing.
    """

    def __init__(self) -> None:
        self.kept = "no step was done, and nothing is lost"
        self._workers: Workers | None = None
        self._number: int | None = None
        self._since = 0.0
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        # Python runs handlers in the main thread only, and `nohup` asks for SIGINT to be ignored.
        if threading.current_thread() is threading.main_thread():
            chosen = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in chosen}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, StopSignal):
            raise Interruption(
                self.kept and f"interrupted: {self.kept}", error.number, setting="resume"
            ) from None
        if self._number is not None and isinstance(error, RuntimeError):
            # Another process that received the signal has left in the middle of an exchange.
            raise Interruption("", self._number) from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lets a signal wait for the end of the block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self._stop_if_received()

    @contextmanager
    def together(self, workers: Workers) -> Iterator[None]:
        """Lets several processes stop at one step: in the block, a signal waits for `check`, which all of them call."""
        self._workers = workers if workers.size > 1 else None
        try:
            yield
        finally:
            self._workers = None

    def check(self) -> None:
        """Stops all processes if any of them has received a signal. Raises StopSignal."""
        if self._workers is not None and self._workers.any(self._number is not None):
            raise StopSignal(self._number or signal.SIGTERM)

    def ignore(self) -> None:
        """Ignores further signals while the checkpoint is written."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _stop_if_received(self) -> None:
        if self._number is not None and self._workers is None:
            raise StopSignal(self._number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not (self._held or self._workers):
            self._number = number
            raise StopSignal(number)
        if self._number is None:
            self._number, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > PATIENCE_S and self._workers is None:
            raise KeyboardInterrupt  # a step that hangs is given up, and nothing is saved
