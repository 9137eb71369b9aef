"""A fresh edge process that works on one core, timed: encoding for Isthmus, or running every whole network.

    encode  BUNDLE ROUNDS IMAGE...      reads an image file, runs the fronts, writes its bitstream
    local   NETWORKS ROUNDS IMAGE...    reads an image file, runs the whole networks; NETWORKS: see `LocalNetworks`

Run with `python -m`. Loads no torch, as an edge.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.latency.edge_process import LocalNetworks
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.process.process import announce


def timed(work: Callable[[bytes], object], rounds: int, paths: list[str]) -> None:
    """Announces the ms of each image, and the process's MB after them. The first image, which loads, is not counted."""
    images = [Path(path).read_bytes() for path in paths]
    work(images[0])
    ms = []
    for image in images * rounds:
        started = time.perf_counter()
        work(image)
        ms.append((time.perf_counter() - started) * 1e3)
    announce("timed", ms=ms, memory_mb=psutil.Process().memory_info().rss / 1e6)


def main(role: str, what: str, rounds: str, *paths: str) -> None:
    if role == "encode":
        timed(Encoder(Bundle.open(Path(what)), threads=1).encode, int(rounds), list(paths))
    else:
        timed(LocalNetworks(Path(what)).answer, int(rounds), list(paths))


if __name__ == "__main__":
    main(*sys.argv[1:])
