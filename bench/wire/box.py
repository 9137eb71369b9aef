"""What a camera costs on the link through a camera box with its own settings: `isthmus edge run` as a process.

    a rendered room -> lossless video -> isthmus edge run -> counting proxy -> a cloud's process

Counted is all that passes in a while, once the session is open: frames, answers, what HTTP/2 adds, and the frames I
that are due once a minute.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from PIL import Image

from bench.wire.counting import CountingProxy, counting_proxy
from bench.wire.results import BoxCourse
from shared.errors import IsthmusError
from shared.process.child_process import ISTHMUS, server

CAMERA, WARM_S, LOOK_S, LATE_S = "door", 3, 0.05, 120.0


@dataclass(frozen=True)
class _Mark:
    """What has passed by now. status: of the box."""

    up: int
    down: int
    status: dict[str, Any]

    @property
    def types(self) -> Counter[str]:
        return Counter(self.status["sources"][CAMERA]["sent"])


async def through_box(
    bundle: Path, images: Sequence[Image.Image], scene: str, address: str, fps: int, seconds: float
) -> BoxCourse:
    """Plays the images again and again at their pace. address: of the cloud. Raises IsthmusError."""
    with tempfile.TemporaryDirectory(prefix="isthmus-wire-") as name:
        folder = Path(name)
        clip = _write_video(folder / "scene.mkv", images, fps)
        async with counting_proxy(address) as proxy:
            config = folder / "box.toml"
            config.write_text(
                f'[cloud]\naddress = "{proxy.address}"\n[http]\nport = 0\n[spool]\nfolder = "{folder / "spool"}"\n'
                f'[sources.{CAMERA}]\nkind = "video"\nurl = "{clip}"\nloop = true\n'
            )
            command = [*ISTHMUS, "edge", "run", "--config", str(config), "--bundle", str(bundle.resolve())]
            with server("box", command) as box:
                url = (await asyncio.to_thread(box.wait_for, "listening"))["http"]
                await asyncio.to_thread(box.wait_for, "ready")
                before, after = await _marks(proxy, f"http://{url}", WARM_S * fps, seconds)
    sent, sent_before = after.status["link"], before.status["link"]
    return BoxCourse(
        scene=scene,
        seconds=seconds,
        frames=sent["sent"] - sent_before["sent"],
        types=dict(after.types - before.types),
        payload=sent["sent_bytes"] - sent_before["sent_bytes"],
        up=after.up - before.up,
        down=after.down - before.down,
    )


async def _marks(proxy: CountingProxy, url: str, warm: int, seconds: float) -> tuple[_Mark, _Mark]:
    """Before and after so many seconds, once `warm` frames are answered. Raises IsthmusError."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def mark() -> _Mark:
            status = (await client.get("/status")).raise_for_status().json()
            return _Mark(proxy.up.size, proxy.down.size, status)

        async def until(holds: Callable[[_Mark], bool]) -> _Mark:
            async with asyncio.timeout(LATE_S):
                while not holds(now := await mark()):
                    await asyncio.sleep(LOOK_S)
                return now

        try:
            first = await until(lambda one: one.status["link"]["sent"] >= warm)
            # Both marks stand where an answer for several frames has just come, so that frames are counted whole.
            before = await until(lambda one: one.status["link"]["sent"] > first.status["link"]["sent"])
            await asyncio.sleep(seconds)
            last = await mark()
            return before, await until(lambda one: one.status["link"]["sent"] > last.status["link"]["sent"])
        except (httpx.HTTPError, TimeoutError) as error:
            raise IsthmusError(f"the box does not go on: {error or type(error).__name__}") from None


def _write_video(path: Path, images: Sequence[Image.Image], fps: int) -> Path:
    """A file without any loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *images[0].size, "bgr0"
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
