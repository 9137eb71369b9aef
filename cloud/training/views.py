"""Opens a data set as each task of a codec sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cloud.training.data import DenseRooms, RoomPictures, Rooms
from cloud.training.rooms import read_index
from cloud.training.tally import View
from shared.errors import DataError
from shared.types import TaskKind

LAYERS: dict[TaskKind, str] = {"classification": "category", "normals": "normals", "segmentation": "semantic"}


def open_views(
    data: Path,
    kinds: Sequence[TaskKind],
    start: int = 0,
    stop: int | None = None,
    needed: Sequence[bool] | None = None,
) -> list[View]:
    """The same pictures for each kind of task, with its labels.

    needed: whether each kind must have them, as all must by default; otherwise it has them where the set does. Raises
    DataError.
    """
    try:
        layers = read_index(data).layers
    except ValueError as error:
        raise DataError(str(error)) from None
    views: list[View] = []
    for kind, must in zip(kinds, needed or [True] * len(kinds), strict=True):
        if not must and LAYERS[kind] not in layers:
            views.append(RoomPictures(data, start, stop))
        elif kind == "classification":
            views.append(Rooms(data, start, stop))
        else:
            views.append(DenseRooms(data, kind, start, stop))
    return views
