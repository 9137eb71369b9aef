"""How good a training, a codec or a bundle is: typed values, and the one place that turns them into JSON and back.

On disk a score has a name: "normals/mean_deg@50", "segmentation/agreement_miou@50", "classification/top1@uncompressed",
"bytes@50"; without a task in an added task's folder, without a quality in a network's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Quality = int | Literal["uncompressed"] | None
Against = Literal["labels", "network"]
AGREEMENT = "agreement_"  # begins the names of scores against the uncompressed network
_NAME = re.compile(
    rf"(?:(?P<task>[^/@]+)/)?(?P<agreement>{AGREEMENT})?(?P<metric>[^/@]+)(?:@(?P<quality>\d+|uncompressed))?"
)


@dataclass(frozen=True)
class Score:
    """One value, e.g. the mean angle of a task's normals at quality 50.

    task: empty for what all tasks share, like bytes. quality: a level; "uncompressed": the network without the codec;
    None: no codec is involved, or all levels are. against: what answers were compared with.
    """

    metric: str
    value: float
    task: str = ""
    quality: Quality = None
    against: Against = "labels"


class Scores:
    """Scores in the order in which they were measured; no two of them differ in their value alone."""

    def __init__(self, scores: Iterable[Score] = ()) -> None:
        self._by_key = {(s.task, s.metric, s.quality, s.against): s for s in scores}

    def __iter__(self) -> Iterator[Score]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scores) and self._by_key == other._by_key

    def __repr__(self) -> str:
        return f"Scores({to_json(self)})"

    def __add__(self, other: Scores) -> Scores:
        """Both; of two with one name, the other's."""
        return Scores([*self, *other])

    def value(
        self, metric: str, task: str = "", quality: Quality = None, against: Against = "labels"
    ) -> float:
        """Raises KeyError."""
        return self._by_key[task, metric, quality, against].value

    def has(self, metric: str, task: str = "", quality: Quality = None, against: Against = "labels") -> bool:
        return (task, metric, quality, against) in self._by_key

    def tasks(self, metric: str, against: Against = "labels") -> list[str]:
        """The tasks that have this score at any quality, sorted."""
        return sorted({s.task for s in self if s.task and (s.metric, s.against) == (metric, against)})


def to_json(scores: Iterable[Score]) -> dict[str, float]:
    """{"normals/mean_deg@50": 12.3, ...}"""
    return {_name(score): score.value for score in scores}


def from_json(values: Mapping[str, float]) -> Scores:
    """Reads what `to_json` gave. Raises ValueError for a name that is none."""
    return Scores(_score(name, value) for name, value in values.items())


def by_task(scores: Iterable[Score], quality: Quality) -> dict[str, dict[str, float]]:
    """{"normals": {"mean_deg": 12.3, ...}, ...}: the tasks' scores at one quality."""
    found: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.task and score.quality == quality:
            found.setdefault(score.task, {})[_metric(score)] = score.value
    return found


def _metric(score: Score) -> str:
    return (AGREEMENT if score.against == "network" else "") + score.metric


def _name(score: Score) -> str:
    task = f"{score.task}/" if score.task else ""
    quality = "" if score.quality is None else f"@{score.quality}"
    return f"{task}{_metric(score)}{quality}"


def _score(name: str, value: float) -> Score:
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a score")
    quality: Quality = None
    if found["quality"] is not None:
        quality = "uncompressed" if found["quality"] == "uncompressed" else int(found["quality"])
    return Score(
        found["metric"],
        float(value),
        found["task"] or "",
        quality,
        "network" if found["agreement"] else "labels",
    )
