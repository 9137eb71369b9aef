"""Latents to bytes and back: v and z -> b_v and b_z -> v and z. Knows no network, no task and no file.

Both sides hold the same integers (`entropy.safetensors` of a bundle):

    encode    v --tables of v--> b_v        v -> exact path -> table of each z;   z - offset --tables--> b_z
    decode    b_v --tables of v--> v        v -> exact path -> table of each z;   b_z --tables--> z - offset

Legend: N channels of z, h x w latent grid, V elements of v.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.codec import rangecoder
from shared.codec.exact import MEAN_STEPS, SCALE_STEPS, Backend, ExactPath, Tensors
from shared.codec.rangecoder import Tables
from shared.errors import CorruptPayloadError

# Part of the fingerprint: what the same integers mean. Raise it when the coding order or the arithmetic changes.
CODING = "isthmus coding 1"

Ints = NDArray[np.int32]


def fingerprint(tensors: Tensors) -> bytes:
    """SHA-256 (32 bytes) over every integer that affects decoding: names, types, shapes and values."""
    digest = hashlib.sha256(CODING.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()


def tables_of(tensors: Tensors, prefix: str) -> Tables:
    """The tables stored as {prefix}.counts, .starts and .firsts."""
    counts, starts, firsts = (tensors[f"{prefix}.{part}"] for part in ("counts", "starts", "firsts"))
    return Tables(counts.astype(np.uint32), starts.astype(np.int64), firsts.astype(np.int32))


class LatentCodec:
    """The entropy coder of one bundle.

    Raises ValueError, KeyError or InexactError where the tensors do not make a codec.
    """

    def __init__(self, tensors: Tensors, backend: Backend | None = None) -> None:
        self.path = ExactPath(tensors, backend)
        self.v_tables = tables_of(tensors, "v.tables")
        self.z_tables = tables_of(tensors, "z.tables")
        if len(self.v_tables) != self.path.v_size:
            raise ValueError(f"{len(self.v_tables)} tables for {self.path.v_size} elements of v")
        if len(self.z_tables) != MEAN_STEPS * SCALE_STEPS:
            raise ValueError(f"{len(self.z_tables)} tables for z; there are {MEAN_STEPS * SCALE_STEPS}")
        self._v_indices = np.arange(len(self.v_tables), dtype=np.intp)

    @property
    def channels(self) -> int:
        """N, the channels of z."""
        return self.path.groups

    def encode(self, v: Ints, z: Ints) -> tuple[bytes, bytes]:
        """v (V,) and z (N, h, w), int32 -> b_v, b_z. Every int32 is codable."""
        index, offset = self.path(v[None], z.shape[1], z.shape[2])
        shifted = _wrap(z.astype(np.int64) - offset[0])
        b_v = rangecoder.encode(v, self._v_indices, self.v_tables)
        return b_v, rangecoder.encode(shifted.ravel(), index[0].ravel(), self.z_tables)

    def bits(self, v: Ints, z: Ints) -> tuple[float, float]:
        """H_v and H_z: the ideal lengths in bits under the integer tables."""
        index, offset = self.path(v[None], z.shape[1], z.shape[2])
        shifted = _wrap(z.astype(np.int64) - offset[0])
        return (
            self.v_tables.bits(v, self._v_indices),
            self.z_tables.bits(shifted.ravel(), index[0].ravel()),
        )

    def decode(self, b_v: bytes, b_z: bytes, h: int, w: int) -> Ints:
        """z (N, h, w) int32. Raises CorruptPayloadError."""
        z: Ints = self.decode_batch([(b_v, b_z)], h, w)[0]
        return z

    def decode_v(self, b_v: bytes) -> Ints:
        """v (V,) int32. Raises CorruptPayloadError."""
        v = rangecoder.decode(b_v, self._v_indices, self.v_tables)
        # One v has one b_v: what decodes but would be written otherwise did not come from an encoder.
        if rangecoder.encode(v, self._v_indices, self.v_tables) != b_v:
            raise CorruptPayloadError("the payload is damaged: b_v is not what an encoder writes")
        return v

    def decode_batch(self, streams: Sequence[tuple[bytes, bytes]], h: int, w: int) -> Ints:
        """(b_v, b_z) of B pictures on one grid -> z (B, N, h, w) int32. Raises CorruptPayloadError."""
        v = np.stack([self.decode_v(b_v) for b_v, _ in streams])
        index, offset = self.path(v, h, w)
        z = np.empty(index.shape, np.int32)
        for i, (_, b_z) in enumerate(streams):
            shifted = rangecoder.decode(b_z, index[i].ravel(), self.z_tables)
            z[i] = _wrap(shifted.reshape(index.shape[1:]).astype(np.int64) + offset[i])
        return z


def _wrap(numbers: NDArray[np.int64]) -> Ints:
    """Modulo 2**32 into int32, so that z - offset and back is the identity for every int32."""
    return numbers.astype(np.uint32).view(np.int32)
