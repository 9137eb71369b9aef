"""What `isthmus bench rate` measures, as it is kept in its results.json; other benches read it from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from shared.errors import DataError
from shared.types import Frozen

Family = Literal["uncompressed", "isthmus", "image", "feature", "learned"]


class Setting(Frozen):
    """One setting of a contender. bytes: mean per image, by task, as a contender may send each task its own.

    metrics: by task, then by the metric's name.
    """

    name: str
    bytes: dict[str, float]
    metrics: dict[str, dict[str, float]]


class ContenderResult(Frozen):
    """What a contender gave over `images` images. together: what it sends serves all tasks at once.

    about: what exactly was done, and which bytes count.
    """

    name: str
    family: Family
    about: str
    together: bool
    images: int
    settings: tuple[Setting, ...]

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
