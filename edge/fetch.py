"""Downloads the edge half of a bundle, so that a box has all of it or nothing. Blocks; knows no camera.

    GET /bundles/F/edge -> .F.SHA256.part, where a download that was cut goes on -> SHA-256 -> unpacked aside
                        -> signature, every file's SHA-256, the networks loaded and run once -> renamed to its place

What fails leaves the place as it was: a cut or slow link, a full disk, a wrong key, a file that is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext

import httpx

from edge.trust import check_fingerprint
from shared.bundle import Bundle
from shared.edge_half import BYTES_MAX, unpack
from shared.errors import (
    BundleDamagedError,
    CloudUnreachableError,
    RemoteError,
    RemoteRejectedError,
    RequestError,
)
from shared.files import new_folder, sync_folder

ATTEMPTS = 6
ANSWER_MAX = 1 << 20  # bytes, of what is no file
DETAIL_MAX = 1000  # characters of why a cloud refuses
FIRST_WAIT_S = 0.5  # before the second attempt; doubled before each further one
_ETAG = re.compile(r'"([0-9a-f]{64})"')
_PART = re.compile(r"\.([0-9a-f]{8,64})\.[0-9a-f]{64}\.part")
_TOTAL = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
# Statuses of a cloud that may answer otherwise a moment later.
_PASSING = frozenset((408, 429, 502, 503, 504))


@dataclass(frozen=True)
class Source:
    """A cloud's HTTP. url: with its scheme. headers: sent with each request. verify: of its certificate."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    verify: SSLContext | bool = True
    timeout_s: float = 30.0

    def client(self) -> httpx.Client:
        headers = self.headers | {"Accept-Encoding": "identity"}
        return httpx.Client(base_url=self.url, headers=headers, verify=self.verify, timeout=self.timeout_s)


# Checks an unpacked bundle; raises BundleError or RequestError if it must not be run.
Check = Callable[[Path], None]


def fetch(
    source: Source,
    fingerprint: str | None,
    out: Path,
    check: Check,
    attempts: int = ATTEMPTS,
    wait: Callable[[float], None] = time.sleep,
) -> Bundle:
    """Makes `out` the edge half of a bundle. fingerprint: 8 or more digits; None for the cloud's default bundle.

    attempts: how often the download goes on after it was cut.

    Raises CloudUnreachableError, RemoteError, RemoteRejectedError, BundleError, RequestError or DataError; there is
    then nothing at `out`, and what has come is kept beside it for the next time.
    """
    if fingerprint is not None:
        check_fingerprint(fingerprint)
    with _reporting(out), source.client() as http:
        out.parent.mkdir(parents=True, exist_ok=True)
        mark = fingerprint or _default(http)
        archive = _download(http, mark, out.parent, attempts, wait)
        try:
            _install(archive, out, mark, check)
        finally:
            archive.unlink(missing_ok=True)  # what is whole and not sound would not become so
    return Bundle.open_without_added(out)


def _default(http: httpx.Client) -> str:
    """The fingerprint of the cloud's first bundle: digits alone, as it becomes part of a path and a URL."""
    with _reaching(http), http.stream("GET", "/v1/bundles") as answer:
        _check_status(answer)
        data = _body(answer)
    try:
        mark = str(json.loads(data)[0]["fingerprint"])
        check_fingerprint(mark)
    except (ValueError, LookupError, TypeError, RecursionError, RequestError):
        raise RemoteError(f"{http.base_url} lists no bundle; is it an Isthmus cloud?") from None
    return mark


def _body(answer: httpx.Response) -> bytes:
    """A short answer, as it is sent: decoded, a short one may grow beyond any memory. Raises RemoteError."""
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise RemoteError(f"{answer.request.url} compresses its answer, which was not asked for")
    data = bytearray()
    for piece in answer.iter_raw():
        data += piece
        if len(data) > ANSWER_MAX:
            raise RemoteError(f"{answer.request.url} answers with more than {ANSWER_MAX} bytes")
    return bytes(data)


def _download(
    http: httpx.Client, mark: str, folder: Path, attempts: int, wait: Callable[[float], None]
) -> Path:
    """The whole file, checked by its SHA-256."""
    pause = FIRST_WAIT_S
    for attempt in range(1, attempts + 1):
        try:
            part, sha256 = _go_on(http, mark, folder)
        except CloudUnreachableError as error:
            if attempt == attempts:
                kept = sum(path.stat().st_size for path in folder.glob(f".{mark}.*.part"))
                raise CloudUnreachableError(
                    f"the bundle could not be downloaded in {attempts} attempts: {error}; {kept} bytes are kept for "
                    "the next time"
                ) from None
            wait(pause)
            pause *= 2
            continue
        if _sha256(part) == sha256:
            return part
        part.unlink()
    raise RemoteError("what was downloaded is not what the cloud announced (its SHA-256 differs); try again")


