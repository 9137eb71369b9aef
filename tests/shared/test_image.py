"""Images as users have them, and files that are none: right pixels, or one line that says what is wrong."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from shared.errors import ImageError, ImageTooLargeError, IsthmusError, NotAnImageError
from shared.image import MAX_FILE_BYTES, read_image, read_labels
from support.image_files import chunk, png, saved


def pixels(data: bytes) -> np.ndarray:
    image = read_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOUR = Image.fromarray(np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1))


# Files that are no image.


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
def test_what_is_no_whole_image(data: bytes, kind: type[Exception]) -> None:
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


# Images that are too large are refused before anything is decoded.


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


# Every kind of image comes out as eight bits of RGB.


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
    image = Image.new("P", (4, 4))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    for transparency in (1, bytes([255, 0])):  # as one index, and as an alpha for each
        made = pixels(saved(image, "PNG", transparency=transparency))
        assert made[0, 0].tolist() == [255, 0, 0]
        assert made[0, 1].tolist() == [0, 255, 0]


def test_animation_gives_its_first_frame() -> None:
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


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16")
CARRIERS = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "TIFF": MODES}


@settings(max_examples=150, deadline=None)
@given(
    carrier=st.sampled_from([(kind, mode) for kind, modes in CARRIERS.items() for mode in modes]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    orientation=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_mode_upright(
    carrier: tuple[str, str], size: tuple[int, int], orientation: int, seed: int
) -> None:
    """Pillow's own conversion, and its own turning, of what was saved."""
    kind, mode = carrier
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8)
    if mode == "I;16":
        noise[0, 0] = 255
        wide = noise[..., 0].astype(np.uint16) << 8 | noise[..., 1]
        image, expected = Image.fromarray(wide), Image.fromarray(noise[..., 0]).convert("RGB")
    elif mode == "CMYK":
        image = Image.frombytes("CMYK", size[::-1], noise.tobytes())
        expected = image.convert("RGB")
    else:
        image = (
            Image.fromarray(noise).convert("RGB" if mode in ("1", "P", "PA", "L") else "RGBA").convert(mode)
        )
        expected = image.convert("RGB")
    exif = Image.Exif()
    exif[274] = orientation
    expected.getexif()[274] = orientation
    made = pixels(saved(image, kind, exif=exif))
    np.testing.assert_array_equal(made, np.asarray(ImageOps.exif_transpose(expected)))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_unknown_orientation_is_left(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    np.testing.assert_array_equal(pixels(saved(COLOUR, "PNG", exif=exif)), np.asarray(COLOUR))


@pytest.mark.parametrize(
    "block", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)]
)
@pytest.mark.filterwarnings("error")
def test_damaged_exif_spoils_no_image(block: bytes) -> None:
    data = saved(COLOUR, "PNG")
    at = data.index(b"IDAT") - 4
    np.testing.assert_array_equal(pixels(data[:at] + chunk(b"eXIf", block) + data[at:]), np.asarray(COLOUR))


def test_damaged_images_of_every_format() -> None:
    """A small fuzz: an ImageError or an image, whatever Pillow's decoders raise."""
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
            ends.add("an image")
        except IsthmusError as error:
            ends.add(type(error).__name__)
    assert ends >= {"an image", "ImageError", "NotAnImageError"}


def test_avif_without_its_image() -> None:
    """Pillow raises RuntimeError here."""
    data = saved(COLOUR, "AVIF")
    with pytest.raises(ImageError):
        read_image(data.replace(b"iloc", b"free", 1))


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


@pytest.mark.parametrize("kind", [b"P1", b"P2", b"P3"])
def test_an_image_in_text_is_refused_before_it_is_read(kind):
    with pytest.raises(NotAnImageError, match="PNM image in text"):
        read_image(kind + b"\n1 1\n" + b"9\n" * (kind != b"P1") + b"1 1 1\n")
