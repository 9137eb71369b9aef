"""Decodes bitstreams in a process of its own and prints the SHA-256 of all z.

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
    from shared.codec.bitstream import Bitstream
    from shared.codec.latent_codec import LatentCodec

    chosen = None
    if backend == "torch":
        import torch

        from cloud.engine.exact_torch import TorchBackend

        torch.set_num_threads(int(threads))
        chosen = TorchBackend()
    codec = LatentCodec(Bundle.open(bundle).entropy(), chosen)
    unpacked = [Bitstream.unpack(data) for data in split_streams(Path(streams).read_bytes())]
    digest = hashlib.sha256()
    for start in range(0, len(unpacked), int(batch)):
        part = unpacked[start : start + int(batch)]
        pairs, qualities = [(s.b_v, s.b_z) for s in part], [s.quality for s in part]
        z = codec.decode_batch(pairs, part[0].h, part[0].w, qualities)
        digest.update(z.astype("<i4").tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
