"""Sources in their own processes: what they deliver, and what happens when one stalls, crashes or goes."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import edge.capture.source
from edge.capture.messages import Message
from edge.capture.readers import Shot, _body, folder
from edge.capture.settings import SourceSettings
from edge.capture.source import Source
from edge.spool.records import Version
from shared.errors import ImageError, RequestError
from support.rtsp import rtsp_camera
from support.service import png
from support.videos import scene, write_video

LIMIT_S = 90.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.capture.source, "FIRST_WAIT_S", 0.01)


class Seen:
    """Takes images, once `gate` is open."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.images: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def accept(self, message: Message) -> None:
        await self.gate.wait()
        self.images.append(message)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.01)

    async def count(self, images: int) -> None:
        await self.until(lambda: len(self.images) >= images)

    def child(self) -> psutil.Process | None:
        """The source's process, if it runs."""
        mine = [one for one in psutil.Process().children() if "edge.capture.child" in " ".join(one.cmdline())]
        return mine[0] if mine else None


@asynccontextmanager
async def running(
    kind: str, url: str | Path, taken: dict[str, Version | None] | None = None, **more: Any
) -> AsyncIterator[Seen]:
    settings = SourceSettings(kind=kind, url=str(url), **more)
    source = Source("door", settings, lambda: taken or {})
    seen = Seen(source)
    task = asyncio.create_task(source.run(seen.accept))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 seconds of 10 images a second."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mkv", scene(20), 10)


async def test_a_video(clip: Path) -> None:
    async with running("video", clip, pace="fast", fps=5, region=(0, 0, 0.5, 1)) as seen:
        await seen.until(lambda: seen.source.state.status == "ended")
    images = [one.image for one in seen.images]
    assert [one.size for one in images if one] == [(32, 64)] * 10
    for number, one in enumerate(images):
        assert one is not None
        assert np.abs(np.asarray(one).astype(int) - scene(20)[2 * number][:, :32]).mean() < 3
    assert seen.source.state.counts == {"captured": 20, "rate": 10}
    assert seen.source.state.starts == 1


async def test_the_newest_wins_and_a_killed_process_is_started_again(clip: Path) -> None:
    async with running("video", clip, loop=True) as seen:
        await seen.count(1)
        seen.gate.clear()
        before, mark = len(seen.images), time.monotonic()
        child = seen.child()
        assert child is not None
        # The box takes no image for a while; the camera's go on meanwhile.
        await seen.until(lambda: time.monotonic() > mark + 0.8)
        seen.gate.set()
        await seen.count(before + 3)
        assert seen.source.state.counts["slow"] >= 3
        child.send_signal(signal.SIGKILL)
        await seen.until(lambda: seen.source.state.starts == 2)
        assert "SIGKILL" in seen.source.state.trouble
        count = len(seen.images)
        await seen.count(count + 1)
        assert seen.source.state.trouble == ""


async def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(("b.png", "a.png", "sent.png", "kept.png", "changed.png")):
        (folder / name).write_bytes(png(number))
        os.utime(folder / name, (1_764_400_000 + number,) * 2)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(png(0))
    (folder / "broken.png").write_bytes(png(0)[:100])
    kept = (folder / "kept.png").stat()
    known = {"sent.png": None, "kept.png": (kept.st_size, kept.st_mtime_ns), "changed.png": (kept.st_size, 0)}
    taken = {str(folder / name): version for name, version in known.items()}
    async with running("folder", folder, taken, settle_ms=100) as seen:
        await seen.count(3)
        await seen.until(lambda: "broken.png" in seen.source.state.flaw)
        part = folder / "late.png"
        part.write_bytes(png(5)[:5000])
        with part.open("ab") as file:  # a file that is being written
            file.write(png(5)[5000:])
        (folder / "broken.png").write_bytes(png(6))
        await seen.count(5)
    names = [Path(one.origin).name for one in seen.images]
    assert names[:3] == ["b.png", "a.png", "changed.png"]
    assert sorted(names[3:]) == ["broken.png", "late.png"]
    assert seen.images[2].version == (kept.st_size, (folder / "changed.png").stat().st_mtime_ns)
    assert seen.images[0].captured_at == datetime.fromtimestamp(1_764_400_000, UTC)
    assert seen.source.state.counts["damaged"] >= 1


def test_a_name_that_is_no_text_is_a_flaw(tmp_path: Path) -> None:
    named = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(named)).write_bytes(png(0))
    (tmp_path / "a.png").write_bytes(png(1))
    shots: list[Shot] = []
    for shot in folder(tmp_path, 0, {}, lambda _: None):
        if shot is None and len(shots) >= 2:
            break
        shots += [] if shot is None else [shot]
    flaws = {Path(one.origin).name: one.flaw for one in shots}
    assert len(shots) == 2  # and neither again
    assert flaws["a.png"] == ""
    assert "\ufffd.png: the name is not UTF-8; rename the file" in flaws["\ufffd.png"]
    assert os.path.exists(named)


