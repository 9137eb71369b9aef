"""The command line as a user has it, in processes of its own and in this one."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

import isthmus

ROOT = Path(__file__).parents[2]
ISTHMUS = (sys.executable, str(ROOT / "isthmus.py"))


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path) -> Done:
    """One command to its end, in a process of its own."""
    command = [*ISTHMUS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=_env())
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(*arguments: str | Path) -> Done:
    """One command to its end, through the same entry, in this process: seconds less where torch is needed."""
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with (
        mock.patch.object(sys, "argv", ["isthmus", *map(str, arguments)]),
        mock.patch.dict(os.environ, _env(), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            isthmus.main()
        except SystemExit as end:
            status = end.code or 0
    assert isinstance(status, int)
    return Done(status, out.getvalue(), err.getvalue())


def told(done: Done, status: int) -> str:
    """What a failed command says: one line on stderr, nothing on stdout, the exit status given."""
    assert done.returncode == status, done
    assert done.stdout == ""
    assert done.stderr.startswith("isthmus: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("isthmus: ").rstrip("\n")


def refused(*arguments: str | Path, status: int) -> str:
    return told(run_here(*arguments), status)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """Kills a process and all that descend from it: torchrun's are in sessions of their own."""
    if process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            for one in [first, *first.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


@contextmanager
def killed_after(process: subprocess.Popen[str], seconds: float = 120) -> Iterator[None]:
    """Bounds a block that reads what the process prints: killed, it prints nothing more, and the read ends."""
    timer = threading.Timer(seconds, kill_tree, [process])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Server:
    """A server's process, and the events that it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def event(self, name: str, seconds: float = 120) -> dict[str, Any]:
        """Its next event, which must be `name`, within that time."""
        assert self.process.stdout is not None
        with killed_after(self.process, seconds):
            line = self.process.stdout.readline()
            assert line, self.process.stderr and self.process.stderr.read()
        told: dict[str, Any] = json.loads(line)
        assert told["event"] == name
        return told

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status after the signal."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def server(*arguments: str | Path) -> Iterator[Server]:
    command = [*ISTHMUS, *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_env()
    ) as process:
        try:
            yield Server(process)
        finally:
            kill_tree(process)


def _env() -> dict[str, str]:
    # Without the settings and tokens of whoever runs the tests; wide, so that no message is folded.
    ours = {k: v for k, v in os.environ.items() if not k.startswith("ISTHMUS_")}
    return ours | {"COLUMNS": "200", "XDG_STATE_HOME": os.devnull}
