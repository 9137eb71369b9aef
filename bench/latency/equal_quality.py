"""The quality of an image format at which every task does as well as over Isthmus, from a rate bench's results."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from bench.report.metrics import METRICS, HeadlineMetric
from bench.report.rate_results import read_rate_results
from shared.errors import DataError


def equal_quality(path: Path, form: str) -> int:
    """The lowest quality of the format at which every task does as well as over Isthmus at its default quality.

    path: results.json of `isthmus bench rate`. Where no measured quality does as well, the best one. Raises DataError.
    """
    results = read_rate_results(path)
    try:
        own = results.contender("Isthmus").setting(results.default)
        settings = results.contender(form).settings
        qualities = [int(setting.name.split()[-1]) for setting in settings]
        needed = []
        for task, metrics in own.metrics.items():
            metric = _headline(metrics)
            reached = [metric.goodness(setting.metrics[task][metric.key]) for setting in settings]
            needed.append(_crossing(qualities, reached, metric.goodness(metrics[metric.key])))
    except (LookupError, ValueError, StopIteration):
        raise DataError(f"{path} has no results for Isthmus and {form} with the same tasks") from None
    return math.ceil(max(needed))


def _headline(keys: Collection[str]) -> HeadlineMetric:
    return next(metric for metric in METRICS.values() if metric.key in keys)


def _crossing(qualities: Sequence[int], reached: Sequence[float], wanted: float) -> float:
    """Where the running best gets to `wanted`, with straight lines in between; the last quality if it never does."""
    best = np.maximum.accumulate(reached)
    above = int(np.argmax(best >= wanted)) if best[-1] >= wanted else len(best) - 1
    if above == 0 or best[above] < wanted:
        return qualities[above]
    return float(np.interp(wanted, best[above - 1 : above + 1], qualities[above - 1 : above + 1]))
