"""A power cut: the process is killed, and of what it wrote without a sync any part is lost, in any order.

`synced_files.c` keeps each file as it was at its last sync. After the kill every block that has changed since then is
taken from one or the other at random, and so is the length; a file that was never synced is gone.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("synced_files.c")
BLOCK = 512  # what a disk writes whole


class Disk:
    """The folder of a process, and what of it is synced. env: for the process. Skips where there is no C compiler."""

    def __init__(self, folder: Path, beside: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("losing writes takes a C compiler")
        library = beside / "synced_files.so"
        command = [compiler, "-O1", "-shared", "-fPIC", str(SOURCE), "-o", str(library), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self._folder, self._synced = folder.resolve(), beside / "synced"
        self._synced.mkdir()
        self.env: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "SYNCED_FROM": str(self._folder),
            "SYNCED_TO": str(self._synced),
        }

    def settle(self) -> None:
        """Everything that is there now counts as synced."""
        for old in self._synced.iterdir():
            old.unlink()
        for file in self._folder.iterdir():
            shutil.copy(file, self._synced / file.name)

    def lose(self, rng: random.Random) -> int:
        """The process was killed: makes the folder what a disk may hold. Returns how many blocks were lost."""
        lost = 0
        for file in self._folder.iterdir():
            synced = self._synced / file.name
            if file.name.endswith("-shm"):  # memory of the processes that had the database
                file.unlink()
            elif not synced.exists():
                file.unlink()
                lost += 1
            else:
                old, new = synced.read_bytes(), file.read_bytes()
                mixed, gone = _mixed(old, new, rng)
                file.write_bytes(mixed)
                lost += gone
        return lost


def _mixed(old: bytes, new: bytes, rng: random.Random) -> tuple[bytes, int]:
    """Any of what was written since then, and how many changed blocks are not among it."""
    share = rng.choice((0.0, 0.0, rng.random()))  # often all of it is lost
    length = len(new) if rng.random() < share else len(old)
    out, lost = bytearray(), 0
    for at in range(0, length, BLOCK):
        before, after = old[at : at + BLOCK], new[at : at + BLOCK]
        if before != after and rng.random() >= share:
            after, lost = before, lost + 1
        out += after.ljust(min(BLOCK, length - at), b"\0")[: length - at]
    return bytes(out), lost
