"""Rooms as a torch Dataset, rendered on the fly or read from a set on disk that `write_rooms` made.

A set on disk is a folder: `index.json` (renderer version, image size, layers, seeds) and, for each shard of
consecutive seeds, one .npy file per layer, `00007.image.npy`, open to memory maps. A file gets its name only when it
is whole and synced, so that a killed run leaves nothing to mistake for data and is taken up where it stopped.

Letters: n images in a shard (the last may hold fewer); H, W image size.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from train.rooms.parts import SEMANTIC_CLASSES
from train.rooms.sample import RENDERER_VERSION, TEST_SEED_START, RoomSample, render
from train.rooms.scene import CATEGORIES, SEED_MAX

INDEX_NAME = "index.json"
_FORMAT = "isthmus-rooms-1"
# Layer -> type on disk. Normals are round(127 n); depth in metres; seeds are always written.
_LAYER_TYPES = {
    "image": np.uint8,
    "normals": np.int8,
    "semantic": np.uint8,
    "depth": np.float16,
    "category": np.uint8,
    "seed": np.int64,
}
LAYERS: tuple[str, ...] = ("image", "normals", "semantic", "depth", "category")


@dataclass(frozen=True)
class RoomsIndex:
    """What index.json holds; `first_seed` and `count` give the set's range of seeds."""

    renderer: int
    height: int
    width: int
    layers: tuple[str, ...]
    first_seed: int
    count: int
    shard_size: int
    categories: tuple[str, ...] = CATEGORIES
    semantic_classes: tuple[str, ...] = SEMANTIC_CLASSES

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.count // self.shard_size)

    def shard_seeds(self, shard: int) -> range:
        """The seeds of a shard."""
        start = self.first_seed + shard * self.shard_size
        return range(start, min(start + self.shard_size, self.first_seed + self.count))

    def shape(self, layer: str, shard: int) -> tuple[int, ...]:
        """The shape of a shard's layer, images first."""
        n = len(self.shard_seeds(shard))
        if layer in ("category", "seed"):
            return (n,)
        return (
            (n, self.height, self.width, 3) if layer in ("image", "normals") else (n, self.height, self.width)
        )


def _check_layers(layers: Sequence[str]) -> tuple[str, ...]:
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown or not layers:
        raise ValueError(f"layers are some of {', '.join(LAYERS)}; got {list(layers)}")
    return tuple(layer for layer in LAYERS if layer in layers)


def _check_seeds(seeds: range) -> None:
    if not len(seeds) or seeds.step != 1 or seeds.start < 0 or seeds[-1] > SEED_MAX:
        raise ValueError(f"seeds are a range with step 1, not empty, within 0 .. 2**63 - 1; got {seeds}")


def _check_split(seeds: range, split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', got {split!r}")
    if split == "train" and seeds[-1] >= TEST_SEED_START:
        raise ValueError(
            f"{seeds} reaches seeds kept for testing ({TEST_SEED_START} and up): pass split='test'"
        )
    if split == "test" and seeds[0] < TEST_SEED_START:
        raise ValueError(f"{seeds} holds seeds that may be trained on: test sets start at {TEST_SEED_START}")


def _on_disk(sample: RoomSample, layer: str, seed: int) -> np.ndarray | int:
    if layer == "seed":
        return seed
    value = getattr(sample, layer)
    return np.rint(value * 127.0) if layer == "normals" else value


def _shard_file(directory: Path, shard: int, layer: str) -> Path:
    return directory / f"{shard:05d}.{layer}.npy"


def _open_layer(directory: Path, index: RoomsIndex, shard: int, layer: str) -> np.ndarray:
    """A shard's layer as a memory map; ValueError if absent, cut short or of another shape."""
    path = _shard_file(directory, shard, layer)
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is missing or damaged: run `isthmus train rooms` on {directory} again to finish it"
        ) from error
    if array.shape != index.shape(layer, shard) or array.dtype != _LAYER_TYPES[layer]:
        raise ValueError(f"{path} does not match {INDEX_NAME}: delete it and run `isthmus train rooms` again")
    return array


