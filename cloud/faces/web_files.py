"""The page's files, as they lie in cloud/web: public, small, held in memory. Knows no API.

The page takes nothing from anywhere else: its policy forbids it in the browser, and there is no build step.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from shared.process.access import public

FOLDER = Path(__file__).parents[1] / "web"
PAGE = "index.html"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}

# Scripts and styles from files of ours alone; blob: for pictures that came as JSON or from the camera.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",  # asked again each time, answered 304: a new release shows at once
}


@dataclass(frozen=True)
class WebFile:
    data: bytes
    media_type: str

    @property
    def tag(self) -> str:
        """Its ETag."""
        return f'"{hashlib.sha256(self.data).hexdigest()[:24]}"'


def read_files(folder: Path = FOLDER) -> dict[str, WebFile]:
    """Every file of a kind that the page has, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): WebFile(path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES and path.is_file()
    }


def add_web_files(app: FastAPI) -> None:
    """GET and HEAD of / and of /web/...: the page. They need no token; what the page asks for does."""
    files = read_files()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @public
    async def page(request: Request) -> Response:
        return _answer(request, files.get(PAGE))

    @app.api_route("/web/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    @public
    async def file(request: Request, path: str) -> Response:
        return _answer(request, files.get(path))


def _answer(request: Request, file: WebFile | None) -> Response:
    """Raises HTTPException 404."""
    if file is None:
        raise HTTPException(404, "Not Found")
    headers = {**HEADERS, "ETag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.data, 200, headers, file.media_type)
