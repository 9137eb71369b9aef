"""Sequences made from photographs: the same for the same seed, still where nothing moves, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.bundle import Preprocess
from shared.errors import DataError, ImageError
from train.data import motion_set
from train.data.motion_set import MotionSet, draw_sequence

SMALL = Preprocess(height=48, width=64, fit="letterbox")


def photograph(number: int) -> Image.Image:
    """Stripes, whose blue is the photograph's number."""
    rows, columns = np.mgrid[0:90, 0:120]
    red = 80 + 80 * (columns // 12 % 2)
    return Image.fromarray(np.stack([red, rows, np.full_like(rows, 40 * number)], -1).astype(np.uint8))


def opened(sequences: int = 24, seed: int = 0, photographs: int = 6) -> MotionSet:
    readers = [lambda number=number: photograph(number) for number in range(photographs)]
    return MotionSet(readers, SMALL, sequences=sequences, frames=4, seed=seed)


def all_of(data: MotionSet) -> np.ndarray:
    """(S, T, H, W, 3)."""
    images = data.images(np.arange(len(data)))
    return images.reshape(-1, data.frames, *images.shape[1:])


def calm(monkeypatch: pytest.MonkeyPatch, movers: int = 0) -> None:
    """No noise, no change of light, no knock."""
    monkeypatch.setattr(motion_set, "KNOCKED", 0.0)
    monkeypatch.setattr(motion_set, "MOVERS", (movers,))
    monkeypatch.setattr(motion_set, "_light", lambda frames, random: np.ones(frames))
    monkeypatch.setattr(motion_set, "NOISE", (1e-9, 1e-9))


def test_a_sequence_follows_from_its_seed_and_number_alone() -> None:
    data = opened()
    assert len(data) == 24 * 4
    order = np.array([90, 0, 41])
    other = np.concatenate([opened().images(order[i : i + 1]) for i in (2, 1, 0)])
    assert np.array_equal(data.images(order), other[::-1])
    assert not np.array_equal(data.images(order), opened(seed=1).images(order))


def test_the_last_sequences_show_other_photographs_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)
    middle = all_of(opened())[:, 0, 24, 32, 2]
    assert np.array_equal(middle, np.repeat(np.arange(6) * 40, 4))


def test_nothing_changes_without_noise_light_and_movers(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)
    still = all_of(opened())
    assert not (still[:, 1:] != still[:, :1]).any()


def test_movers_change_a_part_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch, movers=1)
    moved = all_of(opened())
    changed = (moved[:, 1:] != moved[:, :-1]).any(-1).mean((2, 3))
    assert (changed > 0).mean() > 0.3
    assert np.median(changed[changed > 0]) < 0.5


def test_a_mover_of_a_long_sequence_stops_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    """6 % an image, without an end, are the size of a wall after 100 images and of a city after 300."""
    calm(monkeypatch, movers=1)
    largest = []
    resize = Image.Image.resize

    def seen(image: Image.Image, size: tuple[int, int], *args: Any, **kwargs: Any) -> Image.Image:
        largest.append(max(size))
        return resize(image, (1, 1) if max(size) > 2000 else size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", seen)
    for seed in range(6):
        draw_sequence([photograph(0), photograph(1)], SMALL, 300, np.random.default_rng(seed))
    assert max(largest) < 2000


def test_bars_stay_as_they_are_in_noise_and_light() -> None:
    images = all_of(opened()).reshape(-1, 48, 64, 3)
    mean = [round(255 * value) for value in SMALL.mean]
    bars = (images == mean).all(-1)
    assert bars[:, :, 0].all(1).any()  # left of a narrow camera
    assert bars[:, 0].all(1).any()  # above a wide one


def test_a_knocked_camera_sees_something_else_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)
    monkeypatch.setattr(motion_set, "KNOCKED", 1.0)
    for sequence in all_of(opened()):
        differs = [(a != b).any() for a, b in zip(sequence[1:], sequence[:-1], strict=True)]
        assert sum(differs) == 1


def failing() -> Image.Image:
    raise ImageError("a.jpg ends early")


@pytest.mark.parametrize(
    ("readers", "wrong"),
    [([lambda: photograph(0)], "two photographs or more"), ([failing, failing], "ends early; it was sound")],
)
def test_too_few_and_damaged_photographs_are_refused(
    readers: list[Callable[[], Image.Image]], wrong: str
) -> None:
    with pytest.raises(DataError, match=wrong):
        MotionSet(readers, SMALL, sequences=2).images(np.array([0]))


def test_there_are_no_labels() -> None:
    with pytest.raises(DataError, match="no labels"):
        opened().labels(np.array([0]))