def _told(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _write_atomic(path: Path, write: Callable) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _write_shard(directory: Path, index: RoomsIndex, shard: int) -> int:
    layers = (*index.layers, "seed")
    arrays = {layer: np.empty(index.shape(layer, shard), _LAYER_TYPES[layer]) for layer in layers}
    for i, seed in enumerate(index.shard_seeds(shard)):
        sample = render(seed, index.height, index.width)
        for layer in layers:
            arrays[layer][i] = _on_disk(sample, layer, seed)
    for layer in layers:
        _write_atomic(_shard_file(directory, shard, layer), lambda file, a=arrays[layer]: np.save(file, a))
    return len(index.shard_seeds(shard))


def _complete(directory: Path, index: RoomsIndex, shard: int) -> bool:
    try:
        for layer in (*index.layers, "seed"):
            _open_layer(directory, index, shard, layer)
    except ValueError:
        return False
    return True


def write_rooms(
    directory: Path | str,
    seeds: range,
    *,
    height: int = 256,
    width: int = 256,
    layers: Sequence[str] = LAYERS,
    shard_size: int = 1000,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> RoomsIndex:
    """Renders the rooms of `seeds` into a set on disk, with `workers` processes; finishes a set that was begun.

    progress(images on disk, images in all) is called at the start and after each shard. Raises ValueError for bad
    arguments and where `directory` holds a set of other seeds, size, layers or renderer.
    """
    directory = Path(directory)
    _check_seeds(seeds)
    if shard_size < 1 or workers < 1:
        raise ValueError(f"shard_size and workers are at least 1, got {shard_size} and {workers}")
    index = RoomsIndex(
        RENDERER_VERSION, height, width, _check_layers(layers), seeds.start, len(seeds), shard_size
    )
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; a set is a folder")
    render(
        seeds.start, height, width
    )  # refuses a bad size before anything is written, and fills the compile cache
    if (directory / INDEX_NAME).exists():
        there = read_index(directory)
        if there != index:
            differing = "; ".join(
                f"{name.replace('_', ' ')} {_told(old)}, not {_told(new)}"
                for name in (field.name for field in fields(index))
                if (old := getattr(there, name)) != (new := getattr(index, name))
            )
            raise ValueError(
                f"{directory} holds another set ({differing}): choose another folder or delete it"
            )
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("*.partial"):
        stale.unlink()
    text = json.dumps({"format": _FORMAT, **asdict(index)}, indent=1)
    _write_atomic(directory / INDEX_NAME, lambda file: file.write(text.encode()))

    missing = [shard for shard in range(index.shards) if not _complete(directory, index, shard)]
    done = index.count - sum(len(index.shard_seeds(shard)) for shard in missing)

    def report(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, index.count)

    report(0)
    if workers == 1 or len(missing) < 2:
        for shard in missing:
            report(_write_shard(directory, index, shard))
        return index
    # Spawned, not forked: the caller may hold threads of torch.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=context) as pool:
        futures = [pool.submit(_write_shard, directory, index, shard) for shard in missing]
        try:
            for future in as_completed(futures):
                report(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return index


def read_index(directory: Path | str) -> RoomsIndex:
    """The index of a set on disk; ValueError where there is none, or one that this renderer did not make."""
    path = Path(directory) / INDEX_NAME
    try:
        raw = json.loads(path.read_bytes())
        if raw.pop("format") != _FORMAT:
            raise KeyError("format")
        index = RoomsIndex(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})
    except FileNotFoundError as error:
        raise ValueError(
            f"no rooms at {directory} ({INDEX_NAME} is missing): make them with `isthmus train rooms`"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not an index of rooms: delete the set and run `isthmus train rooms` again"
        ) from error
    if index.renderer != RENDERER_VERSION or index.categories != CATEGORIES:
        raise ValueError(
            f"{directory} was made by renderer {index.renderer}, this is {RENDERER_VERSION}: "
            "delete the set and run `isthmus train rooms` again"
        )
    return index


def open_shards(directory: Path | str, layer: str) -> list[np.ndarray]:
    """One layer ("seed" too) of a whole set as read-only memory maps, a shard each, in the types on disk.

    Raises ValueError where the set is missing, incomplete, of another renderer, or without that layer.
    """
    index = read_index(directory)
    if layer not in (*index.layers, "seed"):
        raise ValueError(f"{directory} has the layers {', '.join(index.layers)}, not {layer!r}")
    return [_open_layer(Path(directory), index, shard, layer) for shard in range(index.shards)]


class RoomsDataset(Dataset):
    """Rooms as dicts of tensors.

    image (3, H, W) uint8; normals (3, H, W) float32, +x right, +y up, +z towards the camera; semantic (H, W) int64;
    depth (H, W) float32, metres; category () int64; seed () int64. Read from disk, normals are rounded to 1/127 and
    depth to float16.

    seeds: which rooms; None takes all of the set on disk
    directory: a set of write_rooms, or None to render on the fly (slow: tens of images a second)
    layers: which labels; None takes all there are
    split: 'train' refuses seeds from TEST_SEED_START up, 'test' refuses seeds below
    """

    def __init__(
        self,
        seeds: range | None,
        directory: Path | str | None = None,
        *,
        height: int = 256,
        width: int = 256,
        layers: Sequence[str] | None = None,
        split: str = "train",
    ) -> None:
        """Raises ValueError for bad seeds or split, and for a set on disk that is missing, incomplete or foreign."""
        self._index = read_index(directory) if directory is not None else None
        if seeds is None:
            if self._index is None:
                raise ValueError("seeds are needed to render on the fly; only a set on disk knows its own")
            seeds = range(self._index.first_seed, self._index.first_seed + self._index.count)
        _check_seeds(seeds)
        _check_split(seeds, split)
        self.seeds = seeds
        self.layers = _check_layers(
            layers if layers is not None else self._index.layers if self._index else LAYERS
        )
        self._size = (height, width)
        self._maps: dict[str, list[np.ndarray]] = {}
        if self._index is not None:
            first, count = self._index.first_seed, self._index.count
            if seeds[0] < first or seeds[-1] >= first + count:
                raise ValueError(
                    f"{directory} holds seeds {first} to {first + count - 1}, not all of {seeds}"
                )
            self._maps = {layer: open_shards(directory, layer) for layer in self.layers}

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        seed = self.seeds[i]
        if self._index is None:
            sample = render(seed, *self._size)
            item = {layer: np.asarray(getattr(sample, layer)) for layer in self.layers}
        else:
            shard, row = divmod(seed - self._index.first_seed, self._index.shard_size)
            item = {layer: np.array(self._maps[layer][shard][row]) for layer in self.layers}
            if "normals" in item:
                item["normals"] = item["normals"].astype(np.float32) / 127.0
        out = {"seed": torch.tensor(seed)}
        for layer, value in item.items():
            if layer in ("image", "normals"):
                out[layer] = torch.from_numpy(np.ascontiguousarray(value.transpose(2, 0, 1)))
            elif layer == "depth":
                out[layer] = torch.from_numpy(value.astype(np.float32))
            else:
                out[layer] = torch.from_numpy(value.astype(np.int64))
        return out
