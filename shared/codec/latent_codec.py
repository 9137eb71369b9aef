"""Codes latents as bytes and back: v and z -> b_v and b_z -> v and z. Knows no network, no task and no file.

Both sides hold the same integers (`entropy.safetensors` of a bundle):

    encode    v --tables of v--> b_v        v -> exact path -> table of each z;   z - offset --tables--> b_z
    decode    b_v --tables of v--> v        v -> exact path -> table of each z;   b_z --tables--> z - offset

A codec with several quality levels has tables of v for each level; everything else is shared.

That is version 1. Frames of version 2 are coded by `shared.codec.frame_codec` with the same integers; only they use a
bundle's context.

Legend: N channels of z, h x w latent grid, V elements of v, L levels.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.codec import rangecoder
from shared.codec.context import SLICES, ContextModel, wrapped
from shared.codec.exact import MEAN_STEPS, SCALE_STEPS, Backend, ExactPath, Tensors
from shared.codec.rangecoder import Reader, SymbolReader, Tables
from shared.errors import CorruptPayloadError, RequestError

# Part of the fingerprint: what the same integers mean. Raise it when the coding order or the arithmetic changes.
CODING = "isthmus coding 1"

# The tensor that names the qualities of the levels, int64 (L,). Absent: one level.
LEVELS = "levels.qualities"

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Levels:
    """The quality levels that a codec was trained for. Every whole quality from the first to the last can be used.

    qualities: one per level, ascending, within 0..100. Raises ValueError otherwise.
    """

    qualities: tuple[int, ...]

    def __post_init__(self) -> None:
        known = self.qualities
        if not known or list(known) != sorted(set(known)) or not 0 <= known[0] <= known[-1] <= 100:
            raise ValueError(f"the qualities of levels must rise within 0..100, not {list(known)}")

    @property
    def lowest(self) -> int:
        return self.qualities[0]

    @property
    def highest(self) -> int:
        return self.qualities[-1]

    def __contains__(self, quality: int) -> bool:
        return self.lowest <= quality <= self.highest

    def __str__(self) -> str:
        return str(self.lowest) if len(self.qualities) == 1 else f"{self.lowest} to {self.highest}"

    def position(self, quality: int) -> float:
        """Returns a quality's position among the levels, 0..L-1, linear between two. Raises RequestError."""
        level = self._at_or_below(quality)
        if quality == self.qualities[level]:
            return float(level)
        below, above = self.qualities[level : level + 2]
        return level + (quality - below) / (above - below)

    def nearest(self, quality: int) -> int:
        """Returns the nearest level; of two equally near, the upper. Raises RequestError."""
        level = self._at_or_below(quality)
        if quality == self.qualities[level]:
            return level
        below, above = self.qualities[level : level + 2]
        return level + (2 * (quality - below) >= above - below)

    def _at_or_below(self, quality: int) -> int:
        if quality not in self:
            raise RequestError(f"quality {quality} is not one of this bundle's: {self}")
        return bisect_right(self.qualities, quality) - 1


def levels_of(tensors: Tensors) -> Levels | None:
    """Reads the levels from the tensors; None means one level, whatever its quality. Raises ValueError."""
    return Levels(tuple(tensors[LEVELS].ravel().tolist())) if LEVELS in tensors else None


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
    """Reads the tables stored as {prefix}.counts, .starts and .firsts."""
    counts, starts, firsts = (tensors[f"{prefix}.{part}"] for part in ("counts", "starts", "firsts"))
    return Tables(counts.astype(np.uint32), starts.astype(np.int64), firsts.astype(np.int32))


