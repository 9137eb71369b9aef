"""Classes as colours, PNG files and arrays, and as text."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from shared.errors import RequestError
from shared.kinds.segmentation import (
    ClassArea,
    Segmentation,
    SegmentationResult,
    classes_array,
    classes_png,
    paint,
    palette,
)
from shared.maps import MapPng, unpack

SIDES = st.tuples(st.integers(1, 20), st.integers(1, 20))


def read(png: MapPng) -> Image.Image:
    with Image.open(io.BytesIO(png.file())) as image:
        image.load()
        return image


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
    image = read(classes_png(classes, count))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), classes)
    assert np.array_equal(np.asarray(image.convert("RGB")), paint(classes))


@given(SIDES.flatmap(lambda size: arrays(np.uint8, size)))
def test_an_array_of_classes_comes_back(classes: NDArray[np.uint8]) -> None:
    packed = classes_array(classes.astype(np.int64))
    assert (packed.dtype, packed.shape) == ("uint8", classes.shape)
    assert np.array_equal(unpack(packed), classes)


def areas(count: int) -> SegmentationResult:
    return SegmentationResult(
        areas=tuple(ClassArea(label=f"c{i}", index=i, share=1 / count) for i in range(count))
    )


def test_a_line_names_six_classes_and_counts_the_others() -> None:
    kind = Segmentation()
    assert kind.lines(areas(2)) == ["c0 0.500, c1 0.500"]
    assert kind.lines(areas(8)) == [", ".join(f"c{i} 0.125" for i in range(6)) + " and 2 more"]
    assert kind.cells(areas(8)) == (["c0 12%", "c1 12%", "c2 12%"],)


def test_the_legend_has_the_colours_of_the_map() -> None:
    result = SegmentationResult(areas=(ClassArea(label="lamp", index=7, share=1),))
    assert Segmentation().legend(result) == {7: (tuple(paint(np.array(7)).tolist()), "lamp")}


def test_a_map_holds_256_classes() -> None:
    Segmentation().check_maps("a", tuple(map(str, range(256))))
    with pytest.raises(RequestError, match="257 classes"):
        Segmentation().check_maps("a", tuple(map(str, range(257))))
