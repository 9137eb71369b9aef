"""An archive that cannot be opened keeps no server from serving, and is used as soon as it can be."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from cloud.archive.archive import BYTES_MIN, Archive, read
from cloud.archive.late_archive import LateArchive
from shared.codec.bitstream import MEDIA_TYPE
from support.processes import ROOT, server

NOW = datetime.now(UTC)


def opener(path: Path) -> Callable[[], Archive]:
    return lambda: Archive(path, BYTES_MIN, 3600)


async def test_it_opens_as_soon_as_it_can_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "isthmus.cloud.archive")
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    late = LateArchive(opener(in_the_way / "kept"))
    assert [await late.open() for _ in range(3)] == [False] * 3
    assert "cannot keep an archive" in late.trouble
    assert not late.append("door", NOW, "lost", b"1")
    tries = 0

    async def wait() -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            in_the_way.unlink()

    await late.keep_trying(wait)
    assert tries == 2
    assert late.trouble == ""
    assert late.append("door", NOW, "kept", b"2", captured_at=NOW, chunk="first")
    await late.close()
    kept = [(one.request_id, one.captured_at, one.chunk) for one in read(in_the_way / "kept")]
    assert kept == [("kept", NOW, "first")]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "INFO"]
    assert "1 records were not kept" in caplog.records[1].message


async def test_an_archive_of_another_server_is_used_once_that_one_has_ended(tmp_path: Path) -> None:
    other = opener(tmp_path)()
    late = LateArchive(opener(tmp_path))
    assert not await late.open()
    assert "another process" in late.trouble
    other.close()
    assert await late.open()
    await late.close()


def test_a_full_disk_that_is_emptied(tmp_path: Path) -> None:
    """The limit on the size of files stands for a disk without room; it needs no root."""
    code = f"""
import asyncio, datetime, resource
from pathlib import Path
from cloud.archive.archive import Archive, read
from cloud.archive.late_archive import LateArchive

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    path = Path({str(tmp_path / "kept")!r})
    late = LateArchive(lambda: Archive(path, {BYTES_MIN}, 3600))
    room(0)
    assert not await late.open()
    assert late.trouble, "a full disk must be noticed"
    room(resource.RLIM_INFINITY)
    await late.keep_trying(lambda: asyncio.sleep(0))
    late.append("door", datetime.datetime.now(datetime.UTC), "kept", b"data")
    await late.close()
    assert [record.request_id for record in read(path)] == ["kept"]

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_server_starts_while_the_disk_of_its_archive_is_full(
    tmp_path: Path, tiny_bundle: Path, packed: list[bytes]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "kept"
    arguments = ("cloud", "serve", "--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0")
    with server(*arguments, "--archive", folder) as cloud:
        resource.prlimit(cloud.process.pid, resource.RLIMIT_FSIZE, (0, hard))
        ports = cloud.event("listening")
        ready = cloud.event("ready")
        assert list(ready["troubles"]) == ["archive"]
        assert httpx.get(f"http://{ports['http']}/readyz").json() == {
            "status": "ready",
            "troubles": ready["troubles"],
        }
        answer = httpx.post(
            f"http://{ports['http']}/analyze", content=packed[0], headers={"Content-Type": MEDIA_TYPE}
        )
        assert answer.status_code == 200, answer.text
        resource.prlimit(cloud.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        assert cloud.stop() == 0
        assert cloud.process.stderr is not None
        assert cloud.process.stderr.read().count("serving without an archive") == 1
