"""Images in folders: one folder for each class, as ImageNet has it; listed in labels.csv; or without labels."""

from __future__ import annotations

import csv
from pathlib import Path

from shared.errors import DataError
from train.data.formats.listing import (
    SPLITS,
    Item,
    Listing,
    constant,
    image_item,
    images_under,
    read_lines,
    shuffled,
)

LABELS_CSV = "labels.csv"
MAX_CLASSES = 65536


def images(root: Path, split: str | None) -> Listing:
    """Every image in a folder and its subfolders, without labels. Raises DataError."""
    folder = root / split if split else root
    return Listing(shuffled((image_item(path) for path in images_under(folder)), folder))


def folders(root: Path, split: str | None) -> Listing:
    """A folder for each class, [SPLIT/]CLASS/**/image, by name over all splits. Raises DataError."""
    folder = root / split if split else root
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    parts = [path for path in subfolders(root) if split and (path.name in SPLITS or path.name == split)]
    names = sorted({one.name for part in parts or [root] for one in subfolders(part)})
    if not split and names and SPLITS.issuperset(names):
        raise DataError(f"{root} holds splits, not classes; choose one: folders:{root}#{names[0]}")
    items: list[Item] = []
    problems = []
    for index, name in enumerate(names):
        found = images_under(folder / name) if (folder / name).is_dir() else []
        if not found:
            problems.append(f"{folder / name}: no image of this class")
        items += [image_item(path, {"classification": constant(index)}) for path in found]
    return Listing(shuffled(items, folder), {"classification": tuple(names)}, tuple(problems))


def labels_csv(root: Path, split: str | None) -> Listing:
    """labels.csv with the columns file and index, perhaps name and split; perhaps with classes.txt next to it.

    root: its folder, or the file itself. Raises DataError.
    """
    path = root / LABELS_CSV if root.is_dir() else root
    rows = _rows(path)
    names = _names(path, rows)  # over all splits, as in `folders`
    if split is not None:
        known = sorted({row.get("split") or "" for row in rows} - {""})
        rows = [row for row in rows if row.get("split") == split]
        if not rows:
            raise DataError(f"{path} has no split {split!r}; it has {', '.join(known) or 'none'}")
    items, problems = [], []
    for row in rows:
        index = _index(row.get("index"))
        file = path.parent / (row.get("file") or "")
        if index is None or index >= len(names):
            problems.append(f"{file}: index {row.get('index')!r} is not one of 0..{len(names) - 1}")
        else:
            items.append(image_item(file, {"classification": constant(index)}))
    return Listing(shuffled(items, path.parent), {"classification": names}, tuple(problems))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _rows(path: Path) -> list[dict[str, str | None]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not {"file", "index"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: the first line must name the columns file and index")
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file: {error}") from None


def _names(path: Path, rows: list[dict[str, str | None]]) -> tuple[str, ...]:
    """Names of all classes: from classes.txt or the rows; an unnamed class is called by its number."""
    listed = path.parent / "classes.txt"
    if listed.is_file():
        return read_lines(listed)
    named: dict[int, str] = {}
    for row in rows:
        index = _index(row.get("index"))
        if index is not None and index < MAX_CLASSES:
            named.setdefault(index, row.get("name") or str(index))
    return tuple(named.get(index, str(index)) for index in range(max(named, default=-1) + 1))


def _index(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else None
