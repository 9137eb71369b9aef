"""Deep images: the same picture whatever its depth and container, or a refusal that says what to do; never black."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import ImageError
from shared.image import read_image
from support.image_files import png, png_16, saved, significant_bits, tiff

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
REMEDY = "save it with 8 bits"


def pixels(data: bytes) -> np.ndarray:
    image = read_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def gray(data: bytes) -> np.ndarray:
    """(H, W); all three colours are the same."""
    made = pixels(data)
    assert (made == made[..., :1]).all()
    return made[..., 0]


def declared(white: float, black: float | None = None, kind: str = "u") -> dict:
    """The TIFF fields that state the range of samples."""
    if kind == "u":
        return {"white": (281, 3 if white < 65_536 else 4, [white])}
    number = 11 if kind == "f" else 9
    fields = {"white": (341, number, [white])}
    return fields if black is None else fields | {"black": (340, number, [black])}


def to_depth(eight: np.ndarray, bits: int) -> np.ndarray:
    """Eight bits scaled to another depth."""
    return np.rint(eight / 255 * (2**bits - 1)).astype(np.uint32)


# Samples that fill what holds them.


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_gray(kind: str) -> None:
    data = saved(Image.fromarray(DEEP), kind)
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    np.testing.assert_array_equal(gray(data), DEEP >> 8)


def test_sixteen_bits_big_endian() -> None:
    np.testing.assert_array_equal(gray(b"P5 16 16 65535\n" + DEEP.astype(">u2").tobytes()), DEEP >> 8)
    data = tiff(DEEP, ">")
    assert Image.open(io.BytesIO(data)).mode == "I;16B"
    np.testing.assert_array_equal(gray(data), DEEP >> 8)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_of_colour(channels: int) -> None:
    colours = np.stack([DEEP, DEEP.T, 65_535 - DEEP, DEEP][-channels:], -1)
    expected = np.repeat(colours[..., :1], 3, -1) if channels == 2 else colours[..., :3]
    np.testing.assert_array_equal(pixels(png_16(colours)), expected >> 8)
    if channels == 3:
        for order in "<>":
            np.testing.assert_array_equal(pixels(tiff(colours, order)), expected >> 8)


# Samples that do not fill it.


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "i2", "u4", "i4", "f4"])
def test_eight_bits_in_a_large_container(kind: str, order: str) -> None:
    """The fault that began this: such a file came out black."""
    if kind == "u4" and order == ">":
        pytest.skip("Pillow does not read big-endian unsigned 32 bits")
    np.testing.assert_array_equal(gray(tiff(RAMP.astype(kind), order)), RAMP)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_eight_bits_in_sixteen_of_colour(channels: int) -> None:
    colours = np.stack([RAMP, RAMP.T, 255 - RAMP, RAMP][-channels:], -1).astype(np.uint16)
    if channels % 2 == 0:
        colours[..., -1] = 65_535  # an opaque alpha does not count
    expected = np.repeat(colours[..., :1], 3, -1) if channels == 2 else colours[..., :3]
    np.testing.assert_array_equal(pixels(png_16(colours)), expected)
    if channels == 3:
        for order in "<>":
            np.testing.assert_array_equal(pixels(tiff(colours, order)), expected)
        binary = b"P6 16 16 65535\n" + colours.astype(">u2").tobytes()
        np.testing.assert_array_equal(pixels(binary), expected)


def test_sixteen_bits_in_thirty_two() -> None:
    for kind in ("u4", "i4", "f4"):
        np.testing.assert_array_equal(gray(tiff(DEEP.astype(kind))), DEEP >> 8)


def test_thirty_two_bits() -> None:
    wide = DEEP.astype(np.uint32) << 16
    np.testing.assert_array_equal(gray(tiff(wide)), DEEP >> 8)
    np.testing.assert_array_equal(gray(tiff((wide >> 1).astype(np.int32))), DEEP >> 8)


@settings(max_examples=120, deadline=None)
@given(
    bits=st.sampled_from([9, 10, 12, 14, 15]),
    top=st.integers(1, 255),
    container=st.sampled_from(
        ["tiff u2", "tiff u2 colour", "tiff u4", "tiff i2", "png", "png colour", "pgm", "ppm"]
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_declared_depth_is_read(bits: int, top: int, container: str, seed: int) -> None:
    """Of an image of up to `top`, however dark: the levels of the eight-bit original, to one level."""
    eight = np.random.default_rng(seed).integers(0, top + 1, (5, 7), np.uint8)
    eight[0, 0] = top
    if container == "tiff i2":
        bits = min(bits, 14)  # to name the largest number of the type declares nothing
    samples, white = to_depth(eight, bits), 2**bits - 1
    samples[0, 1], eight[0, 1] = 1, 0  # no stretched sample of sixteen bits is 1
    colours = np.repeat(samples[..., None], 3, -1)
    made = gray(
        {
            "tiff u2": lambda: tiff(samples.astype(np.uint16), **declared(white)),
            "tiff u2 colour": lambda: tiff(colours.astype(np.uint16), ">", **declared(white)),
            "tiff u4": lambda: tiff(samples.astype(np.uint32), **declared(white)),
            "tiff i2": lambda: tiff(samples.astype(np.int16), **declared(white, kind="i")),
            # Multiplied by no power of two, so that the samples are not taken for stretched ones.
            "png": lambda: png_16(samples, significant_bits(bits)),
            "png colour": lambda: png_16(colours, significant_bits(bits, bits, bits)),
            "pgm": lambda: b"P5 7 5 %d\n" % white + samples.astype(">u2").tobytes(),
            "ppm": lambda: b"P6 7 5 %d\n" % white + colours.astype(">u2").tobytes(),
        }[container]()
    )
    assert np.abs(made.astype(int) - eight).max() <= 1


UNDECLARED = ["tiff u2", "tiff u2 colour", "tiff i2", "tiff u4", "tiff i4", "png", "png colour", "ppm"]


@settings(max_examples=100, deadline=None)
@given(
    bits=st.sampled_from([10, 12, 14]),
    container=st.sampled_from(
        ["tiff u2", "tiff u2 colour", "tiff i2", "tiff u4", "tiff i4", "png", "png colour", "ppm"]
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_undeclared_depth_is_refused(bits: int, container: str, seed: int) -> None:
    samples = np.random.default_rng(seed).integers(0, 2**bits, (8, 8), np.uint16)
    samples[0, :2] = 2**bits - 1, 2 ** (bits - 1) + 1
    samples = np.minimum(samples, (1 << 14) - 1)
    colours = np.repeat(samples[..., None], 3, -1)
    data = {
        "tiff u2": lambda: tiff(samples),
        "tiff u2 colour": lambda: tiff(colours),
        "tiff i2": lambda: tiff(samples.astype(np.int16)),
        "tiff u4": lambda: tiff(samples.astype(np.uint32)),
        "tiff i4": lambda: tiff(samples.astype(np.int32)),
        "png": lambda: png_16(samples),
        "png colour": lambda: png_16(colours),
        "ppm": lambda: b"P6 8 8 65535\n" + colours.astype(">u2").tobytes(),
    }[container]()
    with pytest.raises(
        ImageError, match=f"samples of at most {samples.max()}, .* which value is white; {REMEDY}"
    ):
        read_image(data, "door.tif")


@settings(max_examples=80, deadline=None)
@given(
    bits=st.sampled_from([4, 5, 8, 10, 12]),
    dark=st.floats(0.01, 1),
    seed=st.integers(0, 2**32 - 1),
    how=st.integers(0, 2),
)
def test_stretched_samples_are_full_range(bits: int, dark: float, seed: int, how: int) -> None:
    """What PNG asks of writers: sBIT with samples scaled to sixteen bits, here also of dark images."""
    low = np.random.default_rng(seed).integers(0, max(1, int(dark * 2**bits)), (16, 16), np.uint16)
    shift = 16 - bits
    wide = [
        low << shift,
        np.rint(low * (65_535 / (2**bits - 1))).astype(np.uint16),
        low << shift | low >> max(bits - shift, 0) if bits >= 8 else low << shift,
    ][how]
    if wide.max() > 255:
        np.testing.assert_array_equal(gray(png_16(wide, significant_bits(bits))), wide >> 8)


def test_a_dark_image_of_eight_bits_that_was_widened_stays_dark() -> None:
    dark = (RAMP // 8).astype(np.uint16)
    for wide in (dark * 257, dark << 8):
        np.testing.assert_array_equal(gray(png_16(wide)), dark)
        np.testing.assert_array_equal(gray(tiff(wide)), dark)
        colours = np.stack([wide, wide.T, wide[::-1]], -1)
        np.testing.assert_array_equal(pixels(png_16(colours)), colours >> 8)


@pytest.mark.parametrize("bits", [0, 1, 8, 16, 17, 255])
def test_significant_bits_that_the_samples_contradict_declare_nothing(bits: int) -> None:
    samples = (DEEP >> 6) | (DEEP == 0)
    for image in (samples, np.stack([samples] * 3, -1)):
        with pytest.raises(ImageError, match="at most 1023"):
            read_image(png_16(image, significant_bits(*[bits] * (1 if image.ndim == 2 else 3))))


def test_significant_bits_of_the_full_depth_declare_nothing() -> None:
    with pytest.raises(ImageError, match="at most 4095"):
        read_image(png_16((DEEP >> 4) | (DEEP == 0), significant_bits(16)))
    np.testing.assert_array_equal(gray(png_16(DEEP, significant_bits(16))), DEEP >> 8)


def test_twelve_bits_packed() -> None:
    samples = (DEEP >> 4)[:, :15]
    rows = []
    for row in samples:
        number = int("".join(f"{sample:03x}" for sample in row) + "0", 16)  # half a byte of padding
        rows.append(number.to_bytes(23, "big"))
    data = tiff(samples, bits=12, data=b"".join(rows))
    np.testing.assert_array_equal(gray(data), np.rint(samples / 4095 * 65_535).astype(int) >> 8)


# Floating point, signs, and statements that contradict the samples.


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats(scale: int, order: str) -> None:
    samples = (RAMP / 255 * scale).astype(np.float32) * np.float32(0.999)
    assert np.abs(gray(tiff(samples, order)).astype(int) - RAMP).max() <= 1


def test_floats_with_a_declared_range() -> None:
    samples = ((RAMP / 255) * 10 - 5).astype(np.float32)
    np.testing.assert_array_equal(gray(tiff(samples, **declared(5, -5, "f"))), RAMP)
    with pytest.raises(
        ImageError, match=r"negative samples \(-5 to 5\).* SMinSampleValue and SMaxSampleValue"
    ):
        read_image(tiff(samples))


@pytest.mark.parametrize("high", [1.02, 3.7, 63.5, 255.5, 70_000.5])
def test_floats_of_an_unknown_range(high: float) -> None:
    with pytest.raises(ImageError, match=f"floating-point samples of at most .* {REMEDY}"):
        read_image(tiff((RAMP / 255 * high).astype(np.float32)))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite(odd: float) -> None:
    samples = (RAMP / 255).astype(np.float32)
    samples[3, 3] = odd
    with pytest.raises(ImageError, match="not finite"):
        read_image(tiff(samples))


def test_signed_samples() -> None:
    samples = (RAMP.astype(int) * 257 - 32_768).astype(np.int16)
    fields = declared(32_767, -32_768, "i")
    np.testing.assert_array_equal(gray(tiff(samples, **fields)), RAMP)
    for kind in (np.int16, np.int32):
        with pytest.raises(ImageError, match="negative samples"):
            read_image(tiff(samples.astype(kind)))
    with pytest.raises(ImageError, match="negative samples"):
        read_image(tiff(RAMP.view(np.int8)))
    np.testing.assert_array_equal(gray(tiff((RAMP >> 1).astype(np.int8))), RAMP >> 1)
    np.testing.assert_array_equal(gray(tiff((DEEP >> 1).astype(np.int16))), DEEP >> 8)


def test_a_statement_that_the_samples_contradict() -> None:
    with pytest.raises(
        ImageError, match=r"states that its samples lie in 0 to 1023, but they lie in 0 to 65535"
    ):
        read_image(tiff(DEEP, **declared(1023)))
    with pytest.raises(ImageError, match="states"):
        read_image(tiff(DEEP, **declared(0)))


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_white_is_zero(kind: str) -> None:
    samples = DEEP if kind == "u2" else (DEEP / 65_535).astype(np.float32)
    assert np.abs(gray(tiff(samples, photometric=0)).astype(int) - (255 - (DEEP >> 8))).max() <= 1


def test_separate_planes_of_sixteen_bits_are_refused() -> None:
    """Pillow reads each byte of them as a pixel."""
    planes = np.stack([DEEP, DEEP.T, DEEP])
    separate = {"planes": (284, 3, [2])}
    data = tiff(np.moveaxis(planes, 0, -1), data=planes.astype("<u2").tobytes(), strips=3, **separate)
    assert len(Image.open(io.BytesIO(data)).tile) == 3
    with pytest.raises(ImageError, match="separate planes"):
        read_image(data)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_files(compression: str) -> None:
    np.testing.assert_array_equal(
        gray(saved(Image.fromarray(DEEP), "TIFF", compression=compression)), DEEP >> 8
    )
    eight = saved(Image.fromarray(RAMP.astype(np.uint16)), "TIFF", compression=compression)
    np.testing.assert_array_equal(gray(eight), RAMP)
    words = saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF", compression=compression)
    np.testing.assert_array_equal(gray(words), RAMP)


@settings(max_examples=60, deadline=None)
@given(maximum=st.integers(1, 65_534), colour=st.booleans(), seed=st.integers(0, 2**32 - 1))
@example(maximum=255, colour=False, seed=0)  # Pillow reads these by itself, and says it in its own words
def test_netpbm_by_its_largest_value(maximum: int, colour: bool, seed: int) -> None:
    shape = (4, 5, 3) if colour else (4, 5)
    samples = np.random.default_rng(seed).integers(0, maximum + 1, shape)
    kind = "u1" if maximum < 256 else ">u2"
    data = (b"P6" if colour else b"P5") + b" 5 4 %d\n" % maximum + samples.astype(kind).tobytes()
    made = pixels(data)
    exact = samples / maximum * 255
    assert np.abs(made - (exact if colour else exact[..., None])).max() <= 1
    by_pillow = np.asarray(Image.open(io.BytesIO(data)))
    if by_pillow.dtype == np.uint8:
        np.testing.assert_array_equal(made, by_pillow if colour else np.repeat(by_pillow[..., None], 3, -1))
    else:
        np.testing.assert_array_equal(made[..., 0], by_pillow >> 8)
    with pytest.raises(ImageError, match=r"damaged: (its end is missing|image file is truncated)"):
        read_image(data[:-1])


def test_netpbm_takes_no_seconds() -> None:
    """Pillow takes 2.6 s for each megapixel of these."""
    data = b"P6 2000 1500 1023\n" + bytes(2000 * 1500 * 6)
    started = time.process_time()
    read_image(data)
    assert time.process_time() - started < 2


def test_fewer_bits_than_eight() -> None:
    for bits, colours in ((1, 2), (2, 4), (4, 16)):
        width = 8 // bits
        levels = np.arange(width) % colours
        byte = int("".join(f"{level:0{bits}b}" for level in levels), 2)
        data = png(width, 1, bits, 0, bytes([0, byte]))
        np.testing.assert_array_equal(gray(data)[0], levels * 255 // (colours - 1))
