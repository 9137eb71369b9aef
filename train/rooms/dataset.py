"""A set of rooms on disk, as `write_rooms` makes it: its index, its files, and how they are opened.

A set is a folder: `index.json` (renderer version, image size, layers, seeds) and, for each shard of consecutive seeds,
one .npy file per layer, `00007.image.npy`, open to memory maps. A file gets its name only when it is complete and
synced, so that a killed run leaves nothing to mistake for data.

A set of sequences has `frames` F > 1, `fps` and `motion` in its index (a set of single rooms has none of them) and F
images a seed, frame after frame: image i of the set is frame i % F of sequence i // F. No shard splits a sequence. Two
more layers give the place of each image in its sequence, `frame`, and what happens in that sequence, `event`, as a
place in the index's `events`.

Letters: n images in a shard (the last may hold fewer); F frames of a sequence; H, W image size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from train.rooms.parts import SEMANTIC_CLASSES
from train.rooms.sample import RENDERER_VERSION
from train.rooms.scene import CATEGORIES

INDEX_NAME = "index.json"
_FORMAT = "isthmus-rooms-1"
# Layer -> type on disk. Normals are round(127 n); depth in metres; seeds are always written.
LAYER_TYPES = {
    "image": np.uint8,
    "normals": np.int8,
    "semantic": np.uint8,
    "depth": np.float16,
    "category": np.uint8,
    "seed": np.int64,
    "frame": np.uint16,
    "event": np.uint8,
}
LAYERS: tuple[str, ...] = ("image", "normals", "semantic", "depth", "category")


@dataclass(frozen=True)
class RoomsIndex:
    """The content of index.json; `first_seed` and `count` give the set's range of seeds.

    shard_size: seeds in a shard. frames, fps, motion: of each seed's sequence; 1, 0 and "" in a set of single rooms.
    """

    renderer: int
    height: int
    width: int
    layers: tuple[str, ...]
    first_seed: int
    count: int
    shard_size: int
    categories: tuple[str, ...] = CATEGORIES
    semantic_classes: tuple[str, ...] = SEMANTIC_CLASSES
    frames: int = 1
    fps: float = 0.0
    motion: str = ""
    events: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """The number of images."""
        return self.count * self.frames

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.count // self.shard_size)

    @property
    def files(self) -> tuple[str, ...]:
        """The layers that each shard has a file of."""
        return (*self.layers, "seed") if self.frames == 1 else (*self.layers, "seed", "frame", "event")

    def shard_seeds(self, shard: int) -> range:
        """The seeds of a shard."""
        start = self.first_seed + shard * self.shard_size
        return range(start, min(start + self.shard_size, self.first_seed + self.count))

    def shape(self, layer: str, shard: int) -> tuple[int, ...]:
        """The shape of a shard's layer, images first."""
        n = len(self.shard_seeds(shard)) * self.frames
        if layer in ("category", "seed", "frame", "event"):
            return (n,)
        size = (n, self.height, self.width)
        return (*size, 3) if layer in ("image", "normals") else size

    def json(self) -> bytes:
        """The bytes of index.json."""
        known = {"format": _FORMAT, **asdict(self)}
        if self.frames == 1:  # as before there were sequences
            for field in ("frames", "fps", "motion", "events"):
                del known[field]
        return json.dumps(known, indent=1).encode()

    def differences(self, other: RoomsIndex) -> str:
        """The fields in which another index differs, for a message; empty if there are none."""
        return "; ".join(
            f"{field.name.replace('_', ' ')} {_shown(mine)}, not {_shown(theirs)}"
            for field in fields(self)
            if (mine := getattr(self, field.name)) != (theirs := getattr(other, field.name))
        )


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_layers(layers: Sequence[str]) -> tuple[str, ...]:
    """The layers in their usual order. Raises ValueError for an unknown one, or none at all."""
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown or not layers:
        raise ValueError(f"layers are some of {', '.join(LAYERS)}; got {', '.join(layers) or 'none'}")
    return tuple(layer for layer in LAYERS if layer in layers)


def shard_file(directory: Path, shard: int, layer: str) -> Path:
    """The file of a shard's layer."""
    return directory / f"{shard:05d}.{layer}.npy"


def open_layer(directory: Path, index: RoomsIndex, shard: int, layer: str) -> np.ndarray:
    """A shard's layer as a memory map. Raises ValueError if it is absent, cut short or of another shape."""
    path = shard_file(directory, shard, layer)
    try:
        array: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is missing or damaged: render the set again into {directory} to finish it"
        ) from error
    if array.shape != index.shape(layer, shard) or array.dtype != LAYER_TYPES[layer]:
        raise ValueError(f"{path} does not match {INDEX_NAME}: delete it and render the set again")
    return array


def is_complete(directory: Path, index: RoomsIndex, shard: int) -> bool:
    """Whether all files of a shard are there and have their shape."""
    try:
        for layer in index.files:
            open_layer(directory, index, shard, layer)
    except ValueError:
        return False
    return True


def read_index(directory: Path | str) -> RoomsIndex:
    """The index of a set on disk. Raises ValueError if there is none, or one that this renderer did not make."""
    path = Path(directory) / INDEX_NAME
    try:
        raw = json.loads(path.read_bytes())
        if raw.pop("format") != _FORMAT:
            raise KeyError("format")
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        index = RoomsIndex(**known)
        if not isinstance(index.frames, int) or index.frames < 1:
            raise ValueError("frames")
    except FileNotFoundError as error:
        raise ValueError(
            f"no rooms at {directory} ({INDEX_NAME} is missing): make them with `isthmus rooms render`"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of rooms: delete the set and render it again") from error
    if index.renderer != RENDERER_VERSION or index.categories != CATEGORIES:
        raise ValueError(
            f"{directory} was made by renderer {index.renderer}, this is {RENDERER_VERSION}: "
            "delete the set and render it again"
        )
    return index


def open_shards(directory: Path | str, layer: str) -> list[np.ndarray]:
    """One layer ("seed" too) of a whole set as read-only memory maps, one per shard, in the types on disk.

    Raises ValueError if the set is missing, incomplete, made by another renderer, or without that layer.
    """
    index = read_index(directory)
    if layer not in index.files:
        raise ValueError(f"{directory} has the layers {', '.join(index.layers)}, not {layer!r}")
    return [open_layer(Path(directory), index, shard, layer) for shard in range(index.shards)]
