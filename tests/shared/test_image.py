"""Pictures as users have them, and files that are none: right pixels, or one line that says what is wrong."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.bundle import Preprocess
from shared.errors import ImageError, ImageTooLargeError, IsthmusError, NotAnImageError
from shared.image import MAX_FILE_BYTES, fit, fit_map, read_image, read_labels, to_input
from support.image_files import chunk, png, saved


def pixels(data: bytes) -> np.ndarray:
    picture = read_image(data)
    assert picture.mode == "RGB"
    return np.asarray(picture)


RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOUR = Image.fromarray(np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1))


# Files that are no picture.


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", NotAnImageError),
        (b"This is a text file.\n" * 50, NotAnImageError),
        (b"\0" * 1000, NotAnImageError),
        (b"\xb7\x01" + bytes(20), NotAnImageError),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NotAnImageError),
        (b"%PDF-1.7\n", NotAnImageError),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", NotAnImageError),
        (saved(COLOUR, "JPEG")[:200], ImageError),
        (saved(COLOUR, "JPEG")[:-40], ImageError),
        (saved(COLOUR, "PNG")[:60], ImageError),
        (saved(COLOUR, "PNG")[:-30], ImageError),
        (saved(COLOUR, "WEBP")[:-30], ImageError),
        (saved(COLOUR, "GIF")[:-200], ImageError),
        (png(10, 10, 8, 2, b""), ImageError),
        (png(0, 10, 8, 2, b""), NotAnImageError),
    ],
)
def test_what_is_no_whole_picture(data: bytes, kind: type[Exception]) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data, "front door.jpg")
    assert type(caught.value) is kind
    assert "front door.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(COLOUR, "PNG"))
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(COLOUR))
    np.testing.assert_array_equal(np.asarray(read_image(str(path))), np.asarray(COLOUR))
    with pytest.raises(NotAnImageError, match=r"no such file: .*none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(NotAnImageError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "notes.jpg").write_text("milk, bread")
    with pytest.raises(NotAnImageError, match=r"notes\.jpg is not an image"):
        read_image(tmp_path / "notes.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(NotAnImageError, match=r"empty\.jpg"):
        read_image(tmp_path / "empty.jpg")


# Pictures that are too large, before anything of them is decoded.


@pytest.mark.parametrize("side", [50_000, 8_000, 2**31 - 1])
def test_huge_png_of_a_few_bytes(side: int) -> None:
    import tracemalloc

    data = png(side, side, 8, 2, bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLargeError, match="megapixels"):
            read_image(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_twenty_five_megapixels_is_the_limit() -> None:
    with pytest.raises(ImageTooLargeError, match="25000 x 1001 pixels"):
        read_image(png(25_000, 1_001, 1, 0, b""))
    with pytest.raises(ImageError) as caught:  # inside the limit; its data is missing
        read_image(png(25_000, 1_000, 1, 0, b""))
    assert not isinstance(caught.value, ImageTooLargeError)


def test_file_of_too_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.write(saved(COLOUR, "PNG"))
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ImageTooLargeError, match=r"big\.png has 33554433 bytes"):
        read_image(path)
    with pytest.raises(ImageTooLargeError):
        read_image(path.read_bytes())


# Every kind of picture comes out as eight bits of RGB.


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats(kind: str) -> None:
    np.testing.assert_array_equal(pixels(saved(COLOUR, kind)), np.asarray(COLOUR))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_lossy_formats(kind: str) -> None:
    smooth = COLOUR.resize((64, 64))
    options = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}, "AVIF": {"quality": 95}, "JPEG2000": {}}[
        kind
    ]
    made = pixels(saved(smooth, kind, **options)).astype(int)
    assert np.abs(made - np.asarray(smooth, int)).mean() < 6


def test_other_modes() -> None:
    grey = COLOUR.convert("L")
    np.testing.assert_array_equal(pixels(saved(grey, "PNG"))[..., 2], np.asarray(grey))
    bits = pixels(saved(grey.convert("1"), "PNG"))
    assert set(np.unique(bits)) == {0, 255}
    assert pixels(saved(COLOUR.convert("LA"), "PNG")).shape == (16, 16, 3)
    np.testing.assert_array_equal(pixels(saved(COLOUR.convert("RGBA"), "PNG")), np.asarray(COLOUR))


def test_cmyk_jpeg_has_the_colours_that_were_meant() -> None:
    red = Image.new("RGB", (32, 32), (200, 30, 60)).convert("CMYK")
    data = saved(red, "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(pixels(data).astype(int) - (200, 30, 60)).max() < 12


def test_palette_with_transparency() -> None:
    picture = Image.new("P", (4, 4))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    for transparency in (1, bytes([255, 0])):  # as one index, and as an alpha for each
        made = pixels(saved(picture, "PNG", transparency=transparency))
        assert made[0, 0].tolist() == [255, 0, 0]
        assert made[0, 1].tolist() == [0, 255, 0]


def test_animation_gives_its_first_picture() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 3
        assert pixels(data)[0, 0].tolist() == [255, 0, 0], kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    # What a viewer must show, written as the camera would have stored it in that orientation.
    upright = Image.fromarray(np.asarray(COLOUR)[:6])
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    made = pixels(saved(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(made, np.asarray(upright))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_unknown_orientation_is_left(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    np.testing.assert_array_equal(pixels(saved(COLOUR, "PNG", exif=exif)), np.asarray(COLOUR))


@pytest.mark.parametrize(
    "block", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)]
)
@pytest.mark.filterwarnings("error")
def test_damaged_exif_spoils_no_picture(block: bytes) -> None:
    data = saved(COLOUR, "PNG")
    at = data.index(b"IDAT") - 4
    np.testing.assert_array_equal(pixels(data[:at] + chunk(b"eXIf", block) + data[at:]), np.asarray(COLOUR))


def test_damaged_pictures_of_every_format() -> None:
    """A small fuzz: an error of ours or a picture, whatever Pillow's decoders raise."""
    rng = random.Random(0)
    exif = Image.Exif()
    exif[274] = 6
    seeds = [
        saved(COLOUR, "JPEG", exif=exif),
        saved(COLOUR, "PNG", exif=exif),
        saved(COLOUR, "WEBP", exif=exif),
        saved(COLOUR, "AVIF"),
        saved(COLOUR, "BMP"),
        saved(COLOUR, "TIFF", compression="tiff_lzw"),
        saved(COLOUR, "GIF"),
        saved(COLOUR, "PPM"),
        saved(COLOUR, "JPEG2000"),
    ]
    ends = set()
    for i in range(1500):
        data = bytearray(seeds[i % len(seeds)])
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(min(len(data), 400))] = rng.choice((0, 1, 128, 255, rng.randrange(256)))
        try:
            pixels(bytes(data))
            ends.add("a picture")
        except IsthmusError as error:
            ends.add(type(error).__name__)
    assert ends >= {"a picture", "ImageError", "NotAnImageError"}


