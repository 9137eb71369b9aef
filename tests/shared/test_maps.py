"""Maps as colours, PNG files and arrays: what is written is what is read, and damage is told."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from shared.errors import RemoteError
from shared.maps import (
    classes_array,
    classes_png,
    normals_array,
    normals_png,
    normals_rgb,
    paint,
    palette,
    unpack,
)
from shared.types import MapArray, MapPng

SIDES = st.tuples(st.integers(1, 20), st.integers(1, 20))


def read(png: MapPng) -> Image.Image:
    with Image.open(io.BytesIO(png.file())) as picture:
        picture.load()
        return picture


def test_a_class_keeps_its_colour_and_no_two_look_alike() -> None:
    every = palette(256)
    assert every.shape == (256, 3)
    assert palette(17).tolist() == every[:17].tolist()
    assert every[:4].tolist() == [[0, 255, 0], [0, 0, 255], [255, 0, 0], [0, 255, 255]]  # the same everywhere
    apart = np.abs(every[:, None].astype(int) - every[None]).max(-1) + 999 * np.eye(256, dtype=int)
    assert apart.min() >= 28
    assert apart[:17, :17].min() >= 50
    for count in (0, 257):
        with pytest.raises(ValueError, match="1 to 256"):
            palette(count)


@given(st.integers(1, 256), SIDES, st.randoms(use_true_random=False))
def test_a_png_of_classes_has_them_as_pixel_values(count: int, size: tuple[int, int], random: Any) -> None:
    classes = np.array([random.randrange(count) for _ in range(size[0] * size[1])]).reshape(size)
    picture = read(classes_png(classes, count))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), classes)
    assert np.array_equal(np.asarray(picture.convert("RGB")), paint(classes))


def test_normals_as_rgb() -> None:
    vectors = np.array([[[0, 0, 5.0], [-2, 0, 0], [0, 0, 0]]])
    expected = [[[128, 128, 255], [0, 128, 128], [128, 128, 128]]]
    assert normals_rgb(vectors).tolist() == expected
    picture = read(normals_png(vectors))
    assert (picture.mode, picture.size) == ("RGB", (3, 1))
    assert np.asarray(picture).tolist() == expected


@given(SIDES.flatmap(lambda size: arrays(np.uint8, size)))
def test_an_array_of_classes_comes_back(classes: NDArray[np.uint8]) -> None:
    packed = classes_array(classes.astype(np.int64))
    assert (packed.dtype, packed.shape) == ("uint8", classes.shape)
    assert np.array_equal(unpack(packed), classes)


def test_an_array_of_normals_comes_back_to_a_step() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 7, 3))
    packed = normals_array(vectors)
    assert (packed.dtype, packed.shape) == ("int8", (9, 7, 3))
    one = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    assert np.abs(unpack(packed) / 127 - one).max() <= 0.5 / 127 + 1e-6
    assert unpack(normals_array(np.zeros((1, 1, 3)))).tolist() == [[[0, 0, 0]]]


PACKED = classes_array(np.arange(200).reshape(10, 20) % 7)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"data": b""}, "not the 200"),
        ({"data": PACKED.data[:-1]}, "not the 200"),
        ({"data": PACKED.data + b"x"}, "not the 200"),
        ({"data": b"\xff" + PACKED.data[1:]}, "damaged"),
        ({"data": PACKED.data[:-1] + bytes([PACKED.data[-1] ^ 1])}, "damaged"),
        ({"shape": (10, 19)}, "not the 190"),
        ({"shape": (10, 21)}, "not the 210"),
        ({"data": zlib.compress(bytes(201))}, "not the 200"),
    ],
)
def test_damaged_arrays(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(RemoteError, match=text):
        unpack(PACKED.model_copy(update=changed))


@pytest.mark.parametrize(
    "changed",
    [{"dtype": "float64"}, {"compression": "lzma"}, {"shape": (9,)}, {"shape": (4097, 1)}, {"shape": (0, 1)}],
)
def test_arrays_that_are_none(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MapArray.model_validate(PACKED.model_dump() | changed)


def test_a_bomb_takes_no_more_memory_than_its_shape() -> None:
    bomb = MapArray(dtype="uint8", shape=(10, 20), data=zlib.compress(bytes(64 << 20), 9))
    tracemalloc.start()
    try:
        with pytest.raises(RemoteError, match="not the 200"):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
