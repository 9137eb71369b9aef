"""The lowest quality whose measured loss is small enough for the tasks that are asked: from the bundle's own figures.

`bundle evaluate` writes, for every level, each task's metrics on images that were not trained on, and the same without
compression. Only levels that were measured are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.bundle import Bundle
from shared.errors import RequestError

# Main metrics of the kinds of tasks. True: more is better, and a loss is a difference. False: less is; a share.
MAIN = {"top1": True, "miou": True, "map": True, "cosine": True, "mean_deg": False, "abs_rel": False}


def quality_for(bundle: Bundle, tasks: Sequence[str], loss: float) -> int:
    """tasks: their names; empty: all that were measured. loss: 0.01 is a point of accuracy, or 1 % more error.

    Raises RequestError where the figures do not say, or no level is good enough.
    """
    figures = bundle.manifest.figures.get("evaluation", {})
    whole: Mapping[str, Mapping[str, float]] = figures.get("uncompressed", {})
    rates: Mapping[str, Any] = figures.get("rates", {})
    names = list(tasks) or list(whole)
    unknown = [name for name in names if name not in whole or not _metric(whole[name])]
    if unknown or not names or not rates:
        about = f" about {', '.join(unknown)}" if unknown else ""
        raise RequestError(f"loss: bundle {bundle.manifest.name} has no figures{about}; give quality instead")
    for level in sorted(map(int, rates)):
        measured = rates[str(level)]["tasks"]
        if all(name in measured and _loss(measured[name], whole[name]) <= loss for name in names):
            return level
    least = max(
        min(_loss(one["tasks"][name], whole[name]) for one in rates.values() if name in one["tasks"])
        for name in names
    )
    raise RequestError(
        f"loss: no quality of bundle {bundle.manifest.name} loses {loss:g} or less; the best {least:.3f}"
    )


def _metric(measured: Mapping[str, float]) -> str | None:
    return next((name for name in MAIN if name in measured), None)


def _loss(measured: Mapping[str, float], whole: Mapping[str, float]) -> float:
    name = _metric(whole)
    assert name is not None
    if MAIN[name]:
        return whole[name] - measured[name]
    return measured[name] / max(whole[name], 1e-9) - 1
