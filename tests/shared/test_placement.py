"""Where an image lies in a network's input, and the way back from a map to the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.bundle import Preprocess
from shared.image import UNLABELLED_CLASS, fit, fit_map, view_of
from shared.placement import letterbox, map_of_image

SIDES = st.integers(1, 700)
WIDTH, HEIGHT = 48, 32


@given(SIDES, SIDES)
@settings(max_examples=60)
def test_a_letterbox_holds_all_of_the_image_in_its_shape(width: int, height: int) -> None:
    left, top, right, bottom = letterbox((width, height), (WIDTH, HEIGHT))
    assert 0 <= left < right <= WIDTH
    assert 0 <= top < bottom <= HEIGHT
    assert (left, right) == (0, WIDTH) or (top, bottom) == (0, HEIGHT)
    assert 0 <= (WIDTH - right) - left <= 1
    assert 0 <= (HEIGHT - bottom) - top <= 1
    scale = min(WIDTH / width, HEIGHT / height)
    assert abs((right - left) - max(1, scale * width)) <= 0.5
    assert abs((bottom - top) - max(1, scale * height)) <= 0.5


@given(SIDES, SIDES)
@settings(max_examples=30)
def test_bars_have_the_mean_colour_and_no_label(width: int, height: int) -> None:
    preprocess = Preprocess(height=HEIGHT, width=WIDTH, fit="letterbox", mean=(0.2, 0.4, 1.0))
    made = np.asarray(fit(Image.new("RGB", (width, height), (9, 8, 7)), preprocess))
    labels = fit_map(np.full((height, width), 3, np.uint8), preprocess)
    metres = fit_map(np.full((height, width), 3, np.float32), preprocess)
    normals = fit_map(np.full((height, width, 3), -3, np.int8), preprocess)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    left, top, right, bottom = letterbox((width, height), (WIDTH, HEIGHT))
    inside[top:bottom, left:right] = True
    assert made.shape == (HEIGHT, WIDTH, 3)
    assert (made[inside] == (9, 8, 7)).all()
    assert (made[~inside] == (51, 102, 255)).all()
    for values, value, bar in ((labels, 3, UNLABELLED_CLASS), (metres, 3, 0), (normals, -3, 0)):
        assert (values[inside] == value).all()
        assert (values[~inside] == bar).all()


@given(SIDES, SIDES, st.sampled_from(["crop", "stretch", "letterbox"]), st.sampled_from([1, 2, 4]))
@example(2, 43, "letterbox", 2)
@example(14, 34, "letterbox", 2)
@example(1, 4, "crop", 1)
@settings(max_examples=60)
def test_a_map_comes_back_to_the_image_that_it_is_about(
    width: int, height: int, how: str, coarse: int
) -> None:
    """Every pixel that was seen gets a cell of its own place, whatever the sizes, and none gets one of a bar."""
    preprocess = Preprocess(height=HEIGHT, width=WIDTH, fit=how)
    at = np.zeros((HEIGHT, WIDTH, 2), np.float32)  # each cell: where in the image its middle lies
    view = view_of((width, height), preprocess)
    if view is None:
        return
    fills = np.array(view.fills) * (WIDTH, HEIGHT, WIDTH, HEIGHT)
    for axis, grid in enumerate(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)):
        share = (grid - fills[axis]) / (fills[axis + 2] - fills[axis])
        at[..., axis] = view.seen[axis] + share * (view.seen[axis + 2] - view.seen[axis])
    small = at[coarse // 2 :: coarse, coarse // 2 :: coarse]
    back = map_of_image(small, view, np.nan)
    assert back.shape == (height, width, 2)
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    known = ~np.isnan(back[..., 0])
    left, top, right, bottom = view.seen
    seen = (xs >= left) & (xs <= right) & (ys >= top) & (ys <= bottom)
    assert (known == seen).all()
    # A cell is half a coarse cell away at most, measured from its middle, or one further in where that is a bar's; what
    # stands for a coarse cell here lies up to half a coarse cell and half a cell from its edge.
    cells_off = coarse / 2 + coarse // 2 + 0.5
    for axis, wanted in enumerate((xs, ys)):
        cell = (view.seen[axis + 2] - view.seen[axis]) / (fills[axis + 2] - fills[axis])
        off = np.abs(back[..., axis] - wanted)[known]
        assert (
            off.max(initial=0) <= 1.01 * cells_off * cell + 1e-3
        )  # of an image 1 x 4 a crop sees no pixel's middle


def test_what_a_letterboxed_picture_shows_is_found_in_the_picture_again() -> None:
    picture = np.zeros((90, 300), np.uint8)
    picture[30:60, 100:200] = 1
    preprocess = Preprocess(height=64, width=64, fit="letterbox")
    view = view_of((300, 90), preprocess)
    assert view is not None
    assert view.fills == pytest.approx((0, 22 / 64, 1, 41 / 64), abs=1e-6)
    back = map_of_image(fit_map(picture, preprocess), view, UNLABELLED_CLASS)
    assert set(np.unique(back)) == {0, 1}
    assert (back != picture).mean() < 0.05


@pytest.mark.parametrize("how", ["crop", "stretch", "letterbox"])
def test_an_image_of_the_inputs_shape_has_no_view(how: str) -> None:
    preprocess = Preprocess(height=HEIGHT, width=WIDTH, fit=how)
    assert view_of((WIDTH, HEIGHT), preprocess) is None
    assert view_of((5 * WIDTH, 5 * HEIGHT), preprocess) is None
    assert (view_of((100, 100), preprocess) is None) == (how == "stretch")


@pytest.mark.parametrize("resize", [None, 64])
def test_a_crop_says_which_part_it_kept(resize: int | None) -> None:
    """A ramp: what the cut's middle shows is the value in the middle of the part that is named."""
    ramp = np.tile(np.arange(240, dtype=np.uint8), (60, 1))
    preprocess = Preprocess(height=48, width=48, resize=resize)
    view = view_of((240, 60), preprocess)
    assert view is not None
    shown = np.asarray(fit(Image.fromarray(np.stack([ramp] * 3, -1)), preprocess))[24, :, 0]
    left, _, right, _ = view.seen
    cell = (right - left) / 48
    np.testing.assert_allclose(shown, left + cell * (np.arange(48) + 0.5) - 0.5, atol=1.5)
