"""Frames through a link that loses, repeats and reorders, with restarts: not one is decoded or answered wrongly."""

from __future__ import annotations

import pytest
import torch

from cloud.engine.exact_torch import TorchBackend
from shared.codec.frame_codec import FrameCodec
from shared.codec.latent_codec import LatentCodec
from support.context_tensors import context_tensors
from support.lossy_link import LossyLink
from support.random_codec import random_tensors
from support.session_ends import QUALITY, N, V

TENSORS = random_tensors(0, n=N, v_size=V, qualities=(QUALITY,)) | context_tensors()

# The cloud's processor, its threads, and frames in a batch; the camera's is numpy.
CLOUDS = [("numpy", 1, 1), ("torch", 1, 7), ("torch", 2, 32)]


def through(cloud: str, threads: int, batch: int, frames: int) -> None:
    torch.set_num_threads(threads)
    camera = FrameCodec(LatentCodec(TENSORS))
    other = FrameCodec(LatentCodec(TENSORS, TorchBackend("cpu") if cloud == "torch" else None))
    counts = LossyLink(camera, other, batch, seed=batch).run(frames)
    # Everything that can happen did.
    for what in ("I", "P", "S", "Answered", "SameAs", "NeedIntra"):
        assert counts[what] > 0, counts
    assert counts["cut"] + counts["cloud restarts"] + counts["edge restarts"] > frames / 200
    assert counts["S"] > frames / 5
    assert counts["Answered"] + counts["SameAs"] > frames / 2


@pytest.mark.parametrize(("cloud", "threads", "batch"), CLOUDS)
def test_hundreds_of_frames(cloud: str, threads: int, batch: int) -> None:
    through(cloud, threads, batch, 400)


@pytest.mark.slow
@pytest.mark.parametrize(("cloud", "threads", "batch"), CLOUDS)
def test_a_million_frames(cloud: str, threads: int, batch: int) -> None:
    """By chance one wrong answer in some millions of frames is possible: a check has two bytes."""
    through(cloud, threads, batch, 333_334)
