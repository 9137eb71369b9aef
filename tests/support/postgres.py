"""A PostgreSQL of the tests: Debian's, in a folder of its own, over a socket in that folder, without a password."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def _program(name: str) -> str:
    """Skips the test where there is none; Debian keeps them out of the path."""
    found = shutil.which(name) or max(
        map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None
    )
    return found or pytest.skip("PostgreSQL is not installed; Debian's package `postgresql` has it")


def _user() -> dict[str, Any]:
    """PostgreSQL does not run as root: then its own user does."""
    if os.geteuid() != 0:
        return {}
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    return {"user": "postgres", "group": "postgres", "extra_groups": ()}


class Postgres:
    """url: of its database. Runs from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._data = folder, folder / "data"
        self.url = f"postgresql:///postgres?host={folder}&user=isthmus"
        self._process: subprocess.Popen[bytes] | None = None
        command = (
            "-D",
            self._data,
            "-U",
            "isthmus",
            "-A",
            "trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        )
        subprocess.run(
            [_program("initdb"), *command],
            check=True,
            capture_output=True,
            timeout=120,
            cwd=folder,
            **_user(),
        )

    def start(self) -> None:
        """Returns once it answers."""
        command = ("-D", self._data, "-k", self._folder, "-c", "listen_addresses=", "-c", "fsync=off")
        self._process = subprocess.Popen(
            [_program("postgres"), *command], stderr=subprocess.DEVNULL, cwd=self._folder, **_user()
        )
        ready = [_program("pg_isready"), "-q", "-h", str(self._folder), "-t", "60"]
        for _ in range(600):
            if subprocess.run(ready, timeout=120).returncode == 0:
                return
            assert self._process.poll() is None, "PostgreSQL has ended"
            subprocess.run(["sleep", "0.1"], check=True)
        raise AssertionError("PostgreSQL does not answer")

    def stop(self) -> None:
        """At once: connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None


@contextmanager
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="comes with the extra postgres")
    _program("initdb")
    user = _user()
    with tempfile.TemporaryDirectory(prefix="pg") as name:  # short: a socket lies in it
        folder = Path(name)
        if user:
            shutil.chown(folder, "postgres", "postgres")
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
