"""The images of a data set and their labels, not read yet. Knows no format and no network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import DataError
from shared.image import read_image, read_labels
from shared.types import TaskKind
from train.kinds.label_form import IGNORE

SUFFIXES = frozenset(
    # of shared.image.FORMATS
    (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2")
)
SPLITS = frozenset(("train", "val", "valid", "validation", "test"))
UNLABELLED = frozenset(("unlabelled", "unlabeled", "void", "ignore", "unknown", "uncertain"))

# The labels of one image as their `LabelForm` says, maps at the image's own size.
Label = Any


@dataclass(frozen=True)
class Item:
    """One image. read: reads it. labels: reads its labels of each kind. Both raise ImageError or DataError."""

    name: str
    read: Callable[[], Image.Image]
    labels: Mapping[TaskKind, Callable[[], Label]] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """A data set.

    names: of the classes, or of a vector's components, for each kind of labels that it has.
    problems: what is wrong with the set besides its items, a line each.
    lacking: why there are no labels of a kind, for the kinds where there is a reason.
    """

    items: Sequence[Item]
    names: Mapping[TaskKind, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    lacking: Mapping[TaskKind, str] = field(default_factory=dict)


def image_item(path: Path, labels: Mapping[TaskKind, Callable[[], Label]] | None = None) -> Item:
    """The item of an image file."""
    return Item(str(path), partial(read_image, path), labels or {})


def constant(value: int) -> Callable[[], int]:
    """Reads a class that is known already."""
    return partial(int, value)


def images_under(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted; hidden ones are left out. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found)


def shuffled(items: Iterable[Item], root: Path) -> list[Item]:
    """The items in an order that is the same on every machine and makes the last ones a fair sample."""

    def key(item: Item) -> bytes:
        path = Path(item.name)
        name = path.relative_to(root) if path.is_relative_to(root) else path
        return hashlib.sha256(name.as_posix().encode()).digest()

    return sorted(items, key=key)


def read_lines(path: Path) -> tuple[str, ...]:
    """The names in a file, one a line. Raises DataError."""
    try:
        return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: {error}") from None


def table_of(names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[str, ...]]:
    """Maps the values in label files to a task's classes: (256,) classes, (256,) whether a value may occur, names.

    The value 255 and classes called unlabelled, void or the like become IGNORE, and are no classes of the task.
    """
    table, known = np.full(256, IGNORE, np.uint8), np.zeros(256, np.bool_)
    kept = [index for index, name in enumerate(names) if name.lower() not in UNLABELLED]
    table[kept] = np.arange(len(kept))
    known[: len(names)] = True
    known[IGNORE] = True
    return table, known, tuple(names[index] for index in kept)


def read_classes(path: Path, table: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A label map (H, W) in the task's classes and IGNORE. Raises ImageError, or DataError for an unknown class."""
    values = read_labels(path)
    if not known[values].all():
        wrong = int(values[~known[values]].min())
        raise DataError(f"{path} holds the class {wrong}, which the set does not have")
    mapped: NDArray[np.uint8] = table[values]
    return mapped


def no_label(why: str) -> Callable[[], Label]:
    """Stands for a label that is missing: raises DataError when read."""

    def read() -> Label:
        raise DataError(why)

    return read
