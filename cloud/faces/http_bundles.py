"""Bundles over HTTP: what the shelf holds, and the edge half of each, for boxes to download.

    GET /bundles                       every folder: loaded, on disk or refused, with counts and memory
    GET /bundles/{fingerprint}/edge    one file (`shared.edge_half`), whole or from any byte on

The file's ETag is its SHA-256, so that whoever resumes a download knows that the rest belongs to what is there.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.responses import StreamingResponse

from cloud.shelf.keeper import Keeper
from cloud.shelf.slot import BundleState
from shared.bundle import Bundle
from shared.edge_half import MEDIA_TYPE, EdgeHalf
from shared.errors import BundleError, NotReadyError, RequestError, UnknownBundleError
from shared.process.access import needs
from shared.process.http import problem_doc
from shared.process.http_parameters import no_query

Fingerprint = Annotated[str, Path(pattern="^[0-9a-f]{8,64}$", description="8 or more first hex digits")]

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_KEPT_MAX = 64
_PROBLEMS: dict[int | str, dict[str, Any]] = {422: problem_doc(RequestError), 503: problem_doc(NotReadyError)}
_DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {}}, "description": "the whole file"},
    206: {"content": {MEDIA_TYPE: {}}, "description": "the bytes of the header Range"},
    404: problem_doc(UnknownBundleError),
    416: {"description": "the file has no such bytes"},
    **_PROBLEMS,
}


class EdgeHalves:
    """The files of bundles, each read through once, when it is first asked for."""

    def __init__(self) -> None:
        self._kept: dict[str, EdgeHalf] = {}

    async def of(self, bundle: Bundle) -> EdgeHalf:
        """Raises NotReadyError if the bundle on the disk is not the one that is served."""
        key = f"{bundle.path} {bundle.manifest.model_dump_json()}"
        if key not in self._kept:
            try:
                half = await asyncio.to_thread(EdgeHalf.of, bundle)
            except BundleError as error:
                raise NotReadyError(
                    f"bundle {bundle.manifest.name} cannot be downloaded now: {error}"
                ) from None
            while len(self._kept) >= _KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = half
        return self._kept[key]


def add_bundles(app: FastAPI, keeper: Callable[[], Keeper]) -> None:
    """keeper: returns it, or raises NotReadyError while there is none."""
    halves = EdgeHalves()

    @app.get(
        "/bundles",
        tags=["describe"],
        summary="The folders of bundles: what is loaded, what is used, what is refused and why",
        responses=_PROBLEMS,
        dependencies=[Depends(no_query)],
    )
    @needs("analyze", "admin")
    async def states() -> list[BundleState]:
        return keeper().states()

    @app.head("/bundles/{fingerprint}/edge", include_in_schema=False)
    @app.get(
        "/bundles/{fingerprint}/edge",
        tags=["describe"],
        summary="The edge half of a bundle, as one file",
        responses=_DOWNLOAD,
        response_class=Response,
        dependencies=[Depends(no_query)],
    )
    @needs("analyze", "admin")
    async def edge(request: Request, fingerprint: Fingerprint) -> Response:
        """Answers one Range (RFC 9110); If-Range with another ETag gets the whole file."""
        bundle = keeper().shelf.bundle(fingerprint)
        return _answer(request, await halves.of(bundle), bundle)


def _answer(request: Request, half: EdgeHalf, bundle: Bundle) -> Response:
    etag = f'"{half.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-transform",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(half.sha256)).decode()}:",
        "Content-Disposition": f'attachment; filename="{bundle.fingerprint.hex()}.tar"',
    }
    span = None
    if request.headers.get("if-range", etag) == etag:
        span = _span(request.headers.get("range", ""), half.size)
    start, stop = span or (0, half.size)
    if start >= stop:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{half.size}"})
    headers["Content-Length"] = str(stop - start)
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{half.size}"
    status = 206 if span else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=MEDIA_TYPE)
    return StreamingResponse(half.read(start, stop), status, headers, MEDIA_TYPE)


def _span(given: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one behind the last; None for a header that asks for nothing that is known here."""
    found = _RANGE.fullmatch(given.strip())
    if found is None or found.group(0) == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        return max(size - int(last), 0), size if int(last) else 0
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size
