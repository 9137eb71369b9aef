"""Damaged streams through the whole way in: unpack, fingerprint, decode. Meant to run in a process of its own.

    python -m support.fuzz_streams --count 5000 [--seed 0] [--entropy FILE.safetensors --grid 16x16] [--memory-mb 512]

Each stream must end in an Isthmus error or in a decoded z. The process limits its own memory to what it has after
loading plus --memory-mb, and ends with a traceback of all threads where one stream takes longer than --seconds.
Prints a JSON object: how many streams of each kind ended how; exit status 1 and the streams themselves on failure.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import resource
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared.codec.bitstream import FINGERPRINT_BYTES, MAX_GRID_CELLS, Bitstream
from shared.codec.latent_codec import LatentCodec, fingerprint
from shared.errors import BundleMismatchError, IsthmusError
from support.random_codec import Tensors, random_latents, random_tensors

Random = np.random.Generator


def receive(data: bytes, codec: LatentCodec, mark: bytes) -> np.ndarray:
    """What every receiver does with bytes from a network."""
    stream = Bitstream.unpack(data)
    if stream.fingerprint != mark:
        raise BundleMismatchError(stream.fingerprint.hex(), mark.hex())
    return codec.decode(stream.b_v, stream.b_z, stream.h, stream.w, stream.quality)


@dataclass(frozen=True)
class Corpus:
    """Sound streams, parsed and as bytes."""

    streams: list[Bitstream]
    packed: list[bytes]

    @classmethod
    def make(cls, tensors: Tensors, codec: LatentCodec, grid: tuple[int, int], seed: int) -> Corpus:
        mark = fingerprint(tensors)[:FINGERPRINT_BYTES]
        h, w = grid
        streams = []
        for shape in (grid, grid, grid, (max(1, h // 2), w), (1, 1)):
            v, z = random_latents(tensors, 2, shape, seed + len(streams), wild=0.01)
            quality = codec.levels.highest - len(streams) if codec.levels else 0
            streams += [
                Bitstream(mark, quality, *shape, *codec.encode(*pair, quality))
                for pair in zip(v, z, strict=True)
            ]
        return cls(streams, [stream.pack() for stream in streams])

    def one(self, rng: Random) -> bytes:
        return self.packed[rng.integers(len(self.packed))]

    def stream(self, rng: Random) -> Bitstream:
        return self.streams[rng.integers(len(self.streams))]


def _bytes(rng: Random, most: int) -> bytes:
    return rng.bytes(int(rng.integers(0, most + 1)))


def flipped(c: Corpus, rng: Random) -> bytes:
    """1 to 8 bits the other way."""
    data = bytearray(c.one(rng))
    for bit in rng.integers(0, 8 * len(data), rng.integers(1, 9)):
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def overwritten(c: Corpus, rng: Random) -> bytes:
    """A run of bytes replaced: by noise, zeros or ones."""
    data = bytearray(c.one(rng))
    at = int(rng.integers(len(data)))
    size = int(min(len(data) - at, rng.integers(1, 40)))
    data[at : at + size] = (rng.bytes(size), bytes(size), b"\xff" * size)[rng.integers(3)]
    return bytes(data)


def truncated(c: Corpus, rng: Random) -> bytes:
    data = c.one(rng)
    return data[: rng.integers(len(data))]


def extended(c: Corpus, rng: Random) -> bytes:
    return c.one(rng) + (_bytes(rng, 50) or b"\0")


def shifted(c: Corpus, rng: Random) -> bytes:
    """A few bytes put in or taken out."""
    data = c.one(rng)
    at = int(rng.integers(len(data)))
    return data[:at] + (_bytes(rng, 4) + data[at:] if rng.random() < 0.5 else data[at + rng.integers(1, 5) :])


def spliced(c: Corpus, rng: Random) -> bytes:
    """The beginning of one and the end of another."""
    one, other = c.one(rng), c.one(rng)
    return one[: rng.integers(len(one))] + other[rng.integers(len(other)) :]


def noise(c: Corpus, rng: Random) -> bytes:
    """Random bytes, most behind a true beginning."""
    return c.one(rng)[: rng.integers(0, 12)] + _bytes(rng, 200)


def swapped(c: Corpus, rng: Random) -> bytes:
    """b_v of one with b_z of another, and both with the grid of either."""
    one, other = c.stream(rng), c.stream(rng)
    return replace(one, b_z=other.b_z, h=other.h, w=one.w).pack()


def foreign(c: Corpus, rng: Random) -> bytes:
    """Sound but for one header field."""
    stream = c.stream(rng)
    if rng.random() < 0.5:
        return replace(stream, fingerprint=rng.bytes(FINGERPRINT_BYTES)).pack()
    return replace(stream, quality=int(rng.integers(101))).pack()


def payload(c: Corpus, rng: Random) -> bytes:
    """A true header and sound sizes around payloads that no encoder wrote."""
    stream = c.stream(rng)
    fills: tuple[Callable[[int], bytes], ...] = (rng.bytes, bytes, lambda n: b"\xff" * n)
    b_z = fills[rng.integers(3)](int(rng.integers(0, 400)))
    b_v = stream.b_v if rng.random() < 0.7 else fills[rng.integers(3)](int(rng.integers(0, 40)))
    return replace(stream, b_v=b_v, b_z=b_z).pack()


def recut(c: Corpus, rng: Random) -> bytes:
    """One payload shorter or longer, told truly by the header."""
    stream = c.stream(rng)
    name = ("b_v", "b_z")[rng.integers(2)]
    old = getattr(stream, name)
    new = old[: rng.integers(len(old) + 1)] if rng.random() < 0.6 else old + (_bytes(rng, 20) or b"\0")
    return replace(stream, **{name: new}).pack()


def other_grid(c: Corpus, rng: Random) -> bytes:
    """Any legal grid, up to the largest, over a payload made for another."""
    h = int(2 ** rng.uniform(0, 12)) if rng.random() < 0.1 else int(rng.integers(1, 24))
    w = int(rng.integers(1, 4096)) if rng.random() < 0.1 else int(rng.integers(1, 24))
    return replace(c.stream(rng), h=h, w=min(w, MAX_GRID_CELLS // h)).pack()


# Kinds that leave a sound CRC, and kinds whose CRC is made right on purpose half of the time.
SOUND = (swapped, foreign, payload, recut, other_grid)
BROKEN = (flipped, overwritten, truncated, extended, shifted, spliced, noise)


def resealed(data: bytes) -> bytes:
    """With the CRC made right on purpose."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def mutate(c: Corpus, rng: Random) -> tuple[str, bytes]:
    kinds = SOUND + BROKEN
    kind = kinds[rng.integers(len(kinds))]
    data = kind(c, rng)
    if kind in BROKEN and rng.random() < 0.5:
        return kind.__name__ + " and resealed", resealed(data)
    return kind.__name__, data


