"""The image codecs that Isthmus is compared with: each must bring back what it sent."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.codecs.hevc import decode_hevc, encode_hevc
from bench.codecs.image_codecs import IMAGE_CODECS, LOSSLESS, ImageCodec
from bench.codecs.vvc import decode_vvc, encode_vvc, vvc_missing


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(3, 50, 70, 3): smooth and coloured, no two alike."""
    y, x = np.mgrid[0:50, 0:70] / 70
    planes = [[np.sin(6 * x + n), np.cos(5 * y - n), np.sin(4 * (x + y))] for n in range(3)]
    return np.rint(127.5 + 100 * np.moveaxis(np.array(planes), 1, -1)).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("codec", IMAGE_CODECS, ids=lambda codec: codec.name)
def test_an_image_codec_brings_the_image_back_better_for_more_bytes(codec: ImageCodec, images):
    if codec.missing():
        pytest.skip(codec.missing())
    low, high = (codec.send(images, step) for step in (codec.ladder[0], codec.ladder[-1]))
    assert low.pixels.shape == high.pixels.shape == images.shape
    assert (low.sizes > 0).all()
    assert (low.sizes < high.sizes).all()
    assert psnr(low.pixels, images) < psnr(high.pixels, images)
    assert psnr(high.pixels, images) > 28, "wrong colours, or another image"
    assert (low.agreed is None) == (codec.bare is None)
    assert low.agreed is None or (low.agreed < low.sizes).all()


def test_half_size_sends_less():
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    whole = next(codec for codec in IMAGE_CODECS if codec.name == "JPEG")
    assert replace(whole, half=True).send(noise, 50).sizes < 0.5 * whole.send(noise, 50).sizes


def test_lossless_is_lossless(images):
    sent = LOSSLESS.send(images, 0)
    assert (sent.pixels == images).all()


def test_an_hevc_unit_is_the_same_alone_and_among_others(images):
    together = encode_hevc(list(images), "yuv420p", 30)
    for unit, image in zip(together, images, strict=True):
        (alone,) = encode_hevc([image], "yuv420p", 30)
        assert len(alone) == len(unit)
        assert (decode_hevc([unit], "rgb24") == decode_hevc([alone], "rgb24")).all()


@pytest.mark.skipif(bool(vvc_missing()), reason=vvc_missing())
def test_a_vvc_unit_is_the_same_alone_and_among_others(images):
    many = np.concatenate(
        [images[:, :48, :64]] * 6
    )  # 9 frames for each of 2 cores: more than ffmpeg flushes by itself
    together = encode_vvc(list(many), 44)
    assert len(together) == len(many)
    for unit, image in zip(together[-3:], many[-3:], strict=True):
        (alone,) = encode_vvc([image], 44)
        assert len(alone) == len(unit)
        assert (decode_vvc([unit]) == decode_vvc([alone])).all()


@pytest.mark.parametrize("name", ["JPEG XL", "VVC intra"])
def test_a_codec_that_is_not_installed_says_what_to_install(name, monkeypatch):
    vvc_missing.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    codec = next(codec for codec in IMAGE_CODECS if codec.name == name)
    assert "is not installed (pip install" in codec.missing()
    vvc_missing.cache_clear()
