"""Pictures in folders: by class, as ImageNet has them; listed in labels.csv; or without labels."""

from __future__ import annotations

import csv
from pathlib import Path

from shared.errors import DataError
from train.data.formats.listing import (
    SPLITS,
    Item,
    Listing,
    constant,
    mixed,
    picture_item,
    pictures_under,
    read_lines,
)

LABELS_CSV = "labels.csv"
MAX_CLASSES = 65536


def images(root: Path, split: str | None) -> Listing:
    """Every picture in a folder and the folders in it, without labels. Raises DataError."""
    folder = root / split if split else root
    return Listing(mixed((picture_item(path) for path in pictures_under(folder)), folder))


def folders(root: Path, split: str | None) -> Listing:
    """A folder a class, [SPLIT/]CLASS/**/picture; the classes are those of all splits, by name. Raises DataError."""
    folder = root / split if split else root
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    parts = [path for path in subfolders(root) if split and (path.name in SPLITS or path.name == split)]
    names = sorted({one.name for part in parts or [root] for one in subfolders(part)})
    if not split and names and SPLITS.issuperset(names):
        raise DataError(f"{root} holds splits, not classes; name one: folders:{root}#{names[0]}")
    items: list[Item] = []
    problems = []
    for index, name in enumerate(names):
        found = pictures_under(folder / name) if (folder / name).is_dir() else []
        if not found:
            problems.append(f"{folder / name}: no picture of this class")
        items += [picture_item(path, {"classification": constant(index)}) for path in found]
    return Listing(mixed(items, folder), {"classification": tuple(names)}, tuple(problems))


def labels_csv(root: Path, split: str | None) -> Listing:
    """labels.csv with the columns file, index and, if there are, name and split; beside it classes.txt, if there is.

    root: the folder that it lies in, or the file itself. Raises DataError.
    """
    path = root / LABELS_CSV if root.is_dir() else root
    rows = _rows(path)
    names = _names(path, rows)  # of all splits, as those of `folders`
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
            items.append(picture_item(file, {"classification": constant(index)}))
    return Listing(mixed(items, path.parent), {"classification": names}, tuple(problems))


def subfolders(folder: Path) -> list[Path]:
    """By name, without hidden ones."""
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
    """Of all classes: classes.txt, or the names in the rows; a class that nobody names is called by its number."""
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