def test_avif_without_its_picture() -> None:
    """Pillow raises RuntimeError here."""
    data = saved(COLOUR, "AVIF")
    with pytest.raises(ImageError):
        read_image(data.replace(b"iloc", b"free", 1))


# To the network's size and numbers.


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


@pytest.mark.parametrize("how", ["crop", "stretch"])
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
    picture = Image.fromarray(noise)
    made = fit(picture, Preprocess(height=cut, width=cut, resize=resize, interpolation=interpolation))
    import_torchvision()
    from torchvision.transforms import functional

    scaled = functional.resize(picture, resize, functional.InterpolationMode(interpolation))
    expected = functional.center_crop(scaled, cut)
    assert made.size == (cut, cut)
    np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))


def test_a_long_narrow_picture_is_not_blown_up() -> None:
    """The whole of it would have 50 thousand million pixels."""
    thin = Image.new("RGB", (1, 200_000), (1, 2, 3))
    made = fit(thin, Preprocess(height=224, width=224, resize=256))
    assert np.asarray(made).reshape(-1, 3).tolist() == [[1, 2, 3]] * 224 * 224


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"resize": 39}, "resize 39 is smaller than the cut of 24 x 40 pixels"),
        ({"resize": 64, "fit": "stretch"}, "stretch leaves nothing to cut"),
        ({"interpolation": "lanczos"}, "interpolation"),
    ],
)
def test_settings_that_do_not_go_together(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preprocess.model_validate({"height": 24, "width": 40, **values})


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", [(40, 24), (41, 25), (97, 61), (39, 80), (200, 24)])
def test_labels_are_fitted_as_their_picture(settings: Preprocess, size: tuple[int, int]) -> None:
    """Of a picture with two flat halves each label is the one of the colour there, but at the edge between them."""
    for across in (False, True):
        classes = np.zeros((size[1], size[0]), np.uint8)
        (classes.T if across else classes)[len(classes.T if across else classes) // 2 :] = 200
        picture = Image.fromarray(np.stack([classes] * 3, -1))
        shown = np.asarray(fit(picture, settings))[..., 0]
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


def test_label_maps_are_read_as_numbers(tmp_path: Path) -> None:
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(classes).convert("P")
    palette.putpalette(bytes(range(255, -1, -1)) * 3)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(classes).save(tmp_path / "grey.png")
    for name in ("palette.png", "grey.png"):
        np.testing.assert_array_equal(read_labels(tmp_path / name), classes)
    COLOUR.save(tmp_path / "colours.png")
    with pytest.raises(ImageError, match=r"colours\.png has pixels of mode RGB; a label map has one byte"):
        read_labels(tmp_path / "colours.png")
    with pytest.raises(NotAnImageError, match="no such file"):
        read_labels(tmp_path / "none.png")


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


@pytest.mark.parametrize("kind", [b"P1", b"P2", b"P3"])
def test_a_picture_in_text_is_refused_before_it_is_read(kind):
    with pytest.raises(NotAnImageError, match="PNM image in text"):
        read_image(kind + b"\n1 1\n" + b"9\n" * (kind != b"P1") + b"1 1 1\n")
