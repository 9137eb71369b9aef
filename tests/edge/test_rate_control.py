"""Rate control by a simulated clock: budgets hold, a link that changes is followed, quality falls before frames."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from edge.quality import quality_for
from edge.rate import Pacer, Rate
from shared.bundle import Bundle
from shared.errors import RequestError
from shared.shipped import default_bundle

OVERHEAD = 113
SIZES = np.linspace(38, 390, 101)  # bytes by quality, about as those of the shipped bundle


@dataclass
class Run:
    """Images at a steady rate, coded by the allowance, through a link that takes so many bytes a second."""

    rate: Rate
    fps: float = 5.0
    seed: int = 0
    top: int = 96
    now_s: float = 0.0
    backlog: float = 0.0  # bytes
    through: int = 0
    frames: int = 0
    spent: list[tuple[float, int, int]] = field(default_factory=list)  # time, bytes with overhead, quality
    dropped: int = 0

    def go(self, seconds: float, link: float = float("inf")) -> None:
        rng = np.random.default_rng(self.seed)
        for n in range(int(seconds * self.fps)):
            self.now_s += 1 / self.fps
            self._image(SIZES * rng.uniform(0.7, 1.3))
            moved = min(self.backlog, link / self.fps)
            self.backlog -= moved
            self.through += int(moved)
            if n % max(int(self.fps / 2), 1) == 0:
                self.rate.measured(self.through, 0, self.backlog > 8 * 500, False, self.now_s)

    def _image(self, sizes: np.ndarray) -> None:
        allowed = self.rate.allowance(self.now_s)
        fitting = [q for q in range(self.top + 1) if allowed is None or sizes[q] <= allowed]
        quality = fitting[-1] if fitting else 0
        size = int(sizes[quality])
        if not fitting and not self.rate.may_send(size, self.now_s):
            self.dropped += 1
            return
        self.rate.spent(size, self.now_s)
        self.spent.append((self.now_s, size + OVERHEAD, quality))
        self.backlog += size + OVERHEAD

    def mean(self, since_s: float) -> float:
        """Bytes a second since then."""
        return sum(size for at, size, _ in self.spent if at > since_s) / (self.now_s - since_s)

    def qualities(self, since_s: float, until_s: float) -> float:
        return float(np.mean([q for at, _, q in self.spent if since_s < at <= until_s]))


@pytest.mark.parametrize("fps", [1.0, 5.0, 25.0])
@pytest.mark.parametrize("window_s", [2.0, 10.0, 60.0])
def test_a_budget_is_held_within_3_percent(fps: float, window_s: float) -> None:
    budget = 300 * fps
    run = Run(Rate(budget, window_s, OVERHEAD), fps)
    run.go(10 * window_s + 60)
    begins = run.now_s - max(5 * window_s, 40)
    assert run.mean(begins) == pytest.approx(budget, rel=0.03)
    assert run.dropped == 0


def test_a_budget_that_is_more_than_enough_changes_nothing() -> None:
    run = Run(Rate(1e6, 10, OVERHEAD))
    run.go(60)
    assert {quality for _, _, quality in run.spent} == {96}


def test_quality_falls_before_frames_do() -> None:
    least = (38 * 0.7 + OVERHEAD) * 5
    run = Run(Rate(1.3 * least, 10, OVERHEAD))
    run.go(120)
    assert run.dropped == 0
    assert run.qualities(60, 120) < 15
    under = Run(Rate(0.5 * least, 10, OVERHEAD))
    under.go(120)
    assert (
        under.dropped > 100
    )  # not even the lowest quality fits: then frames are given up, and the budget is held
    assert under.mean(60) <= 0.5 * least * 1.03
    assert under.qualities(60, 120) == 0


@pytest.mark.parametrize("budget", [None, 5000.0])
def test_a_link_that_changes_is_followed(budget: float | None) -> None:
    run = Run(Rate(budget, 5, OVERHEAD), 5)
    run.go(60, 125_000)
    assert run.qualities(30, 60) == 96
    run.go(90, 1_250)  # less than half of what quality 96 takes
    assert run.dropped == 0
    assert run.qualities(100, 150) < 60
    assert run.backlog < 60 * 1250
    assert run.mean(100) < 1250 * 1.1
    run.go(90, 125_000)
    assert run.backlog < 1000
    assert run.qualities(210, 240) > 90


def test_no_budget_gives_no_frame_up() -> None:
    run = Run(Rate(None, 5, OVERHEAD), 5)
    run.go(60, 300)  # less than the lowest quality takes
    assert run.dropped == 0
    assert run.qualities(20, 60) == 0


def test_a_link_that_is_down_says_nothing() -> None:
    rate = Rate(None, 10, OVERHEAD)
    for n in range(100):
        rate.measured(0, 0, True, True, n / 2)
    assert rate.limit is None
    ignoring = Rate(None, 10, OVERHEAD, measured_too=False)
    for n in range(100):
        ignoring.measured(n, 0, True, False, n / 2)
    assert ignoring.limit is None


async def test_what_was_spooled_leaves_at_the_budget() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    pace = Pacer(100_000, 1, OVERHEAD)
    for _ in range(100):
        await pace(1887)  # 200,000 bytes in all, of which 50,000 may go at once
    assert 1.2 < loop.time() - began < 30
    unlimited = Pacer(None, 1, OVERHEAD)
    for _ in range(100):
        await unlimited(10**9)


def test_quality_by_question() -> None:
    bundle = Bundle.open(default_bundle())
    figures = bundle.manifest.figures["evaluation"]
    asked = quality_for(bundle, ["classification"], 0.01)
    assert figures["rates"][str(asked)]["bytes_mean"] < figures["rates"]["100"]["bytes_mean"] / 3
    for level in (one for one in map(int, figures["rates"]) if one < asked):
        lost = figures["uncompressed"]["classification"]["top1"]
        lost -= figures["rates"][str(level)]["tasks"]["classification"]["top1"]
        assert lost > 0.01
    assert quality_for(bundle, ["classification"], 1) == 0
    assert quality_for(bundle, [], 0.05) >= asked
    with pytest.raises(RequestError, match="no figures about parking"):
        quality_for(bundle, ["parking"], 0.1)
    with pytest.raises(RequestError, match="no quality of bundle rooms"):
        quality_for(bundle, ["segmentation"], 0)
