"""Bitstreams of version 1 decode for ever: streams and integers written by the last release that made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.codec.bitstream import Bitstream
from shared.codec.latent_codec import LatentCodec, fingerprint

RECORDED = Path(__file__).parents[2] / "data" / "version1.npz"
FINGERPRINT = "db2ba9e00de8fe01a9f1dbfa2858972dffa11e8796c6bdc88a51717af5efd5b3"


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORDED) as file:
        return {name: file[name] for name in file.files}


def tensors(recorded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n.removeprefix("tensor:"): a for n, a in recorded.items() if n.startswith("tensor:")}


def test_the_same_integers_have_the_same_fingerprint(recorded: dict[str, np.ndarray]) -> None:
    assert fingerprint(tensors(recorded)).hex() == FINGERPRINT


def test_streams_decode_to_the_bit(recorded: dict[str, np.ndarray]) -> None:
    codec = LatentCodec(tensors(recorded))
    for i, z in enumerate(recorded["z"]):
        stream = Bitstream.unpack(recorded[f"stream:{i}"].tobytes())
        assert stream.fingerprint.hex() == FINGERPRINT[:8]
        np.testing.assert_array_equal(codec.decode(stream.b_v, stream.b_z, stream.h, stream.w), z)
        np.testing.assert_array_equal(codec.decode_v(stream.b_v), recorded["v"][i])
        assert codec.encode(recorded["v"][i], z) == (stream.b_v, stream.b_z)
