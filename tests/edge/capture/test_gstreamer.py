"""RTSP from a server that is not ours, GStreamer's of Debian: TCP and UDP, stopped, started and resized meanwhile.

`python -m pytest -m slow tests/edge/capture/test_gstreamer.py` takes UDP, and a clip from a camera, file and folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

import edge.capture.source
from edge.capture.messages import Message
from edge.capture.settings import SourceSettings
from edge.capture.source import Source
from support.processes import ROOT

PYTHON, SCRIPT = Path("/usr/bin/python3"), ROOT / "tests" / "support" / "gst_rtsp.py"
CLIPS = [
    ROOT / "deploy" / "samples" / "photos" / "people.mp4",
    *sorted((ROOT.parent / "shared" / "data" / "videos").glob("*.mp4")),  # where they lie beside the checkout
]
FRAMES = 60  # of each
HAS_SERVER = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


H264 = "x264enc tune=zerolatency key-int-max=5 ! rtph264pay name=pay0"
JPEG = "videoconvert ! video/x-raw,format=I420 ! jpegenc ! rtpjpegpay name=pay0"


def camera(size: int, codec: str = H264) -> str:
    return f"videotestsrc is-live=true ! video/x-raw,width={size},height={size},framerate=10/1 ! {codec}"


@pytest.fixture(autouse=True, scope="module")
def gstreamer() -> None:
    command = [str(PYTHON), "-c", HAS_SERVER]
    if not PYTHON.exists() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this needs python3-gi, gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-{good,ugly}")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.capture.source, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(edge.capture.source, "WAIT_MAX_S", 0.5)


@contextmanager
def serving(launch: str, port: int = 0) -> Iterator[int]:
    """Gives the port. It ends as a camera whose power is cut."""
    command = [str(PYTHON), str(SCRIPT), launch, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            if not line and "plugins-ugly" in (said := process.stderr.read()):
                pytest.skip(said)
            yield int(line)
        finally:
            process.kill()


@asynccontextmanager
async def running(kind: str, url: str | Path, **more: Any) -> AsyncIterator[tuple[Source, list[Image.Image]]]:
    source = Source("door", SourceSettings(kind=kind, url=str(url), **more))
    images: list[Image.Image] = []

    async def accept(message: Message) -> None:
        assert message.image is not None
        images.append(message.image)

    task = asyncio.create_task(source.run(accept))
    try:
        yield source, images
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(100):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transport", ["tcp", pytest.param("udp", marks=pytest.mark.slow)])
async def test_stopped_started_resized_and_coded_anew(transport: str) -> None:
    with ExitStack() as first:
        port = first.enter_context(serving(camera(96)))
        url = f"rtsp://127.0.0.1:{port}/door"
        async with running("rtsp", url, transport=transport, stall_ms=3000) as (source, images):
            await until(lambda: len(images) >= 3)
            assert {one.size for one in images} == {(96, 96)}
            starts = source.state.starts
            first.close()
            await until(lambda: source.state.starts > starts)
            for size, codec in ((160, H264), (80, JPEG)):  # another size, then another codec, too
                with serving(camera(size, codec), port):
                    await until(lambda size=size: images[-1].size == (size, size))
                    assert source.state.trouble == ""


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def with_key_frames(clip: Path, out: Path) -> Path:
    """A clip with a key frame each half second, as a camera has it: whoever joins waits for one.

    A frame is one slice: without h264parse, which is in yet another package, this server ends a frame with each.
    """
    with av.open(str(clip)) as source, av.open(str(out), "w") as target:
        of = source.streams.video[0]
        stream = target.add_stream(
            "libx264",
            rate=10,
            options={"x264-params": "keyint=5:slices=1:sliced-threads=0", "preset": "ultrafast"},
        )
        stream.width, stream.height, stream.pix_fmt = of.width, of.height, "yuv420p"
        for number, frame in enumerate(islice(source.decode(of), FRAMES)):
            frame.pict_type, frame.pts, frame.time_base = 0, number, Fraction(1, 10)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return out


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("of", CLIPS, ids=lambda path: path.stem)
async def test_a_clip_is_the_same_from_a_camera_a_file_and_a_folder(tmp_path: Path, of: Path) -> None:
    """Pixel by pixel, and so are the answers."""
    clip = with_key_frames(of, tmp_path / "clip.mp4")
    with av.open(str(clip)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    known = [digest(one) for one in frames]
    async with running("video", clip, pace="fast", hwaccel="none-such") as (source, images):
        await until(lambda: source.state.status == "ended")
        assert [digest(one) for one in images] == known
    launch = f"filesrc location={clip} ! qtdemux ! rtph264pay name=pay0 config-interval=-1"
    with serving(launch) as port:
        async with running("rtsp", f"rtsp://127.0.0.1:{port}/door") as (_, images):
            await until(lambda: len(images) >= 5)
        assert {digest(one) for one in images} <= set(known)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (0, 10, 20):
        frames[number].save(folder / f"{number}.png")
    async with running("folder", folder, settle_ms=0) as (_, images):
        await until(lambda: len(images) >= 3)
        assert sorted(map(digest, images)) == sorted(known[number] for number in (0, 10, 20))