def run(
    codec: LatentCodec, corpus: Corpus, mark: bytes, count: int, seed: int, seconds: float
) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    slowest = 0.0
    for _ in range(count):
        kind, data = mutate(corpus, rng)
        kinds[kind] += 1
        signal.setitimer(signal.ITIMER_REAL, seconds)
        started = time.perf_counter()
        try:
            z = receive(data, codec, mark)
            sound = z.dtype == np.int32 and z.shape[0] == codec.channels and z.ndim == 3
            end = "decoded" if sound else f"decoded to {z.dtype} {z.shape}"
        except IsthmusError as error:
            sound = "\n" not in str(error) and 0 < len(str(error)) < 400
            end = type(error).__name__
        except BaseException as error:  # the very thing that must not happen, MemoryError among it
            sound, end = False, f"{type(error).__name__}: {error}"
        slowest = max(slowest, time.perf_counter() - started)
        ends[end] += 1
        if not sound:
            failures.append({"kind": kind, "end": end, "stream": data[:1000].hex()})
            if len(failures) == 5:
                break
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {"ends": dict(ends), "kinds": dict(kinds), "slowest_s": round(slowest, 3), "failures": failures}


def _status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def limit_memory(more_mb: int) -> None:
    """No more data than now and `more_mb`. RLIMIT_DATA counts anonymous memory of mmap, too, but not code."""
    limit = (_status_kb("VmData") << 10) + (more_mb << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--entropy", type=Path, help="a bundle's entropy.safetensors; none: a random codec")
    parser.add_argument("--grid", default="5x4", help="of the sound streams")
    parser.add_argument("--memory-mb", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=60, help="the longest that one stream may take")
    options = parser.parse_args()

    faulthandler.enable()
    # The alarm is handled in C, so that code which never comes back to Python is shown and ended, too.
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    if options.entropy:
        from safetensors.numpy import load_file

        tensors = load_file(options.entropy)
    else:
        tensors = random_tensors(5, qualities=(10, 40, 60))
    codec = LatentCodec(tensors)
    h, w = (int(side) for side in options.grid.split("x"))
    corpus = Corpus.make(tensors, codec, (h, w), options.seed)
    mark = fingerprint(tensors)[:FINGERPRINT_BYTES]
    for stream, data in zip(corpus.streams, corpus.packed, strict=True):
        assert receive(data, codec, mark).shape == (
            codec.channels,
            stream.h,
            stream.w,
        )  # sound ones are sound
    limit_memory(options.memory_mb)
    report = run(codec, corpus, mark, options.count, options.seed, options.seconds)
    report["peak_mb"] = _status_kb("VmHWM") >> 10  # not ru_maxrss: that begins with what the parent had
    print(json.dumps(report, indent=1))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
