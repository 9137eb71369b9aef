"""Opens a data set, `--data SPEC` (see `datasets`), as each task sees it: the same pictures with each task's labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from shared.types import TaskKind
from train.data.dataset import DenseRooms, RoomPictures, Rooms
from train.data.formats import Item, Listing, Spec, list_set, parse
from train.data.formats.rendered import ROOM_LAYERS
from train.data.image_files import ClassFiles, FilePictures, MapFiles, OpenedFiles
from train.echo import echo_once
from train.rooms import read_index

Damaged = Literal["refuse", "skip"]
OpenedView = RoomPictures | FilePictures
NAMED = 3  # problems that a message names
LARGEST = 4096  # pixels of a network's input, high or wide


def open_views(
    data: str | Path,
    kinds: Sequence[TaskKind],
    start: int = 0,
    stop: int | None = None,
    needed: Sequence[bool] | None = None,
    *,
    preprocess: Preprocess | None = None,
    damaged: Damaged = "refuse",
    labels: Sequence[tuple[str, ...]] | None = None,
) -> list[OpenedView]:
    """The pictures start..stop of the set for each kind of task, with its labels: the same ones in the same order.

    needed: whether each kind must have them, as all must by default; otherwise it has them where the set does.
    preprocess: what the pictures and maps are fitted to; by default the size of the first one. damaged: refuse a set
    with pictures or labels that cannot be read, or skip those, and say so; start and stop count them all the same.
    labels: the names of what each kind's network answers. To a network that answers something else, the set is one
    without labels, and it is said. Raises DataError.
    """
    specs = parse(data)
    needed = needed or [True] * len(kinds)
    if len(specs) == 1 and specs[0].format == "rooms" and specs[0].split is None:
        plain = RoomPictures(specs[0].path, start, stop)
        if preprocess is None or (preprocess.resize is None and plain.size == _size(preprocess)):
            return _room_views(specs[0].path, kinds, start, stop, needed, labels)
    listing = _joined(specs)
    for kind, must in zip(kinds, needed, strict=True):
        if must and kind not in listing.names:
            raise DataError(listing.lacking.get(kind) or f"{data} has no labels for {kind}")
    has = [
        kind in listing.names
        and (labels is None or _same_classes(data, kind, listing.names[kind], labels[i], needed[i]))
        for i, kind in enumerate(kinds)
    ]
    items = _part(listing.items, data, start, stop)
    labelled = {kind for kind, there in zip(kinds, has, strict=True) if there}
    opened = OpenedFiles(items, labelled, preprocess or _of_first(items, data))
    _tell_damage([*listing.problems, *opened.problems], len(opened.plain), data, damaged)
    return [
        opened.view(kind, listing.names[kind]) if there else opened.plain
        for kind, there in zip(kinds, has, strict=True)
    ]


def _room_views(
    path: Path,
    kinds: Sequence[TaskKind],
    start: int,
    stop: int | None,
    needed: Sequence[bool],
    labels: Sequence[tuple[str, ...]] | None,
) -> list[OpenedView]:
    """Of a set at its own size, which needs no decoding. Raises DataError."""
    try:
        layers = read_index(path).layers
    except ValueError as error:
        raise DataError(str(error)) from None
    views: list[OpenedView] = []
    for i, (kind, must) in enumerate(zip(kinds, needed, strict=True)):
        if not must and ROOM_LAYERS[kind] not in layers:
            views.append(RoomPictures(path, start, stop))
            continue
        rooms = Rooms(path, start, stop) if kind == "classification" else DenseRooms(path, kind, start, stop)
        same = labels is None or _same_classes(path, kind, rooms.names, labels[i], must)
        views.append(rooms if same else RoomPictures(path, start, stop))
    return views


def _same_classes(
    data: str | Path, kind: TaskKind, names: tuple[str, ...], own: tuple[str, ...], must: bool
) -> bool:
    """Whether a set's classes are what a network answers: as many, and not the same names in another order.

    Says so where they are not. Raises DataError where they must be.
    """
    if kind == "normals" or (len(names) == len(own) and (names == own or {*names} != {*own})):
        return True
    why = "in another order" if len(names) == len(own) else f"{len(names)} of them, not {len(own)}"
    told = f"the classes of {data} are not those that the network for {kind} answers ({why})"
    if must:
        raise DataError(told)
    echo_once(f"{told}: taken as pictures without labels for it")
    return False


def _size(preprocess: Preprocess) -> tuple[int, int]:
    return preprocess.height, preprocess.width


def _joined(specs: Sequence[Spec]) -> Listing:
    """One set after another; with the labels that all of them have, of the same classes. Raises DataError."""
    listings = [list_set(spec) for spec in specs]
    names, lacking = dict(listings[0].names), dict(listings[0].lacking)
    for spec, listing in zip(specs[1:], listings[1:], strict=True):
        for kind in list(names):
            if listing.names.get(kind) != names[kind]:
                other = "others" if kind in listing.names else "none"
                lacking[kind] = f"{specs[0]} has classes for {kind}, {spec} has {other}"
                del names[kind]
    items = [item for listing in listings for item in listing.items]
    problems = tuple(problem for listing in listings for problem in listing.problems)
    return Listing(items, names, problems, lacking)


def _part(items: Sequence[Item], data: str | Path, start: int, stop: int | None) -> Sequence[Item]:
    if not items:
        raise DataError(f"{data} has no picture")
    part = items[start:stop]
    if part:
        return part
    if stop is not None and stop < 0:
        raise DataError(f"--holdout {-stop} leaves none of the {len(items)} pictures in {data} to train on")
    raise DataError(f"{data} has {len(items)} pictures, none of them in {start}..{stop}")


def _of_first(items: Sequence[Item], data: str | Path) -> Preprocess:
    """The size of the first picture that can be read. Raises DataError."""
    for item in items:
        try:
            picture = item.read()
        except (ImageError, DataError):
            continue
        if max(picture.size) > LARGEST:
            raise DataError(f"{item.name} is {picture.width} x {picture.height}; give a --size")
        return Preprocess.model_validate({"height": picture.height, "width": picture.width})
    raise DataError(f"{data}: none of its {len(items)} pictures can be read, nor {items[0].name}")


def _tell_damage(problems: Sequence[str], sound: int, data: str | Path, damaged: Damaged) -> None:
    """Raises DataError where damage is refused, or nothing is left."""
    if not problems:
        return
    more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    named = "; ".join(problems[:NAMED]) + more
    if damaged == "refuse":
        raise DataError(
            f"{data}: {len(problems)} damaged or missing: {named}; mend them, or leave them out with --damaged skip"
        )
    if not sound:
        raise DataError(f"{data}: no picture is left: {named}")
    echo_once(f"{data}: {len(problems)} left out, {sound} pictures remain: {named}")


__all__ = ["ClassFiles", "Damaged", "FilePictures", "MapFiles", "OpenedView", "open_views"]
