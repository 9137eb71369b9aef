"""The edge half of a bundle as one file, the same bytes wherever it is made: what a box downloads.

An uncompressed tar (ustar) of regular files, in this order, each with mode 0644, no owner and time 0:

    manifest.json    the bundle's, which lists the SHA-256 of every other file
    model.sig        if the bundle is signed
    edge.onnx, extractor.onnx, entropy.safetensors

then two empty blocks. Parts of it can be read without making it, so that a download can be resumed. Unpacking takes
these names alone, regular files alone, and bounded sizes; it trusts nothing that it has not checked.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shared.bundle import EDGE, ENTROPY, EXTRACTOR, MANIFEST, SIGNATURE, Bundle
from shared.errors import BundleDamagedError

MEDIA_TYPE = "application/x-tar"
BYTES_MAX = 2 << 30  # of the whole file
SMALL_MAX = 16 << 20  # of the manifest, and of the signature
_BLOCK = 512
_CHUNK = 1 << 18
_SMALL = (MANIFEST, SIGNATURE)
_LARGE = (EDGE, EXTRACTOR, ENTROPY)


@dataclass(frozen=True)
class _Part:
    """A piece of the file from `start`: bytes, or a file on the disk of `size` bytes."""

    start: int
    size: int
    source: bytes | Path


@dataclass(frozen=True)
class EdgeHalf:
    """The file of one bundle. size: in bytes. sha256: of all its bytes, hex."""

    size: int
    sha256: str
    parts: tuple[_Part, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> EdgeHalf:
        """Reads and checks every file. Blocks. Raises BundleDamagedError."""
        if Bundle.open_without_added(bundle.path).manifest != bundle.manifest:
            raise BundleDamagedError(f"{bundle.path} has changed since it was loaded")
        parts: list[_Part] = []
        digest, at = hashlib.sha256(), 0

        def add(data: bytes, source: bytes | Path) -> None:
            nonlocal at
            digest.update(data)
            parts.append(_Part(at, len(data), source))
            at += len(data)

        for name, data in _files(bundle):
            head, tail = _header(name, len(data)), bytes(-len(data) % _BLOCK)
            add(head, head)
            add(data, data if name in _SMALL else bundle.path / name)
            add(tail, tail)
        add(bytes(2 * _BLOCK), bytes(2 * _BLOCK))
        return cls(at, digest.hexdigest(), tuple(parts))

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, in pieces. Raises OSError."""
        for part in self.parts:
            low, high = max(start - part.start, 0), min(stop - part.start, part.size)
            if low >= high:
                continue
            if isinstance(part.source, bytes):
                yield part.source[low:high]
                continue
            with part.source.open("rb") as file:
                file.seek(low)
                while low < high:
                    piece = file.read(min(_CHUNK, high - low))
                    if not piece:
                        raise OSError(f"{part.source} has become shorter")
                    low += len(piece)
                    yield piece


def unpack(archive: Path, folder: Path) -> None:
    """Writes the files of an edge half into a folder, each synced. Raises BundleDamagedError, OSError."""
    seen: set[str] = set()
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                _check_member(member, seen)
                seen.add(member.name)
                source = tar.extractfile(member)
                assert source is not None  # as for every regular file
                _copy(source, folder / member.name, member.size)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise BundleDamagedError(f"{archive} is no edge half of a bundle: {error}") from None
    missing = {MANIFEST, *_LARGE} - seen
    if missing:
        raise BundleDamagedError(f"{archive} is no edge half of a bundle: it has no {min(missing)}")


def _check_member(member: tarfile.TarInfo, seen: set[str]) -> None:
    """Raises ValueError."""
    if member.name not in (*_SMALL, *_LARGE) or member.name in seen:
        raise ValueError(f"it has a file {member.name[:80]!r}, which does not belong in it")
    if member.type != tarfile.REGTYPE:
        raise ValueError(f"{member.name} is not a regular file")
    if member.size > (SMALL_MAX if member.name in _SMALL else BYTES_MAX):
        raise ValueError(f"{member.name} has {member.size} bytes")


def _copy(source: IO[bytes], path: Path, size: int) -> None:
    with path.open("xb") as file:
        while piece := source.read(min(_CHUNK, size)):
            file.write(piece)
            size -= len(piece)
        if size:
            raise EOFError(f"{path.name} is cut off")
        file.flush()
        os.fsync(file.fileno())


def _files(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    for name in _SMALL:
        path = bundle.path / name
        if name != MANIFEST and not path.exists():
            continue
        try:
            yield name, path.read_bytes()
        except OSError as error:
            raise BundleDamagedError(f"cannot read {path}: {error.strerror}") from None
    for name in _LARGE:
        yield name, bundle.read(name)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)
