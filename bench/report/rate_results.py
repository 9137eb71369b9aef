"""What `isthmus bench rate` measures, as it is kept in its results.json; other benches read it from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.errors import DataError
from shared.types import Frozen

Family = Literal["uncompressed", "isthmus", "image", "feature", "learned"]


class Setting(Frozen):
    """One setting of a contender. bytes: mean per image, by task, as a contender may send each task its own.

    metrics: by task, then by the metric's name; a setting may lack tasks. counts: other ways to count the same bytes,
    by name, then by task.
    """

    name: str
    bytes: dict[str, float]
    metrics: dict[str, dict[str, float]]
    counts: dict[str, dict[str, float]] = Field(default_factory=dict)


class ContenderResult(Frozen):
    """What a contender gave over `images` images. together: what it sends serves all tasks at once.

    about: what exactly was done, and which bytes count. shared: groups of tasks for which one and the same thing is
    sent, where it is not together; none where that is not known.
    """

    name: str
    family: Family
    about: str
    together: bool
    images: int
    settings: tuple[Setting, ...]
    shared: tuple[tuple[str, ...], ...] = ()

    def counted(self) -> list[ContenderResult]:
        """This result, then the same with its bytes counted in each other way, under a name that says so."""
        ways = dict.fromkeys(way for setting in self.settings for way in setting.counts)
        return [self._counted(self.name, self.about, None)] + [
            self._counted(f"{self.name}, {way}", f"the same, {way}", way) for way in ways
        ]

    def _counted(self, name: str, about: str, way: str | None) -> ContenderResult:
        settings = tuple(
            setting.model_copy(
                update={
                    "bytes": setting.bytes if way is None else setting.counts.get(way, setting.bytes),
                    "counts": {},
                }
            )
            for setting in self.settings
        )
        return self.model_copy(update={"name": name, "about": about, "settings": settings})

    def setting(self, name: str) -> Setting:
        return next(setting for setting in self.settings if setting.name == name)


class RateResults(Frozen):
    """The part of results.json that other benches use. default: name of the setting of the bundle's default quality."""

    default: str
    contenders: tuple[ContenderResult, ...]

    def contender(self, name: str) -> ContenderResult:
        return next(one for one in self.contenders if one.name == name)


def read_rate_results(path: Path) -> RateResults:
    """Raises DataError."""
    try:
        found = json.loads(path.read_text())
        return RateResults.model_validate({"default": found["default"], "contenders": found["contenders"]})
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not a results.json of `isthmus bench rate`: {reason}") from None
