"""`isthmus bench devices`: equal integers are counted as such, others are not, and mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.codec.frame_codec import FrameCodec, Latent
from support.processes import run_here


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def measured(bundle: Path, images: Path, out: Path) -> dict[str, object]:
    flags = ("--device", "cpu", "--count", "2", "--seconds", "0.01", "--out", out)
    done = run_here("bench", "devices", bundle, images, *flags)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads((out / "results.json").read_text())
    return found


def test_equal_integers_are_counted(tiny_bundle: Path, images: Path, tmp_path: Path, monkeypatch) -> None:
    found = measured(tiny_bundle, images, tmp_path / "out")
    assert found["streams"] == 2
    assert found["equal"] == {"cpu": found["compared"]} == {"cpu": 8}

    sound = FrameCodec.decode

    def wrong(self: FrameCodec, coded: list) -> list:
        first, *rest = sound(self, coded)
        assert isinstance(first, Latent)
        assert first.z is not None
        return [Latent(first.v, first.z + 1, first.grid, first.quality), *rest]

    monkeypatch.setattr(FrameCodec, "decode", wrong)
    found = measured(tiny_bundle, images, tmp_path / "wrong")
    assert found["equal"] == {
        "cpu": 3
    }  # the first of each batch differs: two of batches of 1, one of each other


def test_mistakes_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    for folder, message in ((tmp_path / "away", "is no folder of images"), (tmp_path, "has no image")):
        done = run_here("bench", "devices", tiny_bundle, folder, "--out", tmp_path / "out")
        assert done.returncode == 2
        assert message in done.stderr
