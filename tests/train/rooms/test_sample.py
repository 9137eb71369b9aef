"""Rendered rooms: the same bytes everywhere, exact labels, shells that know no category."""

from __future__ import annotations

import hashlib
import inspect

import numpy as np
import pytest

pytest.importorskip("numba")

from train.rooms import (
    CATEGORIES,
    RENDERER_VERSION,
    SEED_MAX,
    SEMANTIC_CLASSES,
    category_of,
    render,
)
from train.rooms.parts import Stream
from train.rooms.scene import build_scene
from train.rooms.shell import sample_shell

SIZE = 48
# The bytes of version 1 on any machine. Where this fails on purpose, raise RENDERER_VERSION: sets on disk depend on it.
GOLDEN = "b366719c8eb34a50c32680359e4395a618ded35bca1c35a6028b72db845d78cf"


@pytest.fixture(scope="module")
def samples():
    return {seed: render(seed, SIZE, SIZE) for seed in range(24)}


def test_golden_bytes(samples):
    digest = hashlib.sha256()
    for sample in samples.values():
        for array in (sample.image, sample.normals, sample.semantic, sample.depth):
            digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes())
        digest.update(bytes([sample.category]))
    assert RENDERER_VERSION == 1
    assert digest.hexdigest() == GOLDEN


def test_layers(samples):
    for sample in samples.values():
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.image.dtype == np.uint8
        assert sample.image.std() > 5
        assert sample.normals.dtype == sample.depth.dtype == np.float32
        assert np.abs(np.linalg.norm(sample.normals, axis=2) - 1).max() < 1e-5
        assert sample.semantic.dtype == np.uint8
        assert sample.semantic.max() < len(SEMANTIC_CLASSES) == 17
        assert sample.depth.min() > 0.05
        assert sample.depth.max() < 12


def test_normals_face_the_camera(samples):
    """+x right, +y up, +z towards the camera: floors point up, and every visible surface faces the eye."""
    for seed, sample in samples.items():
        assert sample.normals[sample.semantic == 1][:, 1].min(initial=1.0) > 0.5
        assert sample.normals[sample.semantic == 2][:, 1].max(initial=-1.0) < 0.5
        tan = build_scene(seed)[0].camera[12]
        # Labels are those of the upper left quarter of a pixel.
        across = ((np.arange(SIZE) + 0.25) / SIZE * 2 - 1) * tan
        x, y = np.meshgrid(across, -across)
        facing = -(sample.normals[..., 0] * x + sample.normals[..., 1] * y) + sample.normals[..., 2]
        assert facing.min() > -1e-4


def test_categories_are_uniform():
    counts = np.bincount([category_of(seed) for seed in range(3600)], minlength=len(CATEGORIES))
    assert len(CATEGORIES) >= 16
    assert counts.min() > 140
    assert counts.max() < 260


def test_size_changes_neither_room_nor_view():
    small, large = render(11, 32, 32), render(11, 64, 64)
    assert small.category == large.category == category_of(11)
    assert (small.semantic == large.semantic[::2, ::2]).mean() > 0.9
    wide = render(11, 32, 50)
    assert wide.image.shape == (32, 50, 3)
    assert (wide.semantic[:, 9:41] == small.semantic).mean() > 0.97


def test_shell_sees_no_category(monkeypatch):
    """Walls, lights, windows and camera come from streams that only the seed names."""
    assert list(inspect.signature(sample_shell).parameters) == ["seed", "attempt"]
    names = []
    original = Stream.__init__

    def spy(self, seed, name, attempt=0):
        names.append(name)
        original(self, seed, name, attempt)

    monkeypatch.setattr(Stream, "__init__", spy)
    sample_shell(3)
    assert names == ["shell", "shell materials"]
    monkeypatch.undo()

    import train.rooms.scene as scene

    seen = []
    for category in (0, 7):
        monkeypatch.setattr(scene, "category_of", lambda seed, c=category: c)
        monkeypatch.setattr(scene, "_COVER_MIN", 0.0)
        arrays, got = build_scene(5)
        assert got == category
        seen.append(arrays)
    assert np.array_equal(seen[0].camera, seen[1].camera)
    assert np.array_equal(seen[0].sensor, seen[1].sensor)
    assert np.array_equal(seen[0].room, seen[1].room)
    assert np.array_equal(seen[0].materials[seen[0].shell], seen[1].materials[seen[1].shell])
    shared = len(sample_shell(5).lights)
    assert np.array_equal(seen[0].lights[:shared], seen[1].lights[:shared])


@pytest.mark.parametrize("seed", [-1, SEED_MAX + 1])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed"):
        render(seed, SIZE, SIZE)


def test_bad_size():
    with pytest.raises(ValueError, match="side"):
        render(0, 4, 64)


def test_largest_seed():
    assert render(SEED_MAX, 16, 16).image.shape == (16, 16, 3)
