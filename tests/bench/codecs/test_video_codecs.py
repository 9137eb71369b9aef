"""Sequences as HEVC with low delay: every frame at once, in order, and the still ones nearly for nothing."""

from __future__ import annotations

import numpy as np
import pytest

from bench.codecs.feature_codecs import send_hevc
from bench.codecs.hevc import decode_hevc, without_parameter_sets
from bench.codecs.video_codecs import Dial, send_feature_video, send_video

FRAMES = 6


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """A textured scene with sensor noise; from the fourth frame on a bright square stands in it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:96]
    scene = np.stack([127 + 90 * np.sin(x / 7 + n) * np.cos(y / 9 - n) for n in range(3)], -1)
    frames = []
    for number in range(FRAMES):
        frame = scene + rng.normal(0, 1, scene.shape)
        if number >= 3:
            frame[20:44, 30:60] = 250
        frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    return frames


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("mode", ["crf", "qp"])
def test_frames_come_back_in_order_and_only_what_changes_costs(mode, pictures):
    sent = send_video(pictures, Dial(mode, 32), 5)
    sizes = [len(unit) for unit in sent.units]
    assert sent.frames.shape == (FRAMES, 64, 96, 3)
    for got, given in zip(sent.frames, pictures, strict=True):
        assert psnr(got, given) > 25
    assert max(sizes[1], sizes[2]) < sizes[0] / 4
    assert sizes[3] > 2 * sizes[2], "the square appears"
    coarse = send_video(pictures, Dial(mode, 45), 5)
    assert sum(map(len, coarse.units)) < sum(sizes)
    assert psnr(coarse.frames, np.stack(pictures)) < psnr(sent.frames, np.stack(pictures))


def test_parameter_sets_are_sent_once_and_no_frame_waits_for_a_later_one(pictures):
    sent = send_video(pictures, Dial("qp", 32), 5)
    assert sent.agreed == len(sent.units[0]) - len(without_parameter_sets(sent.units[0])) > 0
    assert all(without_parameter_sets(unit) == unit for unit in sent.units[1:])
    first = send_video(pictures[:3], Dial("qp", 32), 5)
    assert first.units == sent.units[:3]
    assert (decode_hevc(sent.units[:3], "rgb24") == sent.frames[:3]).all()


@pytest.mark.parametrize("shape", [(16, 16, 16), (5, 3, 7), (12, 1, 1)])
def test_features_of_a_sequence_come_back_with_one_range(shape):
    rng = np.random.default_rng(1)
    still = rng.normal(0, 3, shape).cumsum(-1)
    y = np.stack([still + rng.normal(0, 0.05, shape) for _ in range(4)]).astype(np.float32)
    sent = send_feature_video(y, Dial("qp", 10), 5)
    assert sent.features.shape == y.shape
    assert np.abs(sent.features - y).mean() < 0.03 * np.ptp(y)
    assert sum(map(len, sent.units[1:])) < len(sent.units[0]) + send_hevc(y[1:], 8, 10).sizes.sum() / 2
    wide = send_feature_video(y, Dial("qp", 10), 5, limits=(-1000.0, 1000.0))
    assert np.abs(wide.features - y).max() < 3 * 2000 / 255
    assert np.abs(wide.features - y).mean() > np.abs(sent.features - y).mean()
