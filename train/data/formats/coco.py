"""COCO: annotations/instances_SPLIT.json and the folder SPLIT of images.

Segmentation into `background`, which no object covers, and the categories in the order of their ids. Where objects
overlap the smaller one is on top. Crowds are not labelled.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from train.data.formats.listing import Listing, image_item, shuffled
from train.kinds.label_form import IGNORE

BACKGROUND = "background"
_DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError)


def annotation_files(root: Path) -> dict[str, Path]:
    """The annotation files of a set, by split."""
    found = sorted((root / "annotations").glob("instances_*.json"))
    return {path.stem.removeprefix("instances_"): path for path in found}


def coco(root: Path, split: str | None) -> Listing:
    """Lists the images of a split. Raises DataError."""
    files = annotation_files(root)
    if split is None and len(files) == 1:
        (split,) = files
    if split not in files:
        known = f"; it has the splits {', '.join(files)}: coco:{root}#{next(iter(files))}" if files else ""
        raise DataError(f"{root} has no annotations/instances_{split or 'SPLIT'}.json{known}")
    folders = [
        folder for folder in (root / split, root / "images" / split, root / "images") if folder.is_dir()
    ]
    if not folders:
        raise DataError(f"no such folder: {root / split}, for the images of {files[split]}")
    index = _read(files[split])
    try:
        categories = [index.cats[key] for key in sorted(index.cats)]
        numbers = {category["id"]: number for number, category in enumerate(categories, 1)}
        names = (BACKGROUND, *(str(category["name"]) for category in categories))
        items = [
            image_item(
                folders[0] / str(image["file_name"]),
                {"segmentation": partial(_map_of, index, key, numbers, files[split])},
            )
            for key, image in sorted(index.imgs.items())
        ]
    except _DAMAGE as error:
        raise DataError(f"{files[split]} is not COCO's instances: {_first_line(error)}") from None
    if len(names) > IGNORE:
        raise DataError(f"{files[split]} has {len(names) - 1} categories; at most {IGNORE - 1} are read")
    return Listing(shuffled(items, root), {"segmentation": names})


def _read(path: Path) -> Any:
    try:
        from pycocotools.coco import COCO  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise DataError(f"COCO needs {error.name}: pip install 'isthmus[train]'") from None
    try:
        with redirect_stdout(io.StringIO()):  # it prints how long it took
            return COCO(str(path))
    except (*_DAMAGE, RecursionError) as error:
        raise DataError(f"{path} is not COCO's instances: {_first_line(error)}") from None


def _map_of(index: Any, key: Any, numbers: dict[Any, int], path: Path) -> NDArray[np.uint8]:
    """Classes (H, W) of the image `key`. Raises DataError."""
    try:
        image = index.imgs[key]
        classes = np.zeros((image["height"], image["width"]), np.uint8)
        for one in sorted(index.imgToAnns.get(key, []), key=lambda one: -one["area"]):
            value = IGNORE if one.get("iscrowd") else numbers[one["category_id"]]
            classes[index.annToMask(one).astype(np.bool_)] = value
        return classes
    except _DAMAGE as error:
        raise DataError(f"{path}: the annotations of image {key} are damaged: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__} {error}".splitlines()[0]
