"""Features on disk: whole shards, computed once, and again where they no longer fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from train.data import feature_cache
from train.data.feature_cache import CachedArrays, cached_features


class KilledError(Exception): ...


def test_a_cache_is_kept_in_shards_and_computed_again_for_another_network(
    tmp_path, patches, monkeypatch, caplog
):
    monkeypatch.setattr(feature_cache, "SHARD", 64)
    pictures = patches[0]  # 192, and as many mirrored: 6 shards
    seen = 0

    def kept(
        folder: Path, data=pictures, stop: int | None = None, network: str = "one"
    ) -> tuple[CachedArrays, int]:
        """The values, and how many pictures were computed."""
        nonlocal seen
        seen = 0

        def compute(indices, flip):
            nonlocal seen
            if seen == stop:
                raise KilledError
            seen += len(indices)
            values = data.values[indices].astype(np.float16).mean((2, 3))
            return np.where(flip[:, None], -values, values)

        return cached_features(folder, compute, data, {"network": network}, True), seen

    def values(one: CachedArrays) -> np.ndarray:
        return one.batch(np.arange(384)).numpy()

    whole, computed = kept(tmp_path / "whole")
    assert computed == len(whole) == 384
    assert np.array_equal(values(whole)[192:], -values(whole)[:192])
    folder = tmp_path / "killed"
    with pytest.raises(KilledError):
        kept(folder, stop=3 * 64)
    (folder / "00000.npy").write_bytes(b"half")
    resumed, computed = kept(folder)
    assert computed == 384 - 2 * 64  # of the three shards that were there, two were sound
    assert np.array_equal(values(resumed), values(whole))
    assert kept(folder)[1] == 0
    assert "computing it again" not in caplog.text
    assert kept(folder, network="another")[1] == 384
    assert "computing it again" in caplog.text
    assert kept(folder, replace(pictures, values=pictures.values[::-1].copy()), network="another")[1] == 384


def test_progress_is_shown_for_what_is_computed(tmp_path, patches, capsys):
    shown = []

    def progress(steps, name, total):
        shown.append((name, total, len(list(map(len, [*steps])))))
        return steps

    def compute(indices, flip):
        return indices.astype(np.float32)

    for _ in range(2):
        cached_features(tmp_path / "one", compute, patches[0], {}, False, progress)
    assert shown == [("one of 192 images", 3, 3)]
    cached_features(tmp_path / "two", compute, patches[0], {}, False)
    assert capsys.readouterr() == ("", "")
