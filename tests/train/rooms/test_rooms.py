"""Rooms: the same bytes everywhere, exact labels, shells that know no category, sets that survive a kill."""

from __future__ import annotations

import hashlib
import inspect
import json

import numpy as np
import pytest

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

from train.rooms import (  # noqa: E402
    CATEGORIES,
    RENDERER_VERSION,
    SEED_MAX,
    SEMANTIC_CLASSES,
    TEST_SEED_START,
    RoomsDataset,
    category_of,
    contact_sheet,
    open_shards,
    read_index,
    render,
    write_rooms,
)
from train.rooms.parts import Stream  # noqa: E402
from train.rooms.scene import build_scene  # noqa: E402
from train.rooms.shell import sample_shell  # noqa: E402

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


def test_contact_sheet():
    assert contact_sheet([1, 2, 3], columns=2, size=32).size == (64, 2 * 48)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_write_and_read(tmp_path):
    steps = []
    write_rooms(
        tmp_path, range(5, 12), height=24, width=32, shard_size=3, progress=lambda *a: steps.append(a)
    )
    assert steps == [(0, 7), (3, 7), (6, 7), (7, 7)]
    assert [len(shard) for shard in open_shards(tmp_path, "image")] == [3, 3, 1]
    assert np.concatenate(open_shards(tmp_path, "seed")).tolist() == list(range(5, 12))
    disk, fly = RoomsDataset(None, tmp_path), RoomsDataset(range(5, 12), height=24, width=32)
    assert len(disk) == len(fly) == 7
    for a, b in zip(disk, fly, strict=True):
        assert a.keys() == b.keys() == {"seed", "image", "normals", "semantic", "depth", "category"}
        assert a["image"].shape == (3, 24, 32)
        for name in ("seed", "image", "semantic", "category"):
            assert torch.equal(a[name], b[name]), name
            assert a[name].dtype == b[name].dtype
        assert (a["normals"] - b["normals"]).abs().max() <= 0.5 / 127 + 1e-6
        assert (a["depth"] - b["depth"]).abs().max() < 0.01
    assert len(RoomsDataset(range(6, 8), tmp_path)) == 2
    with pytest.raises(ValueError, match="holds seeds 5 to 11"):
        RoomsDataset(range(8), tmp_path)


def test_two_workers_write_the_same(tmp_path):
    for name, workers in (("a", 1), ("b", 2)):
        write_rooms(tmp_path / name, range(4), height=16, width=16, shard_size=2, workers=workers)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_killed_run_is_taken_up(tmp_path):
    def write(progress=None):
        write_rooms(
            tmp_path,
            range(6),
            height=16,
            width=16,
            shard_size=2,
            layers=("image", "category"),
            progress=progress,
        )

    write()
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # As after a kill: one shard cut short (a full disk), one not reached, one in the middle of being written.
    (tmp_path / "00001.image.npy").write_bytes(whole["00001.image.npy"][:-100])
    (tmp_path / "00002.category.npy").unlink()
    (tmp_path / "00002.category.npy.123.partial").write_bytes(b"half")
    with pytest.raises(ValueError, match="run `isthmus train rooms` "):
        RoomsDataset(None, tmp_path)
    untouched = (tmp_path / "00000.image.npy").stat().st_mtime_ns
    steps = []
    write(lambda *a: steps.append(a))
    assert steps == [(2, 6), (4, 6), (6, 6)]
    assert (tmp_path / "00000.image.npy").stat().st_mtime_ns == untouched
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_sets_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="make them with `isthmus train rooms`"):
        RoomsDataset(None, tmp_path / "nowhere")
    write_rooms(tmp_path, range(2), height=16, width=16, layers=("image",))
    with pytest.raises(ValueError, match="not 'depth'"):
        open_shards(tmp_path, "depth")
    with pytest.raises(
        ValueError, match=r"another set \(layers image, not image,category; count 2, not 3\): "
    ):
        write_rooms(tmp_path, range(3), height=16, width=16, layers=("image", "category"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        write_rooms(tmp_path / "file", range(3), height=16, width=16)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "renderer": 0}))
    with pytest.raises(ValueError, match="made by renderer 0"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "isth')
    with pytest.raises(ValueError, match="not an index"):
        read_index(tmp_path)


def test_test_seeds_are_kept_from_training():
    with pytest.raises(ValueError, match="split='test'"):
        RoomsDataset(range(TEST_SEED_START - 2, TEST_SEED_START + 1))
    with pytest.raises(ValueError, match="may be trained on"):
        RoomsDataset(range(10), split="test")
    assert len(RoomsDataset(range(TEST_SEED_START, TEST_SEED_START + 4), split="test")) == 4


@pytest.mark.parametrize("seeds", [range(0), range(0, 10, 2), range(-1, 3)])
def test_bad_ranges(seeds, tmp_path):
    with pytest.raises(ValueError, match="range with step 1"):
        write_rooms(tmp_path, seeds)
    with pytest.raises(ValueError, match="range with step 1"):
        RoomsDataset(seeds)


def test_bad_layers(tmp_path):
    with pytest.raises(ValueError, match="layers are some of"):
        write_rooms(tmp_path, range(2), layers=("image", "smell"))
