"""Views of photographs: many different ones of each, the same for the same seed, and where they may be used."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from train.data import views as views_module
from train.data.open_dataset import open_training_data
from train.data.views import PIECE_MIN, Views, ViewSet, draw_piece

SMALL = Preprocess(height=24, width=32)


def photograph(number: int) -> Image.Image:
    """A picture whose red grows to the right, green downwards, and whose blue is its number."""
    rows, columns = np.mgrid[0:90, 0:120]
    blue = np.full_like(rows, 90 * number)
    return Image.fromarray(np.stack([2 * columns, 2 * rows, blue], -1).astype(np.uint8))


def opened(count: int = 6, seed: int = 0, photographs: int = 3) -> ViewSet:
    readers = [lambda number=number: photograph(number) for number in range(photographs)]
    return ViewSet(readers, SMALL, Views(count=count, seed=seed))


def test_each_photograph_is_shown_as_often_and_always_in_another_way():
    data = opened()
    images = data.images(np.arange(len(data)))
    assert images.shape == (18, 24, 32, 3)
    assert len({image.tobytes() for image in images}) == 18
    mean = data.images(np.arange(len(data))).mean((1, 2)).reshape(6, 3, 3)
    assert mean.mean(0)[:, 2].tolist() == sorted(mean.mean(0)[:, 2])  # blue is the photograph's number


def test_a_view_follows_from_its_seed_and_number_alone():
    one, other = opened(), opened()
    order = np.array([17, 0, 5])
    assert np.array_equal(one.images(order)[1:], np.stack([other.images(np.array([i]))[0] for i in (0, 5)]))
    assert not np.array_equal(one.images(order), opened(seed=1).images(order))


def test_some_views_are_mirrored_and_most_are_brighter_or_darker():
    data = opened(count=40, photographs=1)
    images = data.images(np.arange(40)).astype(float)
    to_the_right = images[:, :, -1, 0].mean(1) > images[:, :, 0, 0].mean(1)
    assert 8 < to_the_right.sum() < 32
    assert images.mean((1, 2, 3)).std() > 5


@pytest.mark.parametrize("size", [(120, 90), (90, 300), (1, 1)])
def test_a_piece_lies_within_the_photograph(size: tuple[int, int]):
    random = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = draw_piece(size, 4 / 3, random)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert max((right - left) / size[0], (bottom - top) / size[1]) >= PIECE_MIN * 0.999


def test_some_views_for_a_letterbox_have_its_bars():
    boxed = Preprocess(height=64, width=64, fit="letterbox", mean=(1.0, 0.0, 0.0))
    grey = Image.new("RGB", (480, 360), (128, 128, 128))
    images = ViewSet([lambda: grey], boxed, Views(count=60)).images(np.arange(60))
    bar = np.array([255, 0, 0])
    barred = [image for image in images if (image[0] == bar).all() or (image[:, 0] == bar).all()]
    assert 10 < len(barred) < 50
    assert all((image[32, 32] != bar).any() for image in images)


def test_processes_draw_the_same_views(monkeypatch):
    alone = opened().images(np.arange(18))
    monkeypatch.setattr(views_module.os, "sched_getaffinity", lambda _: set(range(4)))
    assert np.array_equal(opened().images(np.arange(18)), alone)


def test_an_interrupt_leaves_the_processes_that_draw_to_the_training(monkeypatch):
    monkeypatch.setattr(views_module.os, "sched_getaffinity", lambda _: set(range(4)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        data = opened()
        alone = data.images(np.arange(18))
        pool = data._processes()
        assert pool is not None
        for process in pool._processes:
            os.kill(process, signal.SIGINT)
        assert np.array_equal(data.images(np.arange(18)), alone)
    finally:
        signal.signal(signal.SIGINT, before)


def test_photographs_beyond_the_memory_are_decoded_again(monkeypatch):
    kept = opened().images(np.arange(18))
    monkeypatch.setattr(views_module, "KEPT_BYTES", 90 * 120 * 3)  # one of the three
    assert np.array_equal(opened().images(np.arange(18)), kept)


def test_a_photograph_that_is_damaged_meanwhile_is_an_error():
    def read() -> Image.Image:
        raise ImageError("a.jpg is damaged")

    with pytest.raises(DataError, match=r"a\.jpg is damaged; it was sound when the set was opened"):
        ViewSet([read], SMALL, Views(count=1)).images(np.array([0]))
    with pytest.raises(DataError, match="no labels"):
        opened().labels(np.array([0]))


def test_only_the_training_set_is_of_views(tmp_path: Path):
    for number in range(5):
        photograph(number).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes(b"damaged")
    how = {"holdout": 2, "needed": [False, False], "preprocess": SMALL, "views": Views(count=7)}
    kinds = ["classification", "segmentation"]
    with pytest.raises(DataError, match=r"5\.png"):
        open_training_data(f"images:{tmp_path}", kinds, **how)
    training, validation = open_training_data(f"images:{tmp_path}", kinds, damaged="skip", **how)
    assert len(training[0]) % 7 == 0
    assert len(training[0]) + 7 * len(validation[0]) == 35
    assert training[0] is training[1]
    with pytest.raises(DataError, match="views have no labels") as error:
        open_training_data(f"images:{tmp_path}", kinds, **{**how, "needed": [False, True]})
    assert error.value.setting == "views"
