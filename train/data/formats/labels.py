"""Images with label maps: the layouts of CamVid and of Cityscapes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from shared.errors import DataError
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
from train.kinds.label_form import IGNORE

CLASSES = "classes.txt"
CITYSCAPES = "leftImg8bit"

# The 19 classes of the Cityscapes benchmark, by their number in labelIds files. All others are ignored.
CITYSCAPES_CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}


def label_maps(root: Path, split: str | None) -> Listing:
    """A set of images and label maps. Raises DataError."""
    return _cityscapes(root, split) if (root / CITYSCAPES).is_dir() else _camvid(root, split)


def pair_of(root: Path, split: str | None) -> tuple[Path, Path] | None:
    """The folders of the images and of the maps, if they are there."""
    pairs = [("images", "labels")]
    if split:
        pairs = [
            (f"{split}/images", f"{split}/labels"),
            (f"images/{split}", f"labels/{split}"),
            (split, f"{split}annot"),
        ]
    for images, maps in pairs:
        if (root / images).is_dir() and (root / maps).is_dir():
            return root / images, root / maps
    return None


def _camvid(root: Path, split: str | None) -> Listing:
    """Each map has its image's name but for the suffix. A pixel's value is a line of classes.txt, counted from 0."""
    pair = pair_of(root, split)
    if pair is None:
        wanted = f"{split}/images and {split}/labels" if split else "images and labels"
        splits = [path.name for path in subfolders(root) if pair_of(root, path.name)]
        hint = f"; it has the splits {', '.join(splits)}: labels:{root}#{splits[0]}" if splits else ""
        raise DataError(f"{root} has no folders {wanted}{hint}")
    listed = [path for path in (root / CLASSES, pair[0].parent / CLASSES) if path.is_file()]
    if not listed:
        raise DataError(
            f"{root / CLASSES} is missing: the names of the classes in the label maps, one a line"
        )
    table, known, names = table_of(read_lines(listed[0]))
    images, maps = (
        {path.relative_to(folder).with_suffix(""): path for path in images_under(folder)} for folder in pair
    )
    items = [
        image_item(
            path,
            {
                "segmentation": partial(read_classes, maps[stem], table, known)
                if stem in maps
                else no_label(f"{path} has no label map {stem} in {pair[1]}")
            },
        )
        for stem, path in images.items()
    ]
    alone = tuple(f"{maps[stem]} has no image in {pair[0]}" for stem in sorted(maps.keys() - images.keys()))
    return Listing(shuffled(items, root), {"segmentation": names}, alone)


def _cityscapes(root: Path, split: str | None) -> Listing:
    splits = [path.name for path in subfolders(root / CITYSCAPES)]
    if split not in splits:
        there = f"it has {', '.join(splits)}: labels:{root}#{splits[0]}" if splits else "it has none"
        raise DataError(f"{root / CITYSCAPES}: {f'no split {split}' if split else 'choose a split'}; {there}")
    ids = np.array(list(CITYSCAPES_CLASSES))
    from_ids = np.full(256, IGNORE, np.uint8)
    from_ids[ids] = np.arange(len(ids))
    any_value = np.ones(256, np.bool_)
    train_ids, known, names = table_of(tuple(CITYSCAPES_CLASSES.values()))

    def item(path: Path) -> Item:
        start = path.name.removesuffix(f"_{CITYSCAPES}.png")
        folder = root / "gtFine" / path.parent.relative_to(root / CITYSCAPES)
        trained, plain = (folder / f"{start}_gtFine_{kind}.png" for kind in ("labelTrainIds", "labelIds"))
        if trained.is_file():
            return image_item(path, {"segmentation": partial(read_classes, trained, train_ids, known)})
        return image_item(path, {"segmentation": partial(read_classes, plain, from_ids, any_value)})

    folder = root / CITYSCAPES / split
    images = [path for path in images_under(folder) if path.name.endswith(f"_{CITYSCAPES}.png")]
    return Listing(shuffled(map(item, images), root), {"segmentation": names})
