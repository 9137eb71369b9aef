"""Opens a data set as each task of a codec sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cloud.training.data import DenseRooms, Rooms
from cloud.training.joint import View
from shared.types import TaskKind


def open_views(data: Path, kinds: Sequence[TaskKind], start: int = 0, stop: int | None = None) -> list[View]:
    """The same pictures for each kind of task, with its labels. Raises DataError."""
    return [
        Rooms(data, start, stop) if kind == "classification" else DenseRooms(data, kind, start, stop)
        for kind in kinds
    ]