class LatentCodec:
    """The entropy coder of one bundle.

    reader: opens a payload; every one gives the same symbols.

    Wherever a quality is expected, None stands for the first level's. Raises ValueError, KeyError or InexactError
    if the tensors do not form a codec.
    """

    def __init__(
        self,
        tensors: Tensors,
        backend: Backend | None = None,
        reader: Callable[[bytes], SymbolReader] = Reader,
    ) -> None:
        self.path, self.reader = ExactPath(tensors, backend), reader
        self.v_tables = tables_of(tensors, "v.tables")
        self.z_tables = tables_of(tensors, "z.tables")
        self.levels = levels_of(tensors)
        self.context = ContextModel(tensors, self.path.maps_reach, backend) if SLICES in tensors else None
        # Differences from a reference have heavier tails than a latent by itself.
        self.p_tables = (
            tables_of(tensors, "p.tables") if self.context and self.context.inter else self.z_tables
        )
        count = len(self.levels.qualities) if self.levels else 1
        if len(self.v_tables) != count * self.path.v_size:
            raise ValueError(
                f"{len(self.v_tables)} tables for {self.path.v_size} elements of v at {count} levels"
            )
        for tables in (self.z_tables, self.p_tables):
            if len(tables) != MEAN_STEPS * SCALE_STEPS:
                raise ValueError(f"{len(tables)} tables for z; there are {MEAN_STEPS * SCALE_STEPS}")
        if self.context and self.context.passes.channels != self.path.groups:
            raise ValueError(f"a context of {self.context.passes.channels} channels for {self.path.groups}")
        self._v_indices = np.arange(len(self.v_tables), dtype=np.intp).reshape(count, -1)

    @property
    def channels(self) -> int:
        """N, the channels of z."""
        return self.path.groups

    def bounds(self) -> dict[str, tuple[int, str]]:
        """Each layer's proven largest partial sum, and the float type that it therefore runs in."""
        context = self.context.layers if self.context else {}
        return self.path.bounds() | {name: layer.proven for name, layer in context.items()}

    def encode(self, v: Ints, z: Ints, quality: int | None = None) -> tuple[bytes, bytes]:
        """Codes v (V,) and z (N, h, w), int32, as b_v and b_z; every int32 is codable. Raises RequestError."""
        index, offset = self.path(v[None], z.shape[1], z.shape[2])
        shifted = wrapped(z.astype(np.int64) - offset[0])
        b_v = rangecoder.encode(v, self.v_indices(quality), self.v_tables)
        return b_v, rangecoder.encode(shifted.ravel(), index[0].ravel(), self.z_tables)

    def bits(self, v: Ints, z: Ints, quality: int | None = None) -> tuple[float, float]:
        """Returns H_v and H_z, the ideal lengths in bits under the integer tables. Raises RequestError."""
        index, offset = self.path(v[None], z.shape[1], z.shape[2])
        shifted = wrapped(z.astype(np.int64) - offset[0])
        return (
            self.v_tables.bits(v, self.v_indices(quality)),
            self.z_tables.bits(shifted.ravel(), index[0].ravel()),
        )

    def decode(self, b_v: bytes, b_z: bytes, h: int, w: int, quality: int | None = None) -> Ints:
        """Decodes z (N, h, w) int32. Raises CorruptPayloadError."""
        z: Ints = self.decode_batch([(b_v, b_z)], h, w, [quality])[0]
        return z

    def decode_v(self, b_v: bytes, quality: int | None = None) -> Ints:
        """Decodes v (V,) int32. Raises CorruptPayloadError."""
        try:
            indices = self.v_indices(quality)
        except RequestError as error:
            raise CorruptPayloadError(f"the payload cannot be read: {error}") from None
        v = self.reader(b_v).get(indices, self.v_tables)
        # Each v has exactly one b_v: bytes that decode but would be encoded differently did not come from an encoder.
        if rangecoder.encode(v, indices, self.v_tables) != b_v:
            raise CorruptPayloadError("the payload is damaged: b_v is not what an encoder writes")
        return v

    def decode_batch(
        self,
        streams: Sequence[tuple[bytes, bytes]],
        h: int,
        w: int,
        qualities: Sequence[int | None] | None = None,
    ) -> Ints:
        """Decodes (b_v, b_z) of B images on one grid, each with its quality, into z (B, N, h, w) int32.

        Raises CorruptPayloadError.
        """
        qualities = [None] * len(streams) if qualities is None else qualities
        v = np.stack([self.decode_v(b_v, q) for (b_v, _), q in zip(streams, qualities, strict=True)])
        index, offset = self.path(v, h, w)
        z = np.empty(index.shape, np.int32)
        for i, (_, b_z) in enumerate(streams):
            shifted = self.reader(b_z).get(index[i].ravel(), self.z_tables)
            z[i] = wrapped(shifted.reshape(index.shape[1:]).astype(np.int64) + offset[i])
        return z

    def v_indices(self, quality: int | None) -> NDArray[np.intp]:
        """Returns the tables of v (V,) at a quality. Raises RequestError."""
        indices: NDArray[np.intp] = self._v_indices[
            0 if self.levels is None or quality is None else self.levels.nearest(quality)
        ]
        return indices
