"""Features as HEVC frames and as raw numbers: each must bring back what it sent."""

from __future__ import annotations

import numpy as np
import pytest

from bench.rate.feature_codecs import send_hevc, send_raw, tile, untile, without_parameter_sets
from bench.rate.image_codecs import encode_hevc


def test_parameter_sets_are_the_same_for_every_image_and_may_be_agreed_on():
    ramp = np.arange(48 * 64).reshape(48, 64)
    grey = [(ramp * factor // 64 % 256).astype(np.uint8) for factor in (1, 3, 7)]
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


def test_a_feature_that_is_constant_comes_back():
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
