"""What the integers of a bundle cost: sizes in bits and bytes of the trained and of the deployed model.

The report compares, on the same images, the bits of the float model that was trained, the bits of the integer model
that is deployed, and the bytes that the range coder wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.codec.bitstream import FINGERPRINT_BYTES
from shared.codec.frame import Frame, FrameType, Packet
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.types import Frozen
from train.codec.split_networks import SplitNetworks


class LevelReport(Frozen):
    """Mean sizes per image at one level.

    bits: the ideal. bytes: what was written; the total counts the container too. decoded: how many images gave exactly
    their z when decoded.
    """

    float_bits_v: float
    float_bits_z: float
    integer_bits_v: float
    integer_bits_z: float
    bytes_v: float
    bytes_z: float
    bytes_total: float
    decoded: int

    @property
    def integer_excess(self) -> float:
        """The integer model's bits over the float model's, less one."""
        return (self.integer_bits_v + self.integer_bits_z) / (self.float_bits_v + self.float_bits_z) - 1

    @property
    def coded_excess(self) -> float:
        """Bytes of b_v and b_z over the integer model's ideal, less one."""
        return 8 * (self.bytes_v + self.bytes_z) / (self.integer_bits_v + self.integer_bits_z) - 1


class Report(Frozen):
    """Sizes by quality, over `pictures` images. bounds: of the exact path's layers, with the float type of each."""

    pictures: int
    levels: dict[int, LevelReport]
    bounds: dict[str, tuple[int, str]]


class Latents(NamedTuple):
    """v (M, V) and z (M, N, h, w) of all images at one level, and the float model's bits of v and z in sum."""

    v: Tensor
    z: Tensor
    bits: NDArray[np.float64]


@torch.no_grad()
def latents_of(model: SplitNetworks, u: Tensor, level: int, levels: int) -> Latents:
    """The rounded latents of u (M, N, h, w) at a level of 0..levels-1."""
    core = model.codec.core
    vs, zs, bits = [], [], np.zeros(2)
    for piece in torch.split(u, 64):
        position = torch.full((len(piece),), float(level)) if levels > 1 else None
        z = core.z_of(piece, position).round()
        rate = core.rate(z, z, position)
        bits += [float(rate.bits_v.sum()), float(rate.bits_z.sum())]
        vs.append(core.extractor(z).round())
        zs.append(z)
    return Latents(torch.cat(vs), torch.cat(zs), bits)


def report_of(
    codec: LatentCodec,
    fingerprint: bytes,
    qualities: Sequence[int],
    levels: Sequence[Latents],
) -> Report:
    """Encodes and decodes the latents of all levels, and sums up their sizes."""
    return Report(
        pictures=len(levels[0].v),
        levels={
            quality: _level_report(codec, fingerprint, quality, level)
            for quality, level in zip(qualities, levels, strict=True)
        },
        bounds=codec.bounds(),
    )


def _level_report(codec: LatentCodec, fingerprint: bytes, quality: int, level: Latents) -> LevelReport:
    size, frames = len(level.v), FrameCodec(codec)
    bits, sizes, decoded = np.zeros(2), np.zeros(3), 0
    for v, z in zip(level.v.numpy().astype(np.int32), level.z.numpy().astype(np.int32), strict=True):
        latent = Latent(v, z, (z.shape[1], z.shape[2]), quality)
        bits += frames.bits(latent)
        payload, v_bytes = frames.encode(latent), frames.v_bytes(v, quality)
        packet = Packet(fingerprint[:FINGERPRINT_BYTES], Frame(FrameType.I, quality, True, True, payload))
        sizes += [v_bytes, len(payload) - v_bytes, len(packet.pack())]
        (back,) = frames.decode([Coded(payload, latent.grid, quality)])
        decoded += int(isinstance(back, Latent) and back.digest == latent.digest)
    return LevelReport(
        float_bits_v=level.bits[0] / size,
        float_bits_z=level.bits[1] / size,
        integer_bits_v=bits[0] / size,
        integer_bits_z=bits[1] / size,
        bytes_v=sizes[0] / size,
        bytes_z=sizes[1] / size,
        bytes_total=sizes[2] / size,
        decoded=decoded,
    )
