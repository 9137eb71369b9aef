"""What is raced against: image codecs, a feature as HEVC, raw numbers; each must bring back what it sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.rate.feature_codecs import send_hevc, send_raw, tile, untile, without_parameter_sets
from bench.rate.image_codecs import IMAGE_CODECS, LOSSLESS, ImageCodec, decode_hevc, encode_hevc


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """(3, 50, 70, 3): smooth, coloured, each another."""
    y, x = np.mgrid[0:50, 0:70] / 70
    planes = [[np.sin(6 * x + n), np.cos(5 * y - n), np.sin(4 * (x + y))] for n in range(3)]
    return np.rint(127.5 + 100 * np.moveaxis(np.array(planes), 1, -1)).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("codec", IMAGE_CODECS, ids=lambda codec: codec.name)
def test_an_image_codec_brings_the_picture_back_better_for_more_bytes(codec: ImageCodec, pictures):
    low, high = (codec.send(pictures, setting) for setting in (codec.ladder[0], codec.ladder[-1]))
    assert low.pixels.shape == high.pixels.shape == pictures.shape
    assert (low.sizes > 0).all()
    assert (low.sizes < high.sizes).all()
    assert psnr(low.pixels, pictures) < psnr(high.pixels, pictures)
    assert psnr(high.pixels, pictures) > 28, "wrong colours, or another picture"


def test_half_size_sends_less():
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    whole = next(codec for codec in IMAGE_CODECS if codec.name == "JPEG")
    assert replace(whole, half=True).send(noise, 50).sizes < 0.5 * whole.send(noise, 50).sizes


def test_lossless_is_lossless(pictures):
    sent = LOSSLESS.send(pictures, 0)
    assert (sent.pixels == pictures).all()


def test_an_hevc_unit_costs_and_gives_alone_what_it_does_among_others(pictures):
    together = encode_hevc(list(pictures), "yuv420p", 30)
    for unit, picture in zip(together, pictures, strict=True):
        (alone,) = encode_hevc([picture], "yuv420p", 30)
        assert len(alone) == len(unit)
        assert (decode_hevc([unit], "rgb24") == decode_hevc([alone], "rgb24")).all()


def test_parameter_sets_are_the_same_for_every_picture_and_may_be_agreed_on(pictures):
    grey = list(pictures[..., 0])
    heads = set()
    for unit in encode_hevc(grey, "gray", 30, tune="psnr"):
        left = without_parameter_sets(unit)
        assert unit.endswith(left)
        assert 0 < len(left) < len(unit)
        heads.add(unit[: len(unit) - len(left)])
    assert len(heads) == 1


@pytest.mark.parametrize("shape", [(2, 8, 16, 16), (1, 3, 5, 40), (2, 7, 1, 1), (1, 1, 33, 9), (1, 13, 6, 4)])
def test_channels_come_back_from_their_frame(shape):
    channels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    frames = tile(channels)
    assert min(frames.shape[1:]) >= 32
    assert all(size % 8 == 0 for size in frames.shape[1:])
    assert (untile(frames, shape) == channels).all()


def features(shape=(2, 8, 16, 16)) -> np.ndarray:
    y = np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)
    return y.cumsum(-1).astype(np.float32)


def test_a_feature_comes_back_within_its_quantisation_step():
    y = features()
    span = np.ptp(y, axis=(1, 2, 3), keepdims=True)
    for bits in (8, 4, 2):
        sent = send_hevc(y, bits, 0)  # at QP 0 HEVC is off by 1 at most, within a step of 4 bits or fewer
        half_step = span / (2**bits - 1) / 2
        worst = np.abs(sent.features - y) / half_step
        assert worst.max() < (1.01 if bits < 8 else 3.5)
    coarse = send_hevc(y, 8, 40)
    assert (coarse.sizes < sent.sizes).all()


def test_a_feature_without_any_range_does_no_harm():
    flat = np.full((1, 4, 3, 3), 7.5, np.float32)
    assert send_hevc(flat, 4, 30).features == pytest.approx(flat)


def test_side_information_is_counted_and_parameter_sets_are_not():
    y = features()
    frames = tile(np.zeros(y.shape, np.uint8))
    (unit,) = encode_hevc([frames[0]], "gray", 30, tune="psnr")
    sent = send_hevc(np.zeros_like(y), 8, 30)
    assert sent.sizes.tolist() == [len(without_parameter_sets(unit)) + 8] * len(y)


def test_raw_numbers_are_float16():
    y = features()
    sent = send_raw(y)
    assert (sent.features == y.astype(np.float16)).all()
    assert (sent.sizes < y[0].nbytes).all()
