"""How far two bundles answer alike, from frames either side of a switch. Knows no plan and no bundle.

    a camera's answers   old old old | new new | old
                         `before`      ^ across ^      two answers in a row by each pair of bundles

Bytes of one bundle can be answered by that bundle alone, so no frame has answers of both. What comes nearest are a
camera's last frame with one bundle and its first with the other; the agreement of two frames in a row that the old
bundle answers says how much the scene and the camera's noise change by themselves. Maps are not compared.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import Field

from shared.frozen import Frozen
from shared.kinds import KINDS
from shared.kinds.kind import Kind, Result

NEXT_S = 60.0  # frames further apart say more about the scene


class TaskAgreement(Frozen):
    """How far two frames in a row of one camera are answered alike: 1 is the same, 0 nothing in common."""

    task: str
    switches: int = Field(
        description="frames in a row of which one bundle answered one, and the other the next"
    )
    across: float | None = Field(description="their mean agreement")
    pairs: int = Field(description="frames in a row that the bundle before answered")
    before: float | None = Field(description="their mean agreement: what changes without a new bundle")


@dataclass
class _Mean:
    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.count, self.total = self.count + 1, self.total + value

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class _Last:
    is_new: bool
    at: float
    results: Mapping[str, Result]


@dataclass
class _Task:
    across: _Mean = field(default_factory=_Mean)
    before: _Mean = field(default_factory=_Mean)


class Agreement:
    """cameras_max: of which the last answer is held. now: in seconds, from anywhere."""

    def __init__(self, cameras_max: int, now: Callable[[], float] = time.monotonic) -> None:
        self._cameras_max, self._now = cameras_max, now
        self._last: OrderedDict[str, _Last] = OrderedDict()
        self._tasks: dict[str, _Task] = {}

    def note(self, camera: str, is_new: bool, results: Mapping[str, Result] | None) -> None:
        """An answer to a frame of a camera, by the new bundle or by the old. results: None: as the one before."""
        last, at = self._last.pop(camera, None), self._now()
        if results is None:
            if last is not None and last.is_new == is_new:
                self._last[camera] = replace(last, at=at)
            return
        if last is not None and at - last.at <= NEXT_S and not (last.is_new and is_new):
            self._compare(last, is_new, results)
        self._last[camera] = _Last(is_new, at, _compared(results))
        while len(self._last) > self._cameras_max:
            self._last.popitem(last=False)

    def state(self) -> tuple[TaskAgreement, ...]:
        return _states(self._tasks)

    def clear(self) -> None:
        self._last.clear()
        self._tasks.clear()

    def _compare(self, last: _Last, is_new: bool, results: Mapping[str, Result]) -> None:
        for task in last.results.keys() & results.keys():
            one, other = last.results[task], results[task]
            if one.kind != other.kind or (alike := KINDS[one.kind].agreement(one, other)) is None:
                continue
            means = self._tasks.setdefault(task, _Task())
            (means.across if last.is_new != is_new else means.before).add(alike)


def together(parts: Iterable[Sequence[TaskAgreement]]) -> tuple[TaskAgreement, ...]:
    """What several servers have compared, as one."""
    tasks: dict[str, _Task] = {}
    for one in (one for part in parts for one in part):
        means = tasks.setdefault(one.task, _Task())
        for mean, count, value in (
            (means.across, one.switches, one.across),
            (means.before, one.pairs, one.before),
        ):
            mean.count, mean.total = mean.count + count, mean.total + count * (value or 0.0)
    return _states(tasks)


def _states(tasks: Mapping[str, _Task]) -> tuple[TaskAgreement, ...]:
    return tuple(
        TaskAgreement(
            task=name,
            switches=one.across.count,
            across=one.across.value,
            pairs=one.before.count,
            before=one.before.value,
        )
        for name, one in sorted(tasks.items())
    )


def _compared(results: Mapping[str, Result]) -> dict[str, Result]:
    """What is held of results: neither maps nor what is not compared, such as long vectors."""
    held = {}
    for task, result in results.items():
        if type(KINDS[result.kind]).agreement is not Kind.agreement:
            has_map = getattr(result, "map", None) is not None
            held[task] = result.model_copy(update={"map": None}) if has_map else result
    return held
