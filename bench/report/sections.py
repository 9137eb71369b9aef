"""What a bench reports: sections, each with a table, notes and targets."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from shared.types import Frozen

UNDETERMINED = "undetermined"
NOISE = "noise"


class Target(Frozen):
    """One thing that was promised. met: None where the measurement does not say."""

    what: str
    target: str
    reached: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return UNDETERMINED if self.met is None else "yes" if self.met else "no"


class Section(Frozen):
    """One claim. rows: of the table, each with as many cells as there are columns."""

    title: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()


def targets(sections: Sequence[Section]) -> list[Target]:
    return [target for section in sections for target in section.targets]


def possible(value: float, low: float = 0.0, high: float = inf) -> bool:
    """Whether a measured value can be true at all: a time below zero or a rate above its bound cannot, nor can NaN."""
    return low <= value <= high


def text_of(form: str, value: float, low: float = 0.0, high: float = inf) -> str:
    """A measured value for a table; one that cannot be true is marked as noise."""
    return form.format(value) if possible(value, low, high) else f"{NOISE} ({form.format(value)})"


def judge(
    what: str,
    target: str,
    value: float,
    met: bool,
    form: str,
    *,
    low: float = 0.0,
    high: float = inf,
) -> Target:
    """A target that a measured value decides, unless the value lies outside low..high: then it is noise.

    A clock that jumped or a machine that was busy for one half of a comparison gives such values, and whether they
    happen to pass says nothing.
    """
    if not possible(value, low, high):
        return Target(what=what, target=target, reached=text_of(form, value, low, high), met=None)
    return Target(what=what, target=target, reached=form.format(value), met=met)
