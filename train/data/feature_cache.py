"""What codec training reads: the features that frozen fronts make of every picture, computed once and kept on disk."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from shared.errors import DataError
from shared.files import write_atomically, writing_atomically
from train.data.dataset import in_order

SHARD = 2048  # pictures in a file: half a minute's work


class Pixels(Protocol):
    """M pictures of one size, read in any order."""

    def __len__(self) -> int: ...

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3) of the pictures that `indices` (B,) name."""


class Kept:
    """Arrays of M pictures, (M, ...), in files of equal length but for the last."""

    def __init__(self, shards: list[NDArray[Any]]) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """float32, (B, ...), of the pictures that `indices` (B,) name."""
        shard, row = np.divmod(indices, len(self.shards[0]))
        values = np.stack([self.shards[s][r] for s, r in zip(shard, row, strict=True)])
        return torch.from_numpy(values.astype(np.float32))


def kept_features(
    folder: Path,
    compute: Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[Any]],
    pictures: Pixels,
    of: dict[str, Any],
    flips: bool,
) -> Kept:
    """compute(indices, flip) of all pictures and, where `flips`, of their mirror images behind them, kept in `folder`.

    The files appear whole or not at all, so that a killed run goes on with the next. of: what the values depend on
    besides the pictures; about.json says it, and values of anything else are thrown away. Of several processes that
    want one folder, one computes and the others wait.
    """
    with _alone_in(folder):
        return _kept(folder, compute, pictures, of, flips)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other process works on the folder meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Console().print(f"{folder}: another run is computing these; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kept(
    folder: Path,
    compute: Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[Any]],
    pictures: Pixels,
    of: dict[str, Any],
    flips: bool,
) -> Kept:
    total = len(pictures) * (2 if flips else 1)
    _keep_only_those_of(folder, {**of, **identity(pictures), "flips": flips})
    shards = [range(start, min(start + SHARD, total)) for start in range(0, total, SHARD)]

    def opened(number: int) -> NDArray[Any] | None:
        try:
            values: NDArray[Any] = np.load(folder / f"{number:05d}.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        return values if len(values) == len(shards[number]) else None

    missing = [number for number in range(len(shards)) if opened(number) is None]
    with Progress(disable=not missing) as progress:
        done = total - sum(len(shards[number]) for number in missing)
        bar = progress.add_task(f"{folder.name} of {len(pictures)} pictures", total=total, completed=done)
        for number in missing:
            values = []
            for piece in in_order(len(shards[number]), 64):
                indices = piece + shards[number].start
                values.append(compute(indices % len(pictures), indices >= len(pictures)))
                progress.advance(bar, len(indices))
            with writing_atomically(folder / f"{number:05d}.npy") as file:
                np.save(file, np.concatenate(values))
    kept = [values for number in range(len(shards)) if (values := opened(number)) is not None]
    if len(kept) < len(shards):
        raise DataError(f"{folder}: some of it changed while it was being read; start the training again")
    return Kept(kept)


def weights_digest(*modules: torch.nn.Module) -> str:
    """SHA-256, hex, of the modules' parameters and buffers."""
    digest = hashlib.sha256()
    for module in modules:
        for tensor in module.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def identity(pictures: Pixels) -> dict[str, Any]:
    """Which pictures these are, by a sample of them; as JSON holds it."""
    sample = np.linspace(0, len(pictures) - 1, 16).astype(np.int64)
    return {
        "pictures": len(pictures),
        "sample_sha256": hashlib.sha256(pictures.pixels(sample).tobytes()).hexdigest(),
    }


def sets_told(training: Pixels, validation: Pixels) -> dict[str, str]:
    """What a run starts from of its pictures, for its `inputs`."""
    sets = {"the set to train on": training, "the set held out": validation}
    told = {name: identity(one) for name, one in sets.items()}
    return {
        name: f"{of['pictures']} pictures, SHA-256 of a sample {of['sample_sha256']}"
        for name, of in told.items()
    }


def _keep_only_those_of(folder: Path, identity: dict[str, Any]) -> None:
    """Empty `folder` of values that are not of `identity`, and of what a kill left half done."""
    for stale in folder.glob(".*.npy.*"):
        stale.unlink()
    about = folder / "about.json"
    try:
        if json.loads(about.read_text()) == identity:
            return
    except (FileNotFoundError, ValueError):
        pass
    there = list(folder.glob("*.npy"))
    if there:
        Console().print(f"{folder}: of another network or of other pictures; computing it anew")
    about.unlink(missing_ok=True)  # first, so that a kill in between leaves nothing that looks sound
    for old in there:
        old.unlink()
    write_atomically(about, json.dumps(identity, indent=1).encode())
