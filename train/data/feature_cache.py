"""The features that frozen fronts make of every image, computed once and kept on disk for codec training."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DataError
from shared.files import write_atomically, writing_atomically
from train.data.dataset import Dataset, identity, in_order
from train.data.progress import Progress, silent

SHARD = 2048  # images in a file: half a minute's work
BATCH = 64  # images that are computed at once

logger = logging.getLogger("isthmus.train")

# compute(indices, flip) -> values (B, ...) of the images `indices` (B,), mirrored where `flip` (B,).
Compute = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[Any]]


class CachedArrays:
    """Arrays (M, ...) of M images, in files of equal length except the last."""

    def __init__(self, shards: list[NDArray[Any]]) -> None:
        self.shards = shards
        self._resident: Tensor | None = None

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def keep_on(self, device: torch.device) -> None:
        """Copies all arrays to a GPU with room for four times as much, so that steps wait for no disk."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if 4 * sum(shard.nbytes for shard in self.shards) <= free:
                pieces = [torch.from_numpy(np.array(shard)).to(device) for shard in self.shards]
                self._resident = torch.cat(pieces)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """float32 (B, ...) of the images `indices` (B,), on the GPU that keeps them, or in the CPU's memory."""
        if self._resident is not None:
            return self._resident[torch.from_numpy(indices).to(self._resident.device)].float()
        shard, row = np.divmod(indices, len(self.shards[0]))
        values = np.stack([self.shards[s][r] for s, r in zip(shard, row, strict=True)])
        return torch.from_numpy(values.astype(np.float32))


def cached_features(
    folder: Path,
    compute: Compute,
    data: Dataset,
    key: dict[str, Any],
    flips: bool,
    progress: Progress = silent,
) -> CachedArrays:
    """The values of all images and then, where `flips`, of their mirror images, kept in `folder`.

    key: everything besides the images that the values depend on. It is written to about.json; values with another key
    are deleted.

    Each file appears whole or not at all, so that a killed run continues with the next one. Where several processes
    want the same folder, one computes and the others wait. Raises DataError.
    """
    with _locked(folder):
        _delete_stale(folder, {**key, **identity(data), "flips": flips})
        return _computed(folder, compute, data, flips, progress)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("%s: another run is computing these; waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _computed(folder: Path, compute: Compute, data: Dataset, flips: bool, progress: Progress) -> CachedArrays:
    total = len(data) * (2 if flips else 1)
    shards = [range(start, min(start + SHARD, total)) for start in range(0, total, SHARD)]

    def opened(number: int) -> NDArray[Any] | None:
        try:
            values: NDArray[Any] = np.load(folder / f"{number:05d}.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        return values if len(values) == len(shards[number]) else None

    missing = [number for number in range(len(shards)) if opened(number) is None]
    batches = [(number, piece) for number in missing for piece in in_order(len(shards[number]), BATCH)]
    shown = progress(batches, f"{folder.name} of {len(data)} images", len(batches)) if missing else ()
    for number, of_shard in groupby(shown, key=lambda batch: batch[0]):
        computed = []
        for _, piece in of_shard:
            indices = piece + shards[number].start
            computed.append(compute(indices % len(data), indices >= len(data)))
        with writing_atomically(folder / f"{number:05d}.npy") as file:
            np.save(file, np.concatenate(computed))
    whole = [values for number in range(len(shards)) if (values := opened(number)) is not None]
    if len(whole) < len(shards):
        raise DataError(f"{folder}: some of it changed while it was being read; start the training again")
    return CachedArrays(whole)


def weights_digest(*modules: torch.nn.Module) -> str:
    """SHA-256, hex, of the modules' parameters and buffers."""
    digest = hashlib.sha256()
    for module in modules:
        for tensor in module.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _delete_stale(folder: Path, key: dict[str, Any]) -> None:
    """Deletes values with another key, and whatever a kill left half written."""
    for partial in folder.glob(".*.npy.*"):
        partial.unlink()
    about = folder / "about.json"
    try:
        if json.loads(about.read_text()) == key:
            return
    except (FileNotFoundError, ValueError):
        pass
    stale = list(folder.glob("*.npy"))
    if stale:
        logger.warning("%s was computed from another network or other images; computing it again", folder)
    about.unlink(missing_ok=True)  # first, so that a kill in between leaves nothing that looks valid
    for file in stale:
        file.unlink()
    write_atomically(about, json.dumps(key, indent=1).encode())
