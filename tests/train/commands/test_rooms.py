"""`isthmus rooms render` for sequences: what it writes, and the line in which it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("numba")

from support.processes import refused, run_here
from train.data.room_set import RoomSet
from train.rooms import open_shards, read_index


def test_sequences(tmp_path: Path) -> None:
    out, how = tmp_path / "clips", ["--count", "3", "--size", "16", "--workers", "1"]
    run_here("rooms", "render", out, *how, "--frames", "200", "--fps", "10", "--motion", "static")
    index = read_index(out)
    assert (index.frames, index.fps, index.motion, index.shards) == (200, 10.0, "static", 3)
    assert [len(shard) for shard in open_shards(out, "image")] == [200] * 3
    assert RoomSet(out, "classification").events() == ("none",) * 3
    said = refused("rooms", "render", out, *how, "--frames", "200", "--motion", "dark", status=2)
    assert "holds another set (fps 10.0, not 5.0; motion static, not dark)" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--frames", "0"], "Invalid value for '--frames'"),
        (["--frames", "4", "--fps", "0"], "a sequence has 0.1 to 120 frames a second, got 0"),
        (
            ["--frames", "4", "--motion", "wild"],
            "motion is one of static, moving, person, dark, knocked, mixed",
        ),
        (["--motion", "dark"], "--fps and --motion are for sequences: give --frames 2 or more"),
        (["--fps", "5"], "--fps and --motion are for sequences: give --frames 2 or more"),
    ],
)
def test_what_is_refused(tmp_path: Path, flags: list[str], said: str) -> None:
    out = tmp_path / "clips"
    assert said in refused("rooms", "render", out, "--count", "2", *flags, status=2)
    assert not out.exists()