def _go_on(http: httpx.Client, mark: str, folder: Path) -> tuple[Path, str]:
    """Fetches what is missing: the file and its SHA-256 as announced. Raises CloudUnreachableError if it is cut."""
    before = next(iter(sorted(folder.glob(f".{mark}.*.part"))), None)
    headers, had = {}, 0
    if before is not None and (had := before.stat().st_size):
        etag = before.name.removesuffix(".part").rpartition(".")[2]
        headers = {"Range": f"bytes={had}-", "If-Range": f'"{etag}"'}
    with _reaching(http), http.stream("GET", f"/bundles/{mark}/edge", headers=headers) as answer:
        if answer.status_code == 416 and before is not None:  # it was whole
            return before, before.name.removesuffix(".part").rpartition(".")[2]
        _check_status(answer)
        sha256, start, size = _announced(answer)
        part = folder / f".{mark}.{sha256}.part"
        if answer.status_code == 206 and (start != had or start >= size or part != before):
            if before is not None:
                before.unlink()  # the next attempt begins anew, and asks for no part
            raise RemoteError(
                f"the cloud sends the bytes from {start} of {size}, not those from {had} that were asked for"
            )
        if before is not None and before != part:
            before.unlink()
        _check_room(folder, start, size)
        _write(answer, part, start, size)
    return part, sha256


def _check_room(folder: Path, start: int, size: int) -> None:
    """Raises RequestError where the rest of the file and its unpacked copy do not fit the disk."""
    free, needed = shutil.disk_usage(folder).free, 2 * size - start
    if free < needed:
        raise RequestError(
            f"the bundle needs {needed} bytes, downloaded and unpacked; {folder} has {free} free; make room"
        )


def _write(answer: httpx.Response, part: Path, start: int, size: int) -> None:
    """Raises CloudUnreachableError if the file ends early, RemoteError if it is too long."""
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        for piece in answer.iter_raw():
            if file.tell() + len(piece) > size:
                raise RemoteError("the cloud sends more than it announced")
            file.write(piece)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
        if file.tell() < size:
            raise CloudUnreachableError("the connection ended early")


def _announced(answer: httpx.Response) -> tuple[str, int, int]:
    """SHA-256, first byte and whole size of an answer's file. Raises RemoteError."""
    etag = _ETAG.fullmatch(answer.headers.get("etag", ""))
    start, size = 0, answer.headers.get("content-length", "")
    if answer.status_code == 206:
        span = _TOTAL.fullmatch(answer.headers.get("content-range", ""))
        start, size = (int(span[1]), span[2]) if span else (0, "")
    if etag is None or not size.isdecimal() or "content-encoding" in answer.headers:
        raise RemoteError("the answer is no bundle's edge half; is it an Isthmus cloud?")
    if int(size) > BYTES_MAX:
        raise RemoteError(f"the edge half has {size} bytes; a box takes {BYTES_MAX} at most")
    return etag[1], start, int(size)


def _install(archive: Path, out: Path, mark: str, check: Check) -> None:
    with new_folder(out) as folder:
        unpack(archive, folder)
        bundle = Bundle.open_without_added(folder)
        if not bundle.manifest.fingerprint.startswith(mark):
            raise BundleDamagedError(
                f"the cloud sent bundle {bundle.manifest.fingerprint[:8]} in place of {mark[:8]}"
            )
        check(folder)
        sync_folder(folder)
    for left in out.parent.glob(f".{mark}.*.part"):
        left.unlink(missing_ok=True)


def _check_status(answer: httpx.Response) -> None:
    """Raises CloudUnreachableError for what may pass, RemoteRejectedError otherwise."""
    if answer.status_code in (200, 206):
        return
    try:
        detail = str(json.loads(_body(answer))["detail"])[:DETAIL_MAX]
    except (httpx.HTTPError, RemoteError, ValueError, LookupError, TypeError, RecursionError):
        detail = f"{answer.request.url} answers {answer.status_code}"
    if answer.status_code in _PASSING:
        raise CloudUnreachableError(detail)
    code = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}.get(
        answer.status_code, "UNKNOWN"
    )
    raise RemoteRejectedError(code, detail)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _reaching(http: httpx.Client) -> Iterator[None]:
    """Turns what can happen to a connection into CloudUnreachableError."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise RequestError(f"the cloud's URL is none: {error}", setting="cloud") from None
    except httpx.UnsupportedProtocol:
        raise RequestError("the cloud's URL begins with http:// or https://", setting="cloud") from None
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise CloudUnreachableError(f"{http.base_url} cannot be reached: {why}") from None


@contextmanager
def _reporting(out: Path) -> Iterator[None]:
    """Turns an OSError, such as of a full disk, into a RequestError."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}; nothing was changed") from None


def sweep(folder: Path, keep: set[str]) -> None:
    """Removes bundles from a folder of downloads, but for those named; unfinished downloads stay."""
    for path in folder.iterdir():
        if path.is_dir() and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def sweep_parts(folder: Path, keep: str) -> None:
    """Removes unfinished downloads from a folder, but for those of one fingerprint: nobody would go on with them."""
    for path in folder.glob(".*.part"):
        if (found := _PART.fullmatch(path.name)) and found[1] != keep:
            path.unlink(missing_ok=True)
