"""Data set specs: a path, or FORMAT:PATH[#SPLIT]. Several, separated by commas, are read one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.errors import DataError
from train.data.formats.coco import annotation_files, coco
from train.data.formats.folders import LABELS_CSV, folders, images, labels_csv, subfolders
from train.data.formats.labels import CITYSCAPES, label_maps, pair_of
from train.data.formats.listing import SPLITS, SUFFIXES, Listing
from train.data.formats.rooms import rooms
from train.data.formats.taskonomy import looks_like, taskonomy
from train.rooms.dataset import INDEX_NAME


@dataclass(frozen=True)
class Spec:
    """One data set as it was named."""

    format: str
    path: Path
    split: str | None

    def __str__(self) -> str:
        return f"{self.format}:{self.path}" + (f"#{self.split}" if self.split else "")


def parse(data: str | Path) -> list[Spec]:
    """The data sets that a text names. Raises DataError."""
    if Path(data).exists():
        return [_parse(str(data))]
    return [_parse(part) for part in str(data).split(",")]


def list_set(spec: Spec) -> Listing:
    """The images and labels of a data set, not read yet. Raises DataError, OSError."""
    return FORMATS[spec.format](spec.path, spec.split)


def _parse(text: str) -> Spec:
    format_, colon, rest = text.partition(":")
    if not colon or format_ not in FORMATS:
        format_, rest = "", text
    path, split = Path(rest), None
    if "#" in rest and not path.exists():
        head, _, split = rest.rpartition("#")
        path = Path(head)
    if not rest:
        raise DataError("a data set needs a path", setting="data")
    if not path.exists():
        raise DataError(_nowhere(format_, rest, path), setting="data")
    return Spec(format_ or _recognised(path, split), path, split)


def _nowhere(format_: str, rest: str, path: Path) -> str:
    """The message for a path that does not exist. format_: empty if none was recognised."""
    head, colon, _ = rest.partition(":")
    if not format_ and colon and "/" not in head:
        return f"{head!r} is not a format; known are {', '.join(FORMATS)}"
    return f"no such file or folder: {path}"


def _recognised(path: Path, split: str | None) -> str:
    """The format of what lies at a path. Raises DataError, which says what was looked for."""
    if path.is_file() and path.suffix == ".csv":
        return "csv"
    for name, found in _SIGNS.items():
        if found(path, split):
            return name
    raise DataError(
        f"{path} is no data set of a known format; looked for {INDEX_NAME} (rooms), {LABELS_CSV} (csv), "
        "annotations/instances_*.json (coco), rgb/ next to normal/ or another domain (taskonomy), "
        f"{CITYSCAPES}/ or images/ next to labels/ (labels), a folder of images for each class (folders), "
        "images (images)",
        setting="data",
    )


def _has_classes(path: Path, split: str | None) -> bool:
    """Whether folders of images are there that are classes, not splits."""
    inner = subfolders(path / split if split else path)
    if inner and SPLITS.issuperset(one.name for one in inner):
        return any(_has_classes(one, None) for one in inner)
    return any(_has_image(one.iterdir()) for one in inner)


def _has_image(paths: Iterable[Path]) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in paths)


_SIGNS: dict[str, Callable[[Path, str | None], bool]] = {
    "rooms": lambda path, split: (path / INDEX_NAME).is_file(),
    "csv": lambda path, split: (path / LABELS_CSV).is_file(),
    "coco": lambda path, split: bool(annotation_files(path)),
    "taskonomy": lambda path, split: looks_like(path),
    "labels": lambda path, split: (
        (path / CITYSCAPES).is_dir()
        or any(pair_of(path, name) for name in (split, *(one.name for one in subfolders(path))))
    ),
    "folders": _has_classes,
    "images": lambda path, split: _has_image((path / split if split else path).rglob("*")),
}


FORMATS: dict[str, Callable[[Path, str | None], Listing]] = {
    "rooms": rooms,
    "folders": folders,
    "labels": label_maps,
    "csv": labels_csv,
    "coco": coco,
    "taskonomy": taskonomy,
    "images": images,
}
