"""Rate control of a box's cameras on a link that changes: real clips, frames in sessions, a simulated clock and link.

    PYTHONPATH=.:tests python -m support.rate_following --bundle photos --videos ../shared/data/videos --out runs/rate

Group, Rate, FrameEncoder and Pacer are those of a box. Prints what the link carried in each part and how well budgets
were held, and draws rate.png.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edge.clips import Clip
from edge.frames import FrameEncoder
from edge.groups import Bounds, Group, Grouped
from edge.rate import SESSION_OVERHEAD, Pacer, Rate
from shared.bundle import Bundle
from shared.codec.frame import session_key
from shared.encoder import Encoder, Features
from shared.shipped import chosen_bundle

PART_S, IN_FLIGHT, OVERHEAD, WINDOW_S = 40, 8, 113, 10.0
LINK = (125_000, 12_500, 125_000)  # bytes a second, in turn


class Jump(selectors.SelectSelector):
    """Nothing ever comes, so that time jumps to the next thing to do."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now_s += timeout or 0.0
        return []


class SimulatedTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s


class Known:
    """An encoder to which images come as their features."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def read(self, image: Features) -> Features:
        return image

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


@dataclass
class Camera:
    encoder: Known
    features: list[Features]
    at: int
    group: Group = field(init=False)
    frames: FrameEncoder = field(init=False)

    def __post_init__(self) -> None:
        manifest = self.encoder.bundle.manifest
        grid = self.features[0].u.shape[2:]
        key = session_key(bytes.fromhex(manifest.fingerprint), bytes([self.at % 256]) * 16, grid)
        self.group = Group(self.encoder, 0.3, WINDOW_S)  # type: ignore[arg-type]
        self.frames = FrameEncoder(self.encoder.frames, key)

    def image(self) -> Features:
        """To the end of the clip, back to its beginning, and so on: nothing jumps."""
        self.at += 1
        there = self.at % (2 * len(self.features) - 2)
        return self.features[min(there, 2 * len(self.features) - 2 - there)]


@dataclass
class Run:
    """One simulation. made: time and quality of each frame. sent: time, bytes on the link, frames that wait."""

    cameras: list[Camera]
    rate: Rate
    budget: float | None
    link: Callable[[float], float]
    top: int
    fps: float
    seconds: float
    made: list[tuple[float, int]] = field(default_factory=list)
    sent: list[tuple[float, int, int]] = field(default_factory=list)
    spool: deque[tuple[Camera, Grouped]] = field(default_factory=deque)
    dropped: int = 0
    through: int = 0

    async def go(self) -> Run:
        now = asyncio.get_running_loop().time
        others = [asyncio.create_task(self._link()), asyncio.create_task(self._measure())]
        step_s = 1 / (self.fps * len(self.cameras))
        for number in range(int(self.seconds / step_s)):
            await asyncio.sleep(number * step_s - now())
            self._capture(self.cameras[number % len(self.cameras)], now())
        for one in others:
            one.cancel()
        return self

    def _capture(self, camera: Camera, now_s: float) -> None:
        """As `Coder` does."""
        bounds = Bounds(self.top, None, self.rate.allowance(now_s, SESSION_OVERHEAD))
        one = camera.group.code(camera.image(), bounds, now_s)  # type: ignore[arg-type]
        beyond = bounds.allowed is not None and one.expected > bounds.allowed
        if beyond and not self.rate.may_send(one.expected, now_s, SESSION_OVERHEAD):
            self.dropped += 1
            return
        self.rate.spent(one.expected, now_s, SESSION_OVERHEAD)
        self.made.append((now_s, one.latent.quality))
        self.spool.append((camera, one))

    async def _link(self) -> None:
        """As `Link` and `Lanes` do, one frame after the other."""
        now, pace = asyncio.get_running_loop().time, Pacer(self.budget, WINDOW_S, OVERHEAD)
        while True:
            if not self.spool:
                await asyncio.sleep(0.01)
                continue
            camera, one = self.spool.popleft()
            await pace(len(one.data))
            sent = camera.frames.next(lambda *_, it=one.latent: it, one.latent.quality, now())
            size = len(sent.data)
            pace.in_session(len(one.data), size)
            await asyncio.sleep((size + SESSION_OVERHEAD) / self.link(now()))
            camera.frames.confirm(sent.number)
            if sent.frame.name != "S":
                camera.group.learn(len(one.data), size)
            self.through += size + SESSION_OVERHEAD
            self.sent.append((now(), size + SESSION_OVERHEAD, len(self.spool)))

    async def _measure(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(0.5)
            self.rate.measured(self.through, 0, len(self.spool) > IN_FLIGHT, False, now())

    def kbit_per_s(self, since_s: float, until_s: float) -> float:
        return sum(size for at, size, _ in self.sent if since_s <= at < until_s) / (until_s - since_s) * 8e-3

    def quality(self, since_s: float, until_s: float) -> float:
        return float(np.mean([one for at, one in self.made if since_s <= at < until_s]))

    def most_waiting(self, since_s: float, until_s: float) -> int:
        return max(one for at, _, one in self.sent if since_s <= at < until_s)


def simulate(
    cameras: list[Camera], budget: float | None, link: Callable[[float], float], fps: float, seconds: float
) -> Run:
    top = cameras[0].encoder.bundle.quality(None)
    run = Run(cameras, Rate(budget, WINDOW_S, OVERHEAD), budget, link, top, fps, seconds)
    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        return runner.run(run.go())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="photos")
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument(
        "--skip", type=int, default=20, help="images of each clip, in which hardly anything moves"
    )
    parser.add_argument("--images", type=int, default=40, help="of each clip, after those")
    parser.add_argument("--budgets", default="60,90", help="kbit/s")
    parser.add_argument("--what", choices=("all", "link", "budgets"), default="all")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(Bundle.open(chosen_bundle(Path(given.bundle))))
    clips = []
    for path in sorted(given.videos.glob("*.mp4")):
        with Clip(path, given.fps) as clip:
            some = islice(clip.images(), given.skip, given.skip + given.images)
            clips.append([encoder.read(one.image) for one in some])

    def cameras() -> list[Camera]:
        each = range(given.cameras)
        return [Camera(Known(encoder), clips[n % len(clips)], 7 * n) for n in each]

    print(
        f"{encoder.bundle.manifest.name}, {given.cameras} cameras at {given.fps:g} images a second, in sessions"
    )
    if given.what != "budgets":
        follow(cameras(), given.fps, given.out)
    if given.what != "link":
        # Whole passes, there and back, so that as much moves in what is measured as in what came before.
        pass_s = (2 * given.images - 2) / given.fps
        for kbit in map(float, given.budgets.split(",")):
            hold(cameras(), given.fps, kbit, pass_s)


def follow(cameras: list[Camera], fps: float, out: Path) -> None:
    """A link that changes, and no budget."""
    run = simulate(cameras, None, lambda at: LINK[min(int(at / PART_S), 2)], fps, 3 * PART_S)
    print(f"the link changes, no budget: {run.dropped} dropped, {len(run.spool)} frames wait at the end")
    for part, per_s in enumerate(LINK):
        half = part * PART_S + PART_S / 2, (part + 1) * PART_S
        print(
            f"  {per_s * 8 // 1000} kbit/s: {run.kbit_per_s(*half):.1f} kbit/s, mean quality "
            f"{run.quality(*half):.0f}, at most {run.most_waiting(*half)} frames wait"
        )
    draw(run, out / "rate.png")


def hold(cameras: list[Camera], fps: float, kbit: float, pass_s: float) -> None:
    """A budget, and a link that takes all; two passes, then three that are measured."""
    run, since, until = simulate(cameras, kbit * 125, lambda _: 1e9, fps, 5 * pass_s), 2 * pass_s, 5 * pass_s
    used = run.kbit_per_s(since, until)
    print(
        f"  budget {kbit:g} kbit/s: {used:.2f} kbit/s ({used / kbit - 1:+.2%}) in the last {until - since:.0f} s, mean "
        f"quality {run.quality(since, until):.0f}, {run.dropped} dropped, {len(run.spool)} wait at the end; "
        f"{run.kbit_per_s(0, until):.2f} from the start",
        flush=True,
    )


def draw(run: Run, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 5))
    seconds = np.arange(3 * PART_S)
    above.step(
        seconds, [LINK[at // PART_S] * 8e-3 for at in seconds], "k--", where="post", label="the link takes"
    )
    above.step(seconds, [run.kbit_per_s(at, at + 1) for at in seconds], where="post", label="it carries")
    above.set(yscale="log", ylabel="kbit/s")
    above.legend()
    below.plot(*zip(*run.made, strict=True), ".", markersize=2)
    below.set(ylabel="quality", xlabel="s", ylim=(-2, 102))
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
