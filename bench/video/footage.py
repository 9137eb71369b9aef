"""What a fixed camera saw: sequences of rooms with labels, or a clip or sequences made from photographs without any.

Knows no codec.

Legend: T images of a sequence, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge.clips import Clip
from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import fit
from shared.types import TaskKind
from train.data.dataset import Dataset, identity
from train.data.formats import list_set, parse
from train.data.motion_set import MotionSet
from train.data.open_dataset import open_datasets
from train.data.room_set import RoomSet
from train.rooms.dataset import INDEX_NAME, read_index

Pixels = NDArray[np.uint8]
FrameIndices = NDArray[np.int64]
FootageKind = Literal["rooms", "clip", "photographs"]
# Sequences made from photographs: how many, how long, and a seed that no training has by default.
SEQUENCES, LENGTH, SEED = 60, 12, 1


class ClipImages:
    """The images of a clip, without labels; as a data set."""

    form = None
    names: tuple[str, ...] = ()

    def __init__(self, images: Pixels) -> None:
        self._images = images
        self.size = images.shape[1], images.shape[2]

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: FrameIndices) -> Pixels:
        return self._images[indices]

    def labels(self, indices: FrameIndices, flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        raise DataError("a clip has no labels")


@dataclass(frozen=True)
class Footage:
    """Sequences of one kind. motion: of rooms, what was asked of the renderer; otherwise empty.

    datasets: the same images for each task. sequences: the indices of each one's images, in order.
    """

    name: str
    kind: FootageKind
    motion: str
    fps: float
    datasets: Mapping[str, Dataset]
    sequences: tuple[FrameIndices, ...]

    @property
    def frames(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def labelled(self) -> frozenset[str]:
        """The tasks that are scored against labels; the others against the uncompressed networks."""
        return frozenset(name for name, data in self.datasets.items() if data.form is not None)

    def pixels(self, sequence: FrameIndices) -> Pixels:
        """(T, H, W, 3)."""
        return next(iter(self.datasets.values())).images(sequence)

    def cache_key(self) -> dict[str, Any]:
        data = next(iter(self.datasets.values()))
        lengths = [len(one) for one in self.sequences]
        return {"fps": self.fps, "sequences": lengths, "labelled": sorted(self.labelled), **identity(data)}


def open_footage(
    data: str,
    kinds: Mapping[str, TaskKind],
    labels: Mapping[str, tuple[str, ...]],
    preprocess: Preprocess,
    *,
    count: int | None,
    frames: int,
    fps: float,
) -> Footage:
    """A folder of `isthmus rooms render --frames`, a clip, or photographs (images:FOLDER) to make sequences from.

    kinds, labels: of each task. count: only the first sequences of rooms; how many are made from photographs. frames:
    at most so many images of a clip. fps: images a second that are taken from a clip. Raises DataError, or ImageError
    or a subclass.
    """
    path = Path(data)
    if (path / INDEX_NAME).exists():
        return _rooms(path, kinds, labels, preprocess, count)
    if not path.exists() and ":" in data:
        return _photographs(data, kinds, preprocess, count or SEQUENCES, fps)
    with Clip(path, fps) as clip:
        images = [np.asarray(fit(_rgb(one.image), preprocess)) for one in islice(clip.images(), frames)]
    if not images:
        raise DataError(f"{path} holds no images", setting="data")
    clip_images = ClipImages(np.stack(images))
    return Footage(path.stem, "clip", "", fps, dict.fromkeys(kinds, clip_images), (np.arange(len(images)),))


def _rgb(image: Image.Image | Path) -> Image.Image:
    return Image.open(image).convert("RGB") if isinstance(image, Path) else image


def _rooms(
    path: Path,
    kinds: Mapping[str, TaskKind],
    labels: Mapping[str, tuple[str, ...]],
    preprocess: Preprocess,
    count: int | None,
) -> Footage:
    rooms = RoomSet(path)
    if rooms.frames == 1:
        raise DataError(f"{path} holds single rooms; render with --frames 2 or more", setting="data")
    if rooms.size != (preprocess.height, preprocess.width):
        size = f"{preprocess.width} x {preprocess.height}"
        raise DataError(f"{path} has images of another size than the bundle's {size}", setting="data")
    stop = None if count is None else count * rooms.frames
    opened = open_datasets(
        path,
        list(kinds.values()),
        0,
        stop,
        [False] * len(kinds),
        preprocess=preprocess,
        labels=[labels[name] for name in kinds],
    )
    sequences = _sequences(len(opened[0]) // rooms.frames, rooms.frames)
    datasets = dict(zip(kinds, opened, strict=True))
    return Footage(path.name, "rooms", read_index(path).motion, rooms.fps, datasets, sequences)


def _photographs(
    data: str,
    kinds: Mapping[str, TaskKind],
    preprocess: Preprocess,
    count: int,
    fps: float,
) -> Footage:
    readers = [item.read for spec in parse(data) for item in list_set(spec).items]
    made = MotionSet(readers, preprocess, sequences=count, frames=LENGTH, seed=SEED)
    return Footage(
        "photographs", "photographs", "", fps, dict.fromkeys(kinds, made), _sequences(count, LENGTH)
    )


def _sequences(count: int, frames: int) -> tuple[FrameIndices, ...]:
    return tuple(np.arange(n * frames, (n + 1) * frames) for n in range(count))


def batches(count: int, size: int) -> Iterator[slice]:
    """0..count in slices of at most `size`."""
    return (slice(at, min(at + size, count)) for at in range(0, count, size))
