"""Rendered rooms on disk, read at their own size from memory-mapped shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.types import TaskKind
from train.kinds import TRAINING_KINDS
from train.kinds.label_form import LabelForm
from train.kinds.training_kind import RoomLabels
from train.rooms import LAYERS, RoomsIndex, open_shards, read_index

# Where rooms have the labels of each kind of task.
ROOM_LABELS: dict[TaskKind, RoomLabels] = {
    kind: known.rooms for kind, known in TRAINING_KINDS.items() if known.rooms is not None
}


class RoomSet:
    """The rooms start..stop of a rendered set, with the labels of one kind of task or without any.

    In a set of sequences, image i is frame i % frames of sequence i // frames. start and stop count images; one
    that lies within a sequence moves to its first frame, so that no sequence is on both sides of a cut.

    Raises DataError where the set is damaged, lacks the labels, or has no room in that range.
    """

    def __init__(
        self,
        directory: Path,
        kind: TaskKind | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self._directory = directory
        self._index = _read_index(directory)
        self._images = _shards(directory, "image")
        count = sum(len(shard) for shard in self._images)
        self._chosen = np.arange(count)[self._cut(start, count) : self._cut(stop, count)]
        if not len(self._chosen):
            raise nothing_chosen(directory, count, "rooms", start, stop)
        self.size: tuple[int, int] = self._images[0].shape[1:3]
        self.form: LabelForm | None = None
        self.names: tuple[str, ...] = ()
        if kind is not None:
            layers = room_layers(directory)
            if kind not in ROOM_LABELS:
                raise DataError(f"rooms have no labels for {kind}")
            self._of = ROOM_LABELS[kind]
            if self._of.layer not in layers:
                raise DataError(lacks_layer(directory, layers, self._of.layer))
            self._labels = _shards(directory, self._of.layer)
            self.form, self.names = TRAINING_KINDS[kind].form, self._of.names

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def frames(self) -> int:
        """The frames of each sequence; 1 where the rooms are single."""
        return self._index.frames

    @property
    def fps(self) -> float:
        """Frames a second of the sequences; 0 where the rooms are single."""
        return self._index.fps

    def sequence(self, number: int) -> NDArray[np.int64]:
        """The indices of a sequence's frames, in order, for `images` and `labels`."""
        if not 0 <= number < len(self) // self.frames:
            raise IndexError(
                f"{self._directory} has {len(self) // self.frames} sequences, not one of number {number}"
            )
        return np.arange(number * self.frames, (number + 1) * self.frames)

    def events(self) -> tuple[str, ...]:
        """What happens in each sequence, one of `train.rooms.EVENT_NAMES`; nothing where the rooms are single."""
        if self.frames == 1:
            return ()
        rows = self._rows(_shards(self._directory, "event"), np.arange(0, len(self), self.frames))
        return tuple(self._index.events[row] for row in rows)

    def _cut(self, place: int | None, count: int) -> int | None:
        if place is None:
            return None
        place = place if place >= 0 else max(0, count + place)
        return place - place % self.frames

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (B, H, W, 3)."""
        return self._rows(self._images, indices)

    def labels(self, indices: NDArray[np.int64], flip: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Labels (B, ...) as `form` has them. Raises DataError without labels."""
        if self.form is None:
            raise DataError(f"the rooms in {self._directory} were opened without labels")
        rows = self._of.reduce(self._rows(self._labels, indices))
        labels = rows.astype(self.form.dtype, copy=False)
        return labels if flip is None else self.form.mirrored(labels, flip)

    def _rows(self, shards: Sequence[NDArray[Any]], indices: NDArray[np.int64]) -> NDArray[Any]:
        shard, row = np.divmod(self._chosen[indices], len(shards[0]))
        return np.stack([shards[s][r] for s, r in zip(shard, row, strict=True)])


def room_layers(directory: Path) -> Sequence[str]:
    """The layers that a set was rendered with. Raises DataError."""
    return _read_index(directory).layers


def _read_index(directory: Path) -> RoomsIndex:
    try:
        return read_index(directory)
    except ValueError as error:
        raise DataError(str(error)) from None


def lacks_layer(directory: Path, layers: Sequence[str], layer: str) -> str:
    """The message that a set of rooms has no such layer, with the remedy."""
    wanted = ",".join(name for name in LAYERS if name in {*layers, layer})
    return f"{directory} has no {layer}; render a set that has: `isthmus rooms render OUT --layers {wanted}`"


def nothing_chosen(data: str | Path, count: int, things: str, start: int, stop: int | None) -> DataError:
    """The error for a range that holds none of `count` images."""
    if stop is not None and stop < 0:
        return DataError(
            f"{data}: {-stop} held out of {count} {things} leave none to train on", setting="holdout"
        )
    return DataError(f"{data} has {count} {things}, none of them in {start}..{stop}")


def _shards(directory: Path, layer: str) -> list[NDArray[Any]]:
    try:
        return open_shards(directory, layer)
    except ValueError as error:
        raise DataError(str(error)) from None
