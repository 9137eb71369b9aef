"""Depth as PNG files, arrays, colours and text."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from shared.kinds.depth import Depth, DepthResult, depth_array, depth_png, depth_rgb
from shared.maps import unpack

SIDES = st.tuples(st.integers(1, 20), st.integers(1, 20))
METRES = SIDES.flatmap(lambda size: arrays(np.float32, size, elements=st.floats(0, 100, width=32)))


@given(METRES)
def test_a_png_holds_millimetres_in_16_bits(metres: NDArray[np.float32]) -> None:
    with Image.open(io.BytesIO(depth_png(metres).file())) as image:
        assert image.mode == "I;16"
        read = np.asarray(image)
    assert read.shape == metres.shape
    assert np.abs(read / 1000 - np.minimum(metres.astype(float), 65.535)).max() <= 0.0005 + 1e-9
    assert (read[metres == 0] == 0).all()


@given(METRES)
def test_an_array_holds_metres(metres: NDArray[np.float32]) -> None:
    packed = depth_array(metres)
    assert (packed.dtype, packed.shape) == ("float32", metres.shape)
    assert np.array_equal(unpack(packed), metres)


def test_near_is_lighter_than_far_and_unknown_is_black() -> None:
    colours = depth_rgb(np.array([0, 0.5, 1, 2, 4, 8, 16]))
    assert colours[0].tolist() == [0, 0, 0]
    brightness = colours[1:].astype(int).sum(-1)
    assert (np.diff(brightness) < 0).all()
    assert np.array_equal(depth_rgb(np.full((2, 3), 4.0)), np.tile(colours[4], (2, 3, 1)))


def test_a_tile_is_the_coloured_map() -> None:
    metres = np.array([[0, 1, 2.5]])
    assert np.array_equal(np.asarray(Depth().tile(depth_png(metres).file())), depth_rgb(metres))


@pytest.mark.parametrize(
    ("known", "line"),
    [
        (1, "0.80 to 6.00 m, median 2.00 m"),
        (0.25, "0.80 to 6.00 m, median 2.00 m; known of 25.0% of the image"),
    ],
)
def test_lines(known: float, line: str) -> None:
    result = DepthResult(min_m=0.8, median_m=2, max_m=6, known=known)
    assert Depth().lines(result) == [line]
    assert Depth().cells(result) == (["0.8, 2.0, 6.0 m"],)
