"""Sets of sequences as data: n * F images, no sequence on both sides of a cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from shared.errors import DataError
from train.data.open_dataset import open_datasets, open_training_data
from train.data.room_set import RoomSet
from train.rooms import EVENT_NAMES, open_shards, write_rooms

FRAMES = 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    layers = ("image", "category", "normals")
    write_rooms(out, range(5), height=16, width=16, layers=layers, shard_size=2, frames=FRAMES, fps=3)
    return out


def test_frames_of_a_sequence(clips: Path) -> None:
    data = RoomSet(clips, "normals")
    assert (len(data), data.frames, data.fps) == (5 * FRAMES, FRAMES, 3.0)
    images = np.concatenate(open_shards(clips, "image"))
    seeds = np.concatenate(open_shards(clips, "seed"))
    for number in range(5):
        indices = data.sequence(number)
        assert indices.tolist() == list(range(number * FRAMES, (number + 1) * FRAMES))
        assert set(seeds[indices]) == {number}
        assert np.array_equal(data.images(indices), images[indices])
        assert len(data.labels(indices)) == FRAMES
    events = np.concatenate(open_shards(clips, "event"))[::FRAMES]
    assert data.events() == tuple(EVENT_NAMES[event] for event in events)
    for wrong in (-1, 5):
        with pytest.raises(IndexError, match="has 5 sequences"):
            data.sequence(wrong)


@pytest.mark.parametrize("cut", [4, 5, 7, -16, -13])
def test_a_cut_moves_to_the_beginning_of_a_sequence(clips: Path, cut: int) -> None:
    before, after = RoomSet(clips, None, 0, cut), RoomSet(clips, None, cut)
    assert (len(before), len(after)) == (FRAMES, 4 * FRAMES)
    assert np.array_equal(after.images(after.sequence(0)), RoomSet(clips).images(np.arange(4, 8)))
    assert after.events() == RoomSet(clips).events()[1:]


def test_no_whole_sequence_is_chosen(clips: Path) -> None:
    with pytest.raises(DataError, match=r"none of them in 0\.\.3"):
        RoomSet(clips, None, 0, 3)


def test_as_a_data_set(clips: Path) -> None:
    (data,) = open_datasets(clips, ["classification"])
    assert len(data) == 5 * FRAMES
    assert len(set(data.labels(np.arange(FRAMES)).tolist())) == 1
    (training,), (validation,) = open_training_data(clips, ["normals"], holdout=3)
    assert (len(training), len(validation)) == (4 * FRAMES, FRAMES)


def test_single_rooms_have_one_frame(tmp_path: Path) -> None:
    write_rooms(tmp_path, range(3), height=16, width=16, layers=("image",))
    data = RoomSet(tmp_path, None, 1)
    assert (len(data), data.frames, data.fps, data.events()) == (2, 1, 0.0, ())
    assert data.sequence(1).tolist() == [1]
