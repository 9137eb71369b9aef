"""Our own processes that print events (see `shared.process.process`): starts them, sends to them, and ends them."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from shared.errors import IsthmusError, RequestError, exit_of

ROOT = Path(__file__).resolve().parents[2]
# By its file, not with -m: that would let a folder `shared` where the user stands hide ours.
ISTHMUS = (sys.executable, str(ROOT / "isthmus.py"))
SAMPLES = ROOT / "deploy" / "samples"  # images that the repository holds
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0


class Server:
    """A process of ours, and the events that it prints."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: IO[str]) -> None:
        self._name, self._process, self._log = name, process, log
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, event: str, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """Raises IsthmusError where the process ends first, or takes longer than `timeout_s`; RequestError where it
        ends for something that the user can mend."""
        while True:
            try:
                event_seen = self._events.get(timeout=timeout_s)
            except queue.Empty:
                raise IsthmusError(f"the {self._name} was not ready within {timeout_s:.0f} s") from None
            if event_seen is None:
                mendable = self._process.wait() == exit_of(RequestError()).status
                self._log.seek(0)
                last = (self._log.read().strip().splitlines() or ["no reason given"])[-1]
                kind = RequestError if mendable else IsthmusError
                raise kind(f"the {self._name} did not start: {last.removeprefix('isthmus: ')}")
            if event_seen["event"] == event:
                return event_seen

    def send(self, message: dict[str, Any], event: str) -> dict[str, Any]:
        """One JSON line to its stdin, and the event that it answers with. Raises what `wait_for` raises."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and waiting reports why
        return self.wait_for(event)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)


@contextmanager
def server(name: str, command: Sequence[str], cwd: Path | None = None) -> Iterator[Server]:
    """A running process, which has ended when this is left."""
    with tempfile.TemporaryFile("w+") as log:
        # A session of its own, so that Ctrl-C reaches this process alone, and the others are ended in order.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            cwd=cwd,
        )
        try:
            yield Server(name, process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
