"""Opens the data set that a spec names (see `formats`): the same images once for each task, with that task's labels.

Prints nothing: what a user should know of a set that is opened all the same is logged as a warning of `isthmus.train`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from shared.types import TaskKind
from train.data.dataset import Dataset
from train.data.formats import Item, Listing, Spec, list_set, parse
from train.data.image_files import OpenedFiles
from train.data.progress import Progress, silent
from train.data.room_set import RoomSet, nothing_chosen
from train.data.views import Views, ViewSet
from train.kinds import TRAINING_KINDS

Damaged = Literal["refuse", "skip"]
NAMED_MAX = 3  # problems that a message names
SIDE_MAX = 4096  # pixels of a network's input, high or wide
HOLDOUT_MAX = 1000  # images that are held out where nothing else is asked for

logger = logging.getLogger("isthmus.train")


def open_datasets(
    data: str | Path,
    kinds: Sequence[TaskKind],
    start: int = 0,
    stop: int | None = None,
    needed: Sequence[bool] | None = None,
    *,
    preprocess: Preprocess | None = None,
    damaged: Damaged = "refuse",
    labels: Sequence[tuple[str, ...]] | None = None,
    progress: Progress = silent,
) -> list[Dataset]:
    """The images start..stop of a set once for each kind of task, in the same order, with that kind's labels.

    needed: whether each kind must have labels; by default all must. A kind that need not has them where the set does.
    preprocess: what images and maps are fitted to; by default the size of the first image.
    damaged: "refuse" a set with files that cannot be read, or "skip" those. start and stop count them all the same.
    labels: names of the outputs of each kind's network. Where they are not the set's classes, the set counts as one
        without labels for that kind.

    Raises DataError.
    """
    specs = parse(data)
    listing = _joined(specs)
    found = [
        _labelled(data, listing, kind, must, labels[i] if labels else None)
        for i, (kind, must) in enumerate(zip(kinds, needed or [True] * len(kinds), strict=True))
    ]
    if _rooms_as_they_are(specs, preprocess):
        return [RoomSet(specs[0].path, kind, start, stop) for kind in found]
    if not listing.items:
        raise DataError(f"{data} has no image")
    items = listing.items[start:stop]
    if not items:
        raise nothing_chosen(data, len(listing.items), "images", start, stop)
    names = {kind: listing.names[kind] for kind in found if kind is not None}
    opened = OpenedFiles(items, names, preprocess or _of_first(items, data), progress)
    _report_damage([*listing.problems, *opened.problems], len(opened.dataset(None)), data, damaged)
    return [opened.dataset(kind) for kind in found]


def open_training_data(
    data: str | Path,
    kinds: Sequence[TaskKind],
    validation: str | None = None,
    holdout: int | None = None,
    needed: Sequence[bool] | None = None,
    *,
    preprocess: Preprocess | None = None,
    damaged: Damaged = "refuse",
    labels: Sequence[tuple[str, ...]] | None = None,
    views: Views | None = None,
    progress: Progress = silent,
) -> tuple[list[Dataset], list[Dataset]]:
    """The images to train on and those to validate on, of one size, each as `open_datasets` gives them.

    validation: the set to validate on; without it the last `holdout` images of `data` are. holdout: by default a
    tenth of the images, at most `HOLDOUT_MAX`, which is logged.
    views: train on views of the images, which have no labels, in place of the images.

    Raises DataError.
    """

    def opened(which: str | Path, start: int, stop: int | None, how: Preprocess | None) -> list[Dataset]:
        return open_datasets(
            which,
            kinds,
            start,
            stop,
            needed,
            preprocess=how,
            damaged=damaged,
            labels=labels,
            progress=progress,
        )

    start = 0 if validation is not None else -(holdout or _default_holdout(data))
    if views is None:
        training = opened(data, 0, start or None, preprocess)
    elif any(needed or [True]):
        raise DataError("views have no labels, which are needed here", setting="views")
    else:
        shown = open_views(data, views, start or None, preprocess, damaged=damaged, progress=progress)
        training = [shown for _ in kinds]
    rest = data if validation is None else validation
    height, width = training[0].size
    return training, opened(rest, start, None, preprocess or Preprocess(height=height, width=width))


def open_views(
    data: str | Path,
    views: Views,
    stop: int | None = None,
    preprocess: Preprocess | None = None,
    *,
    damaged: Damaged = "refuse",
    progress: Progress = silent,
) -> ViewSet:
    """Views of the first `stop` images of a set; otherwise as `open_datasets`. Raises DataError."""
    listing = _joined(parse(data))
    items = listing.items[:stop]
    if not items:
        raise DataError(f"{data} has no image")
    sound, problems = [], list(listing.problems)
    for item in progress(items, "images", len(items)):
        try:
            item.read()
            sound.append(item)
        except (ImageError, DataError) as error:
            problems.append(str(error))
    _report_damage(problems, len(sound), data, damaged)
    files = tuple(Path(item.name).name for item in sound)
    return ViewSet([item.read for item in sound], preprocess or _of_first(items, data), views, files)


def _default_holdout(data: str | Path) -> int:
    count = len(_joined(parse(data)).items)
    holdout = max(1, min(HOLDOUT_MAX, count // 10))
    logger.info("%s: the last %d of %d images are held out for validation", data, holdout, count)
    return holdout


def _rooms_as_they_are(specs: Sequence[Spec], preprocess: Preprocess | None) -> bool:
    """Whether the set is one of rooms that are read at their own size, and so need no decoding."""
    if len(specs) != 1 or specs[0].format != "rooms":
        return False
    if preprocess is None:
        return True
    size = preprocess.height, preprocess.width
    return preprocess.resize is None and RoomSet(specs[0].path).size == size


def _joined(specs: Sequence[Spec]) -> Listing:
    """One set after another, with the labels that all of them have, of the same classes. Raises DataError."""
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


def _labelled(
    data: str | Path,
    listing: Listing,
    kind: TaskKind,
    needed: bool,
    outputs: tuple[str, ...] | None,
) -> TaskKind | None:
    """`kind` where the set's labels of it are used, otherwise None. Raises DataError where they are needed.

    outputs: names of what the network answers, if there is one.
    """
    if kind not in listing.names:
        if needed and TRAINING_KINDS[kind].form is not None:
            raise DataError(listing.lacking.get(kind) or f"{data} has no labels for {kind}")
        return None
    names = listing.names[kind]
    # Names may differ in spelling or language, but the same names in another order are a mistake for certain.
    reordered = outputs is not None and names != outputs and {*names} == {*outputs}
    form = TRAINING_KINDS[kind].form
    if form is None or not form.named or outputs is None or (len(names) == len(outputs) and not reordered):
        return kind
    why = "in another order" if len(names) == len(outputs) else f"{len(names)} of them, not {len(outputs)}"
    text = f"the classes of {data} are not those that the network for {kind} answers ({why})"
    if needed:
        raise DataError(text)
    logger.warning("%s: its images are used without labels for it", text)
    return None


def _of_first(items: Sequence[Item], data: str | Path) -> Preprocess:
    """The size of the first image that can be read. Raises DataError."""
    for item in items:
        try:
            image = item.read()
        except (ImageError, DataError):
            continue
        if max(image.size) > SIDE_MAX:
            raise DataError(
                f"{item.name} is {image.width} x {image.height}, too large for a network; choose a size",
                setting="size",
            )
        return Preprocess.model_validate({"height": image.height, "width": image.width})
    raise DataError(f"{data}: none of its {len(items)} images can be read; the first is {items[0].name}")


def _report_damage(problems: Sequence[str], sound: int, data: str | Path, damaged: Damaged) -> None:
    """Raises DataError where damage is refused or no image is left."""
    if not problems:
        return
    more = f"; and {len(problems) - NAMED_MAX} more" if len(problems) > NAMED_MAX else ""
    listed = "; ".join(problems[:NAMED_MAX]) + more
    if damaged == "refuse":
        raise DataError(
            f"{data}: {len(problems)} damaged or missing: {listed}; mend them, or skip such files",
            setting="damaged",
        )
    if not sound:
        raise DataError(f"{data}: no image is left: {listed}")
    logger.warning("%s: %d left out, %d images remain: %s", data, len(problems), sound, listed)
