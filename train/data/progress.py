"""How a loader reports its progress: the caller passes what shows it, and by default nothing does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol


class Progress(Protocol):
    """Yields the items of `steps`, of which there are `total`, and shows how many have passed under `name`."""

    def __call__(self, steps: Iterable[Any], name: str, total: int) -> Iterable[Any]: ...


def silent(steps: Iterable[Any], name: str, total: int) -> Iterable[Any]:
    """Shows nothing."""
    return steps
