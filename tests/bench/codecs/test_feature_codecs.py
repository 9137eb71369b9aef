"""Features as HEVC and VVC frames and as raw numbers: each must bring back what it sent."""

from __future__ import annotations

import numpy as np
import pytest

from bench.codecs.feature_codecs import SIDE_BYTES, send_hevc, send_raw, send_vvc, tile, untile
from bench.codecs.hevc import encode_hevc, without_parameter_sets
from bench.codecs.vvc import encode_vvc, vvc_missing, without_agreed_units

vvc = pytest.mark.skipif(bool(vvc_missing()), reason=vvc_missing())


@pytest.mark.parametrize("form", ["hevc", pytest.param("vvc", marks=vvc)])
def test_parameter_sets_are_the_same_for_every_image_and_may_be_agreed_on(form):
    ramp = np.arange(48 * 64).reshape(48, 64)
    grey = [(ramp * factor // 64 % 256).astype(np.uint8) for factor in (1, 3, 7)]
    heads = set()
    units = encode_hevc(grey, "gray", 30, tune="psnr") if form == "hevc" else encode_vvc(grey, 60)
    for unit in units:
        left = without_parameter_sets(unit) if form == "hevc" else without_agreed_units(unit)
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
        assert worst.max() < (1.02 if bits < 8 else 3.5)
    coarse = send_hevc(y, 8, 40)
    assert (coarse.sizes < sent.sizes).all()


@vvc
def test_a_feature_comes_back_from_vvc_and_fewer_bytes_are_worse():
    y = features((9, 8, 16, 16))  # so many frames that ffmpeg would lose them, were none added
    fine, coarse = send_vvc(y, 8, 4), send_vvc(y, 8, 45)
    error = [np.sqrt(np.mean((sent.features - y) ** 2)) / y.std() for sent in (fine, coarse)]
    assert error[0] < 0.02 < error[1] < 0.7
    assert (coarse.sizes < fine.sizes).all()


def test_the_range_that_is_sent_covers_the_feature_as_float16_can():
    y = np.array([70000.0, -3.14159], np.float32).reshape(1, 2, 1, 1)
    received = send_hevc(y, 8, 0).features
    assert received.ravel()[0] == pytest.approx(65504, rel=0.01), "the largest float16"
    assert received.ravel()[1] == pytest.approx(-3.14159, abs=65504 / 255 * 1.5)


def test_a_feature_that_is_constant_comes_back():
    flat = np.full((1, 4, 3, 3), 7.5, np.float32)
    assert send_hevc(flat, 4, 30).features == pytest.approx(flat)


def test_side_information_is_counted_and_parameter_sets_apart():
    y = features()
    frames = tile(np.zeros(y.shape, np.uint8))
    (unit,) = encode_hevc([frames[0]], "gray", 30, tune="psnr")
    sent = send_hevc(np.zeros_like(y), 8, 30)
    assert sent.sizes.tolist() == [len(without_parameter_sets(unit)) + SIDE_BYTES] * len(y)
    assert sent.alone is not None
    assert sent.alone.tolist() == [len(unit) + SIDE_BYTES] * len(y)


def test_the_coarsest_qp_is_really_coarser_than_48():
    y = features((1, 16, 16, 16))
    sizes = [int(send_hevc(y, 8, qp).sizes[0]) for qp in (45, 48, 51)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_raw_numbers_are_float16():
    y = features()
    sent = send_raw(y)
    assert (sent.features == y.astype(np.float16)).all()
    assert (sent.sizes < y[0].nbytes).all()