@contextmanager
def web_camera() -> Iterator[tuple[str, list[int]]]:
    """Its URL, and the statuses that it answers next with; afterwards 200."""
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = statuses.pop(0) if statuses else 200
            body = png(1) if status == 200 else b"no"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}/snapshot", statuses
        server.shutdown()


async def test_snapshots() -> None:
    with web_camera() as (url, statuses):
        async with running("snapshot", url, fps=20) as seen:
            await seen.count(2)
            statuses.append(503)
            await seen.until(lambda: seen.source.state.starts == 2)
            assert seen.source.state.trouble == "the camera answers 503 Service Unavailable"
            await seen.count(len(seen.images) + 1)
    assert seen.images[0].captured_at is not None
    assert seen.images[0].image is not None
    assert "secret" not in seen.source.settings.place


def test_a_snapshot_is_read_as_it_is_sent() -> None:
    """What would grow beyond any memory where it is decoded is not, whether asked for or on the way there."""
    bomb = gzip.compress(bytes(1 << 20))
    asked: list[Any] = []

    def camera(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["accept-encoding"])
        if request.url.path == "/far":
            headers = {"Location": "/near", "Content-Encoding": "gzip"}
            return httpx.Response(302, headers=headers, stream=httpx.ByteStream(b"no gzip: never read"))
        if request.url.path == "/near":
            return httpx.Response(200, stream=httpx.ByteStream(png(0)))
        if request.url.path == "/round":
            return httpx.Response(302, headers={"Location": "/round"})
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(bomb))

    headers = {"Accept-Encoding": "identity"}
    with httpx.Client(transport=httpx.MockTransport(camera), headers=headers) as client:
        assert _body(client, "http://camera/far") == png(0)
        with pytest.raises(ImageError, match=r"compresses its answer \(gzip\)"):
            _body(client, "http://camera/bomb")
        with pytest.raises(ImageError, match="redirects more than"):
            _body(client, "http://camera/round")
    assert set(asked) == {"identity"}


async def test_rtsp() -> None:
    """A camera that changes its size, hangs up, and falls silent."""
    with rtsp_camera() as camera:
        async with running("rtsp", camera.url, stall_ms=1500) as seen:
            await seen.count(3)
            camera.size = 96
            await seen.until(lambda: bool(seen.images[-1].image and seen.images[-1].image.size == (96, 96)))
            camera.hang_up()
            await seen.until(lambda: camera.plays == 2)
            await seen.count(len(seen.images) + 2)
            camera.silent = True
            await seen.until(lambda: seen.source.state.starts >= 3)
            camera.silent = False
            await seen.count(len(seen.images) + 1)
    first = seen.images[0]
    assert first.image is not None
    assert first.image.size == (64, 64)
    assert np.abs(np.asarray(first.image).astype(int) - scene(1)[0]).mean() < 12
    assert first.captured_at is not None


async def test_sources_that_fail(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")

    async def fails(kind: str, url: str | Path, words: str, **more: Any) -> None:
        async with running(kind, url, **more) as seen:
            await seen.until(lambda: words in seen.source.state.trouble)
            assert "secret" not in seen.source.state.trouble
            assert seen.images == []

    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and says nothing
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x"
        await asyncio.gather(
            fails("rtsp", url, "the camera says nothing for 0.5 s", stall_ms=500),
            fails("video", empty, "is no video"),
            fails("video", tmp_path / "nope.mp4", "no such file"),
            fails("rtsp", "rtsp://user:secret@127.0.0.1:1/x", "refused"),
            fails("folder", tmp_path / "nope", "No such file"),
            fails("v4l2", "/dev/video-nope", "No such file"),
        )


async def test_the_process_ends_with_the_box(tmp_path: Path) -> None:
    """Also where its box is killed: it reads the end of its input."""
    process = await asyncio.create_subprocess_exec(
        *edge.capture.source.COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        cwd=edge.capture.source.ROOT,
    )
    assert process.stdin is not None
    settings = SourceSettings(kind="folder", url=str(tmp_path))
    process.stdin.write(json.dumps(settings.to_child() | {"taken": {}}).encode() + b"\n")
    process.stdin.close()
    async with asyncio.timeout(LIMIT_S):
        assert await process.wait() == 0


def test_settings_that_cannot_be() -> None:
    def refused(**values: Any) -> str:
        with pytest.raises(RequestError) as raised:
            SourceSettings.of(**{"kind": "rtsp", "url": "rtsp://a"} | values)
        return str(raised.value)

    assert "begins with rtsp://" in refused(url="http://user:secret@a")
    assert "secret" not in refused(url="http://user:secret@a")
    assert "shares, 0 to 1" in refused(region=(0.5, 0, 0.6, 1))
    assert "shares, 0 to 1" in refused(mask=[(0, 0, 0, 1)])
    assert "no span of a schedule" in refused(schedule=["8 to 5"])
    assert "days are mon" in refused(schedule=["always"])
    assert "give one of them" in refused(quality=5, bytes_max=100)
    assert refused(fps=0).startswith("fps is 0; it must be above 0")
