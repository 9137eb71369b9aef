"""What `isthmus bench latency` measures, and what follows from it directly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bench.latency.edge_process import EdgeReply, Form
from bench.link import Reached, Shape
from bench.report.report import About
from bench.report.sections import possible
from shared.types import Frozen

LOOPBACK = "loopback"
SLOW, MIDDLE = Shape(mbit=0.25, delay_ms=20), Shape(mbit=1, delay_ms=20)  # the links that the targets name
COLD = SLOW
ISTHMUS, LOCAL, JPEG_75 = "Isthmus", "local", "JPEG 75"
AFTER_FRONT = ("transform", "extractor", "exact path", "range coder", "container")
CLOUD_STAGES = ("reconstruction", "tails", "results")


class Approach(Frozen):
    """One way to get an answer. equal: an image codec at Isthmus's task quality."""

    name: str
    form: Form
    quality: int = 0
    equal: bool = False


class Spread(Frozen):
    """Median and 95th percentile of `count` values."""

    median: float
    p95: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median=float(np.median(values)), p95=float(np.percentile(values, 95)), count=len(values))

    def __str__(self) -> str:
        return f"{ms_text(self.median)} / {ms_text(self.p95)}"


def ms_text(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


class ApproachTimes(Frozen):
    """One approach on one link. bytes: mean per image as it was sent. stages: in ms, Isthmus's only."""

    ms: Spread
    bytes: float
    stages: dict[str, Spread]

    @classmethod
    def of(cls, replies: Sequence[EdgeReply]) -> ApproachTimes:
        stages: dict[str, list[float]] = {}
        for times in (reply.times for reply in replies if reply.times):
            at_cloud = sum(times[name] for name in ("queue_ms", "decode_ms", "tails_ms"))
            for name, ms in {**times, "wire": times["send_ms"] - at_cloud}.items():
                stages.setdefault(name, []).append(ms)
        return cls(
            ms=Spread.of([reply.ms for reply in replies]),
            bytes=float(np.mean([reply.bytes for reply in replies])),
            stages={name: Spread.of(values) for name, values in stages.items()},
        )


class LinkTimes(Frozen):
    """What each approach took on a link. shape, reached: None for the loopback. lost: share of all packets."""

    name: str
    shape: Shape | None = None
    reached: Reached | None
    lost: float = 0.0
    answers: dict[str, ApproachTimes]

    def ms(self, approach: str) -> float:
        return self.answers[approach].ms.median

    def least_ms(self, approach: str) -> float:
        """The least that an answer can take: over a link, the delay there and back."""
        return 0.0 if self.shape is None or approach == LOCAL else 2 * self.shape.delay_ms

    def believable(self, *approaches: str) -> bool:
        """Whether none of these was faster than its link allows."""
        return all(possible(self.ms(name), self.least_ms(name)) for name in approaches)

    def shortest(self, approaches: Iterable[str]) -> str | None:
        """The approach with the shortest answer; None: undetermined, because that answer is faster than its link."""
        name = min(approaches, key=self.ms)
        return name if self.believable(name) else None


class EdgeProcess(Frozen):
    """start_s: from the creation of a fresh process to its first bitstream. Memory is resident, in MB."""

    start_s: Spread
    start_memory_mb: float
    served_memory_mb: float


class Latency(Frozen):
    """Everything that was measured. links: the loopback first. stages, cold: by stage and by approach."""

    about: About
    link: str
    approaches: tuple[Approach, ...]
    stages: dict[str, Spread]
    links: tuple[LinkTimes, ...]
    cold: dict[str, Spread]
    edge: EdgeProcess

    def on(self, shape: Shape) -> LinkTimes | None:
        return next((link for link in self.links if link.shape == shape), None)

    @property
    def loopback(self) -> LinkTimes:
        return self.links[0]

    @property
    def far(self) -> tuple[LinkTimes, ...]:
        """The links that are shaped."""
        return self.links[1:]

    @property
    def sending(self) -> list[str]:
        """The approaches that send something."""
        return [approach.name for approach in self.approaches if approach.form != "local"]

    @property
    def after_front_ms(self) -> float:
        """What the edge does after the fronts; NaN if one of its stages came out below zero, which is noise."""
        medians = [self.stages[name].median for name in AFTER_FRONT]
        return sum(medians) if min(medians) >= 0 else float("nan")

    @property
    def edge_ms(self) -> float:
        """All that Isthmus does on the edge."""
        return sum(self.stages[name].median for name in ("decode image", "fronts", *AFTER_FRONT))

    def break_even(self, link: LinkTimes) -> float | None:
        """How many times slower the edge has to be for Isthmus and local to take equally long.

        Both sides' work on the edge is assumed to slow down alike. inf: local never takes longer. None: undetermined,
        because local was not measured, or because noise made an answer shorter than a part of it.
        """
        if LOCAL not in link.answers or not link.believable(ISTHMUS, LOCAL):
            return None
        over_the_link, slower = link.ms(ISTHMUS) - self.edge_ms, link.ms(LOCAL) - self.edge_ms
        if slower <= 0:
            return float("inf")
        return over_the_link / slower if over_the_link >= 0 else None
