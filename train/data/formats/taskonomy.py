"""Taskonomy: DOMAIN/[taskonomy/]BUILDING/point_P_view_V_domain_DOMAIN.png or .npy, as its download tool lays them out.

- Its normals are 8-bit colours around 127.5: red to the right, green down, blue towards the camera. Ours point right,
  up and towards the camera. In some files blue points away from the camera. Visible surfaces face the camera, so the
  sign of an image's mean decides.
- class_object and class_scene hold scores of 1000 and 365 classes, the best of which counts.
- Semantic class 0 is `uncertain`: those pixels are not labelled.
- Depth is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.image import read_image
from shared.types import TaskKind
from train.data.formats.folders import subfolders
from train.data.formats.listing import (
    Item,
    Listing,
    image_item,
    images_under,
    no_label,
    read_classes,
    read_lines,
    shuffled,
    table_of,
)

SEMANTIC_CLASSES = (
    "uncertain",
    "background",
    "bottle",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
)
CLASSES = {"class_object": 1000, "class_scene": 365}
DOMAINS = ("normal", "segment_semantic", *CLASSES, "depth_zbuffer")
# The endings of the files of domains that do not end with their own name.
_ENDINGS = {
    "segment_semantic": ("segmentsemantic", "segment_semantic"),
    "class_scene": ("class_scene", "class_places"),
}


def taskonomy(root: Path, split: str | None) -> Listing:
    """Lists the images of all buildings, or of some.

    split: names of buildings, and class_scene for the classes of scenes where those of objects are there too; joined
    by +. Raises DataError.
    """
    words = set(split.split("+")) if split else set()
    buildings = words - CLASSES.keys()
    there = [domain for domain in DOMAINS if (root / domain).is_dir()]
    chosen = [name for name in CLASSES if name in there and (name in words or not words & CLASSES.keys())]
    images = [path for path in images_under(root / "rgb") if not buildings or path.parent.name in buildings]
    unknown = buildings - {path.parent.name for path in images}
    if unknown:
        raise DataError(f"{root / 'rgb'} has no building {', '.join(sorted(unknown))}")
    readers: dict[TaskKind, tuple[str, Callable[[Path], Any]]] = {}
    names: dict[TaskKind, tuple[str, ...]] = {}
    if chosen:
        names["classification"] = _class_names(root, chosen[0])
        readers["classification"] = chosen[0], partial(_best, count=len(names["classification"]))
    if "normal" in there:
        names["normals"] = ("x", "y", "z")
        readers["normals"] = "normal", read_normals
    if "segment_semantic" in there:
        table, known, names["segmentation"] = table_of(SEMANTIC_CLASSES)
        readers["segmentation"] = "segment_semantic", partial(read_classes, table=table, known=known)

    def item(path: Path) -> Item:
        return image_item(path, {kind: _label_of(root, path, *reader) for kind, reader in readers.items()})

    lacking: dict[TaskKind, str] = {}
    if "depth_zbuffer" in there:
        lacking["depth"] = f"{root} has depth_zbuffer, but that is not read"
    return Listing(shuffled(map(item, images), root), names, lacking=lacking)


def looks_like(root: Path) -> bool:
    """Whether a folder holds images and at least one other domain."""
    return (root / "rgb").is_dir() and any(path.name in DOMAINS for path in subfolders(root))


def _label_of(root: Path, image: Path, domain: str, read: Callable[[Path], Any]) -> Callable[[], Any]:
    """Reads the file of a domain that belongs to an image of rgb/."""
    start = image.stem.removesuffix("_domain_rgb").removesuffix("_rgb")
    folder = root / domain / image.parent.relative_to(root / "rgb")
    suffix = ".npy" if domain in CLASSES else ".png"
    for ending in _ENDINGS.get(domain, (domain,)):
        for name in (f"{start}_domain_{ending}{suffix}", f"{start}_{ending}{suffix}"):
            if (folder / name).is_file():
                return partial(read, folder / name)
    return no_label(f"{image} has no {domain} in {folder}")


def read_normals(path: Path) -> NDArray[np.int8]:
    """round(127 n), (H, W, 3) int8: right, up, towards the camera; 0 where the file is grey. Raises ImageError."""
    values = (np.asarray(read_image(path), np.float32) - 127.5) / 127.5
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    unit = np.where(length > 0.5, values / np.maximum(length, 0.5), 0)
    away = -1 if unit[..., 2].mean() < 0 else 1
    signed: NDArray[np.int8] = np.rint(127 * unit * np.array([1, -1, away], np.float32)).astype(np.int8)
    return signed


def _best(path: Path, count: int) -> int:
    try:
        scores = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if scores.size != count or not np.isfinite(scores).all():
        raise DataError(f"{path} holds {scores.size} scores; {count} numbers are expected")
    return int(scores.argmax())


def _class_names(root: Path, domain: str) -> tuple[str, ...]:
    """The names in DOMAIN.txt next to the folders; without that file the classes are called by their numbers."""
    listed = root / f"{domain}.txt"
    return read_lines(listed) if listed.is_file() else tuple(str(index) for index in range(CLASSES[domain]))
