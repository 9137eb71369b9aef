"""Decodes bitstreams in a process of its own and prints the SHA-256 of all latents: first frames I, then frames P.

    python decode_digest.py BUNDLE STREAMS BATCH numpy|torch THREADS

STREAMS: each bitstream behind its length, 4 bytes, little endian.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def split_streams(data: bytes) -> list[bytes]:
    streams, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        streams.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return streams


def join_streams(streams: list[bytes]) -> bytes:
    return b"".join(len(s).to_bytes(4, "little") + s for s in streams)


def main(bundle: str, streams: str, batch: str, backend: str, threads: str) -> None:
    from shared.bundle import Bundle
    from shared.codec.frame import NAMED_BYTES, FrameType, Packet
    from shared.codec.frame_codec import Coded, FrameCodec, Latent
    from shared.codec.latent_codec import LatentCodec

    chosen = None
    if backend == "torch":
        import torch

        from cloud.engine.exact_torch import TorchBackend

        torch.set_num_threads(int(threads))
        chosen = TorchBackend()
    opened = Bundle.open(bundle)
    codec = FrameCodec(LatentCodec(opened.entropy(), chosen))
    grid = tuple(opened.manifest.codec["grid"])
    packets = [Packet.unpack(data) for data in split_streams(Path(streams).read_bytes())]
    known: dict[bytes | None, Latent] = {}
    digest = hashlib.sha256()
    for given in (False, True):
        chosen_type = FrameType.P if given else FrameType.I
        mine = [packet for packet in packets if packet.frame.type is chosen_type]
        for start in range(0, len(mine), int(batch)):
            coded = [
                Coded(p.frame.payload, grid, p.frame.quality, True, True, known.get(p.reference), given)
                for p in mine[start : start + int(batch)]
            ]
            for latent in codec.decode(coded):
                assert isinstance(latent, Latent), latent
                known[latent.digest[:NAMED_BYTES]] = latent
                digest.update(latent.digest)
    print(digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
