"""Any image at the network's size and in its numbers, and labels with it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from shared.bundle import Preprocess
from shared.image import fit, fit_map, to_input

RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOUR = Image.fromarray(np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1))


def preprocess(width: int, height: int, how: str) -> Preprocess:
    return Preprocess(height=height, width=width, fit=how)


def test_fit_crop_cuts_the_middle() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255
    made = np.asarray(fit(Image.fromarray(wide), preprocess(10, 10, "crop")))
    assert made.shape == (10, 10, 3)
    assert made.min() == 255
    tall = np.asarray(
        fit(Image.fromarray(wide).transpose(Image.Transpose.ROTATE_90), preprocess(10, 10, "crop"))
    )
    assert tall.min() == 255


def test_fit_stretch_keeps_all() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 20:] = 255
    made = np.asarray(fit(Image.fromarray(wide), preprocess(10, 10, "stretch")))
    assert made.shape == (10, 10, 3)
    assert made[:, :4].max() == 0
    assert made[:, 6:].min() == 255


@pytest.mark.parametrize("how", ["crop", "stretch"])  # of a letterbox: test_placement
def test_fit_sizes(how: str) -> None:
    for size in ((1, 1), (1, 500), (333, 7), (16, 16), (32, 16)):
        made = fit(Image.new("RGB", size, (9, 8, 7)), preprocess(32, 16, how))
        assert made.size == (32, 16)
        assert np.asarray(made).reshape(-1, 3).tolist() == [[9, 8, 7]] * 512


def test_fit_leaves_the_right_size_untouched() -> None:
    assert fit(COLOUR, preprocess(16, 16, "crop")) is COLOUR


def test_fit_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    made = np.asarray(fit(Image.fromarray(stripes), preprocess(16, 16, "stretch")))
    assert np.abs(made.astype(int) - 127).max() <= 24


SETTINGS = [
    Preprocess(height=24, width=40),
    Preprocess(height=24, width=40, interpolation="bicubic"),
    Preprocess(height=24, width=40, fit="stretch"),
    Preprocess(height=24, width=40, resize=41),
    Preprocess(height=37, width=37, resize=50, interpolation="bicubic"),
]


@pytest.mark.parametrize("size", [(50, 50), (51, 50), (61, 97), (333, 47), (41, 300), (40, 24)])
@pytest.mark.parametrize(("cut", "resize"), [(37, 41), (38, 41), (40, 50), (24, 47)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_is_the_usual_way_of_classifiers(size, cut, resize, interpolation) -> None:
    """Scale the shorter side, cut the middle: as torchvision's Resize and CenterCrop."""
    from train.networks.torchvision_shim import import_torchvision

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    made = fit(image, Preprocess(height=cut, width=cut, resize=resize, interpolation=interpolation))
    import_torchvision()
    from torchvision.transforms import functional

    scaled = functional.resize(image, resize, functional.InterpolationMode(interpolation))
    expected = functional.center_crop(scaled, cut)
    assert made.size == (cut, cut)
    np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))


def test_a_long_narrow_image_is_not_blown_up() -> None:
    """The whole of it would have 50 thousand million pixels."""
    thin = Image.new("RGB", (1, 200_000), (1, 2, 3))
    made = fit(thin, Preprocess(height=224, width=224, resize=256))
    assert np.asarray(made).reshape(-1, 3).tolist() == [[1, 2, 3]] * 224 * 224


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"resize": 39}, "resize 39 is smaller than the cut of 24 x 40 pixels"),
        ({"resize": 64, "fit": "stretch"}, "stretch leaves nothing to cut"),
        ({"resize": 64, "fit": "letterbox"}, "letterbox leaves nothing to cut"),
        ({"interpolation": "lanczos"}, "interpolation"),
    ],
)
def test_settings_that_do_not_go_together(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preprocess.model_validate({"height": 24, "width": 40, **values})


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", [(40, 24), (41, 25), (97, 61), (39, 80), (200, 24)])
def test_labels_are_fitted_as_their_image(settings: Preprocess, size: tuple[int, int]) -> None:
    """An image of two flat halves: each label is that of the colour there, except at the edge between them."""
    for across in (False, True):
        classes = np.zeros((size[1], size[0]), np.uint8)
        (classes.T if across else classes)[len(classes.T if across else classes) // 2 :] = 200
        image = Image.fromarray(np.stack([classes] * 3, -1))
        shown = np.asarray(fit(image, settings))[..., 0]
        labels = fit_map(classes, settings)
        assert labels.dtype == np.uint8
        assert labels.shape == shown.shape
        assert set(np.unique(labels)) <= {0, 200}
        clear = (shown == 0) | (shown == 200)
        assert clear.mean() > 0.7
        assert np.array_equal(labels[clear], shown[clear])


def test_normals_keep_their_signs_when_fitted() -> None:
    normals = np.random.default_rng(0).integers(-127, 128, (30, 50, 3), np.int8)
    made = fit_map(normals, Preprocess(height=24, width=40))
    assert made.dtype == np.int8
    known = {tuple(row) for row in normals.reshape(-1, 3).tolist()}
    assert {tuple(row) for row in made.reshape(-1, 3).tolist()} <= known


def test_to_input_values() -> None:
    settings = Preprocess(height=1, width=2, mean=(0.5, 0.25, 0), std=(0.5, 0.25, 1))
    x = to_input(np.array([[[0, 0, 0], [255, 255, 51]]], np.uint8), settings)
    assert x.dtype == np.float32
    assert x.shape == (3, 1, 2)
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, [[[-1, 1]], [[-1, 3]], [[0, 0.2]]], atol=1e-6)
    batch = to_input(np.zeros((4, 5, 6, 3), np.uint8), settings)
    assert batch.shape == (4, 3, 5, 6)


def test_to_input_default_is_the_usual_one() -> None:
    settings = Preprocess(height=16, width=16)
    x = to_input(np.asarray(COLOUR), settings)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((np.asarray(COLOUR) / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(x, expected, atol=1e-5)
