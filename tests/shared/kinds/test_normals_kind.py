"""Normals as colours, PNG files and arrays, and as text."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from shared.kinds.normals import Facing, Normals, NormalsResult, normals_array, normals_png, normals_rgb
from shared.maps import MapPng, unpack

SIDES = st.tuples(st.integers(1, 20), st.integers(1, 20))


def read(png: MapPng) -> Image.Image:
    with Image.open(io.BytesIO(png.file())) as image:
        image.load()
        return image


def test_normals_as_rgb() -> None:
    vectors = np.array([[[0, 0, 5.0], [-2, 0, 0], [0, 0, 0]]])
    expected = [[[128, 128, 255], [0, 128, 128], [128, 128, 128]]]
    assert normals_rgb(vectors).tolist() == expected
    image = read(normals_png(vectors))
    assert (image.mode, image.size) == ("RGB", (3, 1))
    assert np.asarray(image).tolist() == expected


def test_an_array_of_normals_comes_back_to_a_step() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 7, 3))
    packed = normals_array(vectors)
    assert (packed.dtype, packed.shape) == ("int8", (9, 7, 3))
    one = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    assert np.abs(unpack(packed) / 127 - one).max() <= 0.5 / 127 + 1e-6
    assert unpack(normals_array(np.zeros((1, 1, 3)))).tolist() == [[[0, 0, 0]]]


def test_ways_are_listed_largest_first() -> None:
    facing = Facing(left=0, right=0.25, up=0.75, down=0, towards=0, away=0)
    result = NormalsResult(mean=(0, 1, 0), facing=facing)
    [line] = Normals().lines(result)
    assert line.startswith("up 0.750, right 0.250, left 0.000")
    assert line.endswith("; mean (0.00, 1.00, 0.00)")
    assert Normals().cells(result) == (["up 75%", "right 25%"],)
