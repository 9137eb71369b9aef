"""Sequences that are cut from videos: rate, length, order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.bundle import Preprocess
from shared.errors import DataError
from support.videos import scene, write_video
from train.data import clip_set
from train.data.clip_set import ClipSet

SMALL = Preprocess(height=64, width=64)


def test_videos_become_sequences_of_one_length(tmp_path: Path) -> None:
    first, second = scene(22), scene(13, seed=1)
    write_video(tmp_path / "a.mp4", first, 10)
    write_video(tmp_path / "b.mkv", second, 10)
    (tmp_path / "credits.txt").write_text("by nobody")
    data = ClipSet(tmp_path, SMALL, frames=3, fps=5.0)  # every second image: 11 and 7
    assert len(data) == 9 + 6
    shown = data.images(np.arange(15)).astype(int)
    wanted = np.stack([*first[0:18:2], *second[0:12:2]]).astype(int)
    assert np.abs(shown - wanted).max() <= 3  # colours are converted twice
    fewer = ClipSet(tmp_path / "a.mp4", SMALL, frames=3, fps=5.0, every=2)
    assert np.array_equal(fewer.images(np.arange(len(fewer))), data.images(np.array([0, 1, 2, 6, 7, 8])))


@pytest.mark.parametrize(("frames", "said"), [(30, "no sequence of 30 images"), (2, "more than 4 images")])
def test_too_short_and_too_much_are_refused(tmp_path: Path, monkeypatch, frames: int, said: str) -> None:
    monkeypatch.setattr(clip_set, "KEPT_BYTES", (30 if frames == 30 else 4) * 64 * 64 * 3)
    write_video(tmp_path / "a.mp4", scene(8), 5)
    with pytest.raises(DataError, match=said):
        ClipSet(tmp_path, SMALL, frames=frames, fps=5.0)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no video, nor a folder of videos"):
        ClipSet(tmp_path, SMALL)
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(DataError, match=r"a\.mp4 is damaged, or no video"):
        ClipSet(tmp_path, SMALL)
    write_video(tmp_path / "a.mp4", scene(4), 5)
    data = ClipSet(tmp_path, SMALL, frames=2)
    with pytest.raises(DataError, match="no labels"):
        data.labels(np.array([0]))
