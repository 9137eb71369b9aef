"""What `isthmus bench cloud` measures, and the figures that follow from it directly."""

from __future__ import annotations

from functools import cached_property
from math import inf
from statistics import fmean, median

import numpy as np

from bench.report.report import About
from shared.types import Frozen


class Round(Frozen):
    """The service and then the bare forward, once each.

    rate: requests a second. steady: the rate is that of a full load; otherwise the run was too brief for that, and the
    rate is that of the whole run, first and last batch included: a lower bound. batch: mean size of the service's
    batches. ms: of each request, as its client sees it.
    queue_ms, decode_ms, tails_ms: means of what the answers say, for a batch rather than an image. cpu_ms: processor
    time of the cloud per request. load_share: cores that the load kept busy. bare_rate: images a second of the forward
    alone, in batches of that size; bare_cpu_ms: its processor time per image; pieces_rate: the same where threads share
    each batch, as in the service; 0 if not measured.
    """

    rate: float
    steady: bool
    batch: float
    ms: tuple[float, ...]
    queue_ms: float
    decode_ms: float
    tails_ms: float
    cpu_ms: float
    load_share: float
    bare_rate: float
    bare_cpu_ms: float
    pieces_rate: float = 0.0


class LoadPoint(Frozen):
    """One workload at one concurrency, measured in rounds."""

    workload: str
    concurrency: int
    rounds: tuple[Round, ...]

    @cached_property
    def rate(self) -> float:
        return median(one.rate for one in self.rounds)

    @cached_property
    def bare_rate(self) -> float:
        return median(one.bare_rate for one in self.rounds)

    @cached_property
    def pieces_rate(self) -> float:
        return median(one.pieces_rate for one in self.rounds)

    @cached_property
    def ratio_bound(self) -> float:
        """What the service's ratio cannot exceed: the faster of the two ways of the forward it contains, over the
        bare one."""
        return max(1.0, median(one.pieces_rate / one.bare_rate for one in self.rounds))

    @cached_property
    def ratio(self) -> float:
        """Median of service/bare rate, taken per round because machine load varies."""
        return median(one.rate / one.bare_rate for one in self.rounds)

    @cached_property
    def cpu_ratio(self) -> float:
        """Median share of the service's processor time that the forward alone needs."""
        # The system counts in steps of 10 ms: a brief round may come to none at all.
        return median(one.bare_cpu_ms / one.cpu_ms if one.cpu_ms else inf for one in self.rounds)

    @property
    def steady(self) -> bool:
        return all(one.steady for one in self.rounds)

    @cached_property
    def batch(self) -> float:
        return fmean(one.batch for one in self.rounds)

    @cached_property
    def load_share(self) -> float:
        return fmean(one.load_share for one in self.rounds)

    def ms(self, percent: float) -> float:
        """A percentile of the time to answer."""
        return float(np.percentile([value for one in self.rounds for value in one.ms], percent))


class Stages(Frozen):
    """Processor ms per image of each stage of a workload, in batches of `batch` images in one process."""

    workload: str
    batch: int
    ms: dict[str, float]


class Throughput(Frozen):
    """Everything that was measured. threads: of torch, in the cloud and in the bare forward."""

    about: About
    threads: int
    loads: tuple[LoadPoint, ...]
    stages: tuple[Stages, ...]

    @property
    def workloads(self) -> list[str]:
        return list(dict.fromkeys(load.workload for load in self.loads))

    def of(self, workload: str) -> list[LoadPoint]:
        return [load for load in self.loads if load.workload == workload]
