"""What an adapter finds in a folder: pictures and their labels, not read yet. Knows no format and no network."""

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
from train.data.dataset import IGNORE

SUFFIXES = frozenset(
    # Those of shared.image.FORMATS.
    (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2")
)
SPLITS = frozenset(("train", "val", "valid", "validation", "test"))
UNLABELLED = frozenset(("unlabelled", "unlabeled", "void", "ignore", "unknown", "uncertain"))

# A class, or a map at the picture's own size: classes (H, W) uint8, or normals (H, W, 3) int8, as `Maps` has them.
Label = Any


@dataclass(frozen=True)
class Item:
    """One picture. read: the picture. labels: of each kind, read when called. Both raise ImageError or DataError."""

    name: str
    read: Callable[[], Image.Image]
    labels: Mapping[TaskKind, Callable[[], Label]] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """A data set. names: of the classes, or a normal's components, by the kinds of labels that it has.

    problems: what is wrong beside the items, a line each. lacking: why there is no label of a kind, where more is to
    be said than that there is none.
    """

    items: Sequence[Item]
    names: Mapping[TaskKind, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    lacking: Mapping[TaskKind, str] = field(default_factory=dict)


def picture_item(path: Path, labels: Mapping[TaskKind, Callable[[], Label]] | None = None) -> Item:
    return Item(str(path), partial(read_image, path), labels or {})


def constant(value: int) -> Callable[[], int]:
    return partial(int, value)


def pictures_under(folder: Path) -> list[Path]:
    """Of the folder and those in it, in one order everywhere; hidden ones are left out. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found)


def mixed(items: Iterable[Item], root: Path) -> list[Item]:
    """In an order that is mixed, so that the last ones are a fair sample, yet the same on every machine."""

    def key(item: Item) -> bytes:
        path = Path(item.name)
        name = path.relative_to(root) if path.is_relative_to(root) else path
        return hashlib.sha256(name.as_posix().encode()).digest()

    return sorted(items, key=key)


def read_lines(path: Path) -> tuple[str, ...]:
    """Names, one a line. Raises DataError."""
    try:
        return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: {error}") from None


def table_of(names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[str, ...]]:
    """From the classes in a file to those of the task: (256,) values, (256,) whether a value may occur, and the names.

    A class that is called unlabelled, void and the like becomes IGNORE and is no class; so is 255.
    """
    table, known = np.full(256, IGNORE, np.uint8), np.zeros(256, np.bool_)
    kept = [index for index, name in enumerate(names) if name.lower() not in UNLABELLED]
    table[kept] = np.arange(len(kept))
    known[: len(names)] = True
    known[IGNORE] = True
    return table, known, tuple(names[index] for index in kept)


def read_classes(path: Path, table: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A label map (H, W) of IGNORE and the task's classes. Raises ImageError, or DataError for an unknown class."""
    values = read_labels(path)
    if not known[values].all():
        wrong = int(values[~known[values]].min())
        raise DataError(f"{path} holds the class {wrong}, which is none of the set's")
    mapped: NDArray[np.uint8] = table[values]
    return mapped


def no_label(what: str) -> Callable[[], Label]:
    """The label of a picture that has none."""

    def read() -> Label:
        raise DataError(what)

    return read
