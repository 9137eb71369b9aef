"""Bitstreams of version 1, which nothing writes any more and everything must still read."""

from __future__ import annotations

from shared.codec.bitstream import Bitstream
from shared.codec.frame_codec import Latent
from shared.encoder import Encoder


def version_1(encoder: Encoder, latent: Latent) -> bytes:
    """A latent as edges used to write it."""
    assert latent.z is not None
    b_v, b_z = encoder.codec.encode(latent.v, latent.z, latent.quality)
    return Bitstream(encoder.bundle.fingerprint, latent.quality, *latent.grid, b_v, b_z).pack()
