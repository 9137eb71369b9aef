"""Damaged files of every format that arrives from outside: each is read, or ends in an Isthmus error, within limits.

    python -m support.fuzz_formats FORMAT... --count 1000 [--seed 0] [--memory-mb 512] [--seconds 60]
    python -m support.fuzz_formats FORMAT --atheris [options of libFuzzer]        (pip install atheris)

Sound files are those of tests/fuzz/corpus/FORMAT. The process limits its own memory to what it has after a sound file
plus --memory-mb, and ends with the stacks of all threads where one file takes longer than --seconds.
Prints a JSON object: how many files ended how; exit status 1 and the files themselves on failure.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from shared.errors import IsthmusError
from support.fuzz_streams import limit_memory

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
RUNS = (b"\0", b"\xff", b"\x7f", b"9", b" ", b"{", b"[", b'"')


def bitstream(data: bytes, _: Path) -> None:
    """Versions 1 and 2, as `isthmus inspect` and a server take them."""
    from shared.codec.frame import unpack_stream

    unpack_stream(data)


def log(data: bytes, _: Path) -> None:
    """A clip's frames, as `cloud decode` takes them."""
    from shared.codec.frame import Sent
    from shared.codec.session_log import LogReader

    for record in LogReader(io.BytesIO(data)):
        Sent.unpack(record.data)


def image(data: bytes, _: Path) -> None:
    from shared.image import read_image

    read_image(data, warn=lambda text: None)


def edge_half(data: bytes, work: Path) -> None:
    """What a box downloads: an archive of a bundle's small half."""
    from shared.edge_half import unpack

    folder = work / "half"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (work / "half.tar").write_bytes(data)
    unpack(work / "half.tar", folder)


def manifest(data: bytes, work: Path) -> None:
    """A bundle's manifest, which names and seals its other files."""
    from shared.bundle import Bundle

    (work / "manifest.json").write_bytes(data)
    Bundle.open(work)


def signature(data: bytes, work: Path) -> None:
    from shared.bundle import Bundle
    from shared.signing import verify

    folder = work / "signed"
    if not folder.exists():
        folder.mkdir()
        shutil.copy(CORPUS / "manifest" / "rooms.json", folder / "manifest.json")  # what was signed
    (folder / "model.sig").write_bytes(data)
    verify(Bundle.open(folder), CORPUS / "signature.pub")


def archive(data: bytes, work: Path) -> None:
    """The database of an archive that somebody else wrote."""
    from cloud.archive.records import read

    (work / "archive.sqlite3").write_bytes(data)
    for record in read(work):
        assert isinstance(record.data, bytes)


def encrypted(data: bytes, _: Path) -> None:
    """A record of an encrypted archive."""
    from cloud.archive.encryption import ArchiveKey, decrypt, use_key

    use_key(ArchiveKey("ab" * 32))
    decrypt(data, "door", "r1", 1)


FORMATS: dict[str, Callable[[bytes, Path], None]] = {
    one.__name__: one for one in (bitstream, log, image, edge_half, manifest, signature, archive, encrypted)
}


def sound_files(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def mutate(files: list[bytes], rng: random.Random) -> bytes:
    """A sound file with one to four changes: bits, runs, cuts, insertions, copies, the end of another."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            break
        # Half of the changes hit the beginning, where most formats have their sizes.
        at = rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data))
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice((1, 2, 4, 8, 40))
            data[at : at + size] = rng.choice(RUNS) * min(size, len(data) - at)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.choice((1, 3, 20, 400))]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 60)))
        elif kind == 5:
            data[at:at] = data[at : at + rng.choice((8, 100))] * rng.choice((1, 30))
        else:
            other = rng.choice(files)
            data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


def end_of(target: Callable[[bytes, Path], None], data: bytes, work: Path) -> tuple[bool, str]:
    """Whether a file ended as it may, and how."""
    try:
        target(data, work)
    except IsthmusError as error:
        return 0 < len(str(error)) < 600, type(error).__name__
    except BaseException as error:  # the very thing that must not happen, MemoryError among it
        return False, f"{type(error).__name__}: {error}"
    return True, "read"


def run(name: str, count: int, seed: int, seconds: float) -> dict[str, object]:
    target, files, rng = FORMATS[name], sound_files(name), random.Random(seed)
    ends: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as work:
        for _ in range(count):
            data = mutate(files, rng)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            sound, end = end_of(target, data, Path(work))
            ends[end] += 1
            if not sound:
                failures.append({"end": end, "file": data[:2000].hex()})
                if len(failures) == 5:
                    break
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"ends": dict(ends), "failures": failures}


def run_atheris(name: str, arguments: list[str]) -> None:
    """Guided by coverage, until it is stopped or finds something. New files go to build/fuzz/FORMAT."""
    import atheris  # type: ignore[import-not-found, unused-ignore]

    found = Path("build") / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp())

    def one(data: bytes) -> None:
        sound, end = end_of(FORMATS[name], data, work)
        if not sound:
            raise AssertionError(end)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *arguments, str(found), str(CORPUS / name)], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("formats", choices=FORMATS, nargs="+", metavar="FORMAT")
    parser.add_argument("--count", type=int, default=1000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-mb", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=60, help="the longest that one file may take")
    parser.add_argument("--atheris", action="store_true")
    options, more = parser.parse_known_args()
    if options.atheris:
        run_atheris(options.formats[0], more)
    faulthandler.enable()
    # Handled in C, so that code which never comes back to Python is shown and ended, too.
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    with tempfile.TemporaryDirectory() as work:
        for name in options.formats:
            for data in sound_files(name):
                assert end_of(FORMATS[name], data, Path(work)) == (True, "read"), (
                    f"{name}: sound files are sound"
                )
    limit_memory(options.memory_mb)
    reports = {name: run(name, options.count, options.seed, options.seconds) for name in options.formats}
    print(json.dumps(reports, indent=1))
    return 1 if any(report["failures"] for report in reports.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
