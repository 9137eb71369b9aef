"""`isthmus network train` on pictures of any size, and the random scales that it shows them at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from shared.bundle import Preprocess
from shared.errors import DataError
from shared.image import fit_map
from train.data.augment import draw_zooms, zoom_images, zoom_labels
from train.kinds.label_form import CLASS, CLASS_MAP, IGNORE, METRE_MAP, VECTOR_MAP
from train.networks.network_folder import load_network

PLAIN = Preprocess(height=20, width=30, mean=(0, 0, 0))


@pytest.fixture(scope="module")
def camvid(tmp_path_factory) -> Path:
    """Pictures of several sizes, dark above and bright below; the first column is unlabelled."""
    root = tmp_path_factory.mktemp("camvid")
    for split, count in (("train", 12), ("val", 5)):
        for number in range(count):
            height, width = 40 + number, 60 - number
            picture = np.zeros((height, width, 3), np.uint8)
            picture[height // 2 :] = 200
            labels = (picture[..., 0] > 0).astype(np.uint8)
            labels[:, 0] = 2
            for kind, values in (("images", picture), ("labels", labels)):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(root / split / kind / f"{number}.png")
    (root / "classes.txt").write_text("dark\nbright\nvoid\n")
    return root


def train(out: Path, *flags: str):
    from isthmus import app

    fixed = [
        "network",
        "train",
        "--out",
        str(out),
        "--steps",
        "2",
        "--batch",
        "4",
        "--set",
        "network.stride=8",
    ]
    return CliRunner().invoke(app, [*fixed, *flags])


def test_segmentation_of_a_label_map_folder(tmp_path, camvid):
    flags = ("--data", f"labels:{camvid}#train", "--validation", f"{camvid}#val", "--task", "segmentation")
    flags = (*flags, "--set", "size=32x48", "--set", "augment=[0.75,1.5]")
    done = train(tmp_path / "one", *flags)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "on 5 held-out images" in done.output
    _, card = load_network(tmp_path / "one")
    assert card.labels == ("dark", "bright")
    assert card.ignored == IGNORE
    assert (card.preprocess.height, card.preprocess.width) == (32, 48)
    assert card.recipe["augment"] == [0.75, 1.5]
    assert card.recipe["validation"] == f"{camvid}#val"
    assert train(tmp_path / "two", *flags).exit_code == 0
    curves = [(tmp_path / name / "curve.jsonl").read_text().splitlines() for name in ("one", "two")]
    losses = [[json.loads(line)["loss"] for line in curve] for curve in curves]
    assert losses[0] == losses[1]  # what is drawn follows from the seed


def test_classes_in_folders_and_sets_that_do_not_fit(tmp_path, camvid):
    for split in ("train", "val"):
        for name, level in (("dark", 10), ("bright", 240)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                picture = Image.new("RGB", (30 + number, 40), (level, level, level))
                picture.save(tmp_path / split / name / f"{number}.png")
    both = ("--data", f"{tmp_path}#train", "--validation", f"{tmp_path}#val")
    done = train(tmp_path / "run", *both, "--set", "size=32x32")
    assert done.exit_code == 0, (done.output, done.exception)
    assert load_network(tmp_path / "run")[1].labels == ("bright", "dark")
    (tmp_path / "val" / "dark" / "0.png").write_bytes(b"none")
    for flags, said in [
        ((*both, "--set", "size=32"), "--set size: Input should be a valid string"),
        (
            (*both, "--set", "size=32x5000"),
            "is not HEIGHTxWIDTH, as in 224x224, up to 4096 each (--set size)",
        ),
        ((*both, "--set", "size=32x32"), "1 damaged or missing: "),
        ((*both[:2], "--task", "normals"), "has no labels for normals"),
        (
            ("--data", f"{camvid}#train", "--task", "segmentation", "--set", "holdout=12"),
            "none to train on (--set holdout)",
        ),
    ]:
        done = train(tmp_path / "bad", *flags)
        assert isinstance(done.exception, DataError), done.output
        assert said in str(done.exception)
        assert not (tmp_path / "bad").exists()
    done = train(tmp_path / "bad", *both, "--set", "damaged=keep")
    assert "--set damaged: Input should be 'refuse' or 'skip'" in str(done.exception)
    assert not (tmp_path / "bad").exists()
    done = train(tmp_path / "skipped", *both, "--set", "size=32x32", "--set", "damaged=skip")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "1 left out, 7 images remain" in done.output


def test_labels_are_zoomed_with_their_pictures():
    random = np.random.default_rng(0)
    classes = np.repeat(np.repeat(random.integers(0, 2, (8, 4, 6), np.uint8), 5, 1), 5, 2)
    pictures = np.repeat(classes[..., None] * np.uint8(200), 3, 3)
    zooms = draw_zooms(random, 8, (0.75, 1.5))
    assert (zooms[:, 0] >= 0.75).all()
    assert (zooms[:, 0] <= 1.5).all()
    shown, labels = zoom_images(pictures, zooms, PLAIN)[..., 0], zoom_labels(classes, CLASS_MAP, zooms)
    known = (labels != IGNORE) & ((shown == 0) | (shown == 200))
    assert known.mean() > 0.4
    assert np.array_equal(labels[known] * 200, shown[known])
    for scale, ignored in zip(zooms[:, 0], (labels == IGNORE).mean((1, 2)), strict=True):
        assert ignored == pytest.approx(max(0, 1 - scale**2), abs=0.06)


def test_a_zoom_of_one_changes_nothing_and_normals_keep_their_signs():
    normals = np.random.default_rng(0).integers(-127, 128, (2, 20, 30, 3), np.int8)
    still, small = np.array([[1, 0.3, 0.7]] * 2), np.array([[0.5, 0, 0]] * 2)
    assert np.array_equal(zoom_labels(normals, VECTOR_MAP, still), normals)
    smaller = zoom_labels(normals, VECTOR_MAP, small)
    assert smaller.dtype == np.int8
    assert not smaller[:, 10:].any()
    assert smaller[:, :10, :15].any()


def test_depths_are_zoomed_unchanged_and_classes_of_images_not_at_all():
    metres = np.random.default_rng(0).random((2, 20, 30), np.float32) * 9 + 1
    small = np.array([[0.5, 0, 0]] * 2)
    smaller = zoom_labels(metres, METRE_MAP, small)
    assert smaller.dtype == np.float32
    assert not smaller[:, 10:].any()
    assert set(smaller[:, :10, :15].ravel()) <= set(metres.ravel())
    assert zoom_labels(np.array([3, 4]), CLASS, small).tolist() == [3, 4]
    fitted = fit_map(metres[0], Preprocess(height=10, width=15))
    assert np.array_equal(fitted, metres[0, 1::2, 1::2])
