"""The edge's local HTTP API: an image in, the cloud's answer out. Knows no gRPC."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request

from edge.pipeline import Pipeline
from shared.errors import (
    REJECTED,
    CloudUnreachableError,
    DeadlineError,
    ImageError,
    ImageTooLargeError,
    NotAnImageError,
    NotReadyError,
    OverloadedError,
    PayloadTooLargeError,
    RemoteError,
    RequestError,
)
from shared.process.auth import is_loopback
from shared.process.config import HttpSettings
from shared.process.http import (
    add_health,
    answer_doc,
    body_doc,
    create_app,
    media_type,
    problem_doc,
    read_body,
    transport_docs,
    while_connected,
    with_vectors,
)
from shared.process.http_parameters import AnalyzeParameters, analyze_parameters
from shared.process.http_sites import own_sites_only
from shared.process.metrics import Metrics
from shared.types import Analysis

SESSION = (
    "a name for the images of one camera that follow each other: 1 to 64 characters of A-Z a-z 0-9 _ . -; the answer's "
    "request_id is then that of its frame"
)
_SESSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: answer_doc(),
    **transport_docs(),
    400: problem_doc(ImageError),
    401: problem_doc(REJECTED["UNAUTHENTICATED"]),
    403: problem_doc(REJECTED["PERMISSION_DENIED"]),
    404: problem_doc(REJECTED["NOT_FOUND"]),
    409: problem_doc(REJECTED["FAILED_PRECONDITION"]),
    413: problem_doc(PayloadTooLargeError, ImageTooLargeError),
    415: problem_doc(NotAnImageError),
    422: problem_doc(RequestError, REJECTED["INVALID_ARGUMENT"]),
    429: problem_doc(OverloadedError),
    502: problem_doc(RemoteError),
    503: problem_doc(NotReadyError, CloudUnreachableError),
    504: problem_doc(DeadlineError),
}


def build_app(
    pipeline: Callable[[], Pipeline],
    settings: HttpSettings,
    metrics: Metrics | None = None,
    troubles: Callable[[], dict[str, str]] = dict,
    host: str = "",
) -> FastAPI:
    """The edge's HTTP API.

    pipeline: may raise NotReadyError. metrics: see `create_app`. troubles: see `add_health`. host: what it listens on;
    on loopback, pages of other sites are refused.
    """
    app = create_app(
        "Isthmus edge",
        "Encodes an image into a few hundred bytes and asks the cloud.",
        settings.requests_max,
        settings.bodies_bytes_max,
        own_sites_only() if is_loopback(host) else (),
        metrics=metrics,
    )
    add_health(app, pipeline, troubles)

    @app.post(
        "/analyze",
        tags=["analyze"],
        summary="One image, encoded here and answered by the cloud",
        responses=ANSWERS,
        response_model_exclude_none=True,
        openapi_extra=body_doc("image/*", "application/octet-stream"),
    )
    async def analyze(
        request: Request,
        parameters: Annotated[AnalyzeParameters, Depends(analyze_parameters)],
        x_session: Annotated[str, Header(description=SESSION)] = "",
    ) -> Analysis:
        """The body is the image file as it is (no multipart). X-Camera is the edge's own camera if absent.

        A camera that sends one image after the other names a session, the same with each of them: they are then coded
        given each other, which costs a fraction of the bytes where little changes.
        """
        ready = pipeline()
        media_type(request)
        image = await read_body(request, settings.image_bytes_max)
        if _session(request, x_session, parameters):
            work = ready.analyze_in_session(
                x_session,
                image,
                parameters.wanted,
                parameters.quality,
                parameters.camera,
                parameters.captured_at,
            )
            return with_vectors(await while_connected(request, work), parameters.vectors)
        work = ready.analyze(
            image,
            parameters.wanted,
            request.state.request_id,
            parameters.quality,
            parameters.bytes_max,
            parameters.camera,
            parameters.captured_at,
        )
        return with_vectors(await while_connected(request, work), parameters.vectors)

    return app


def _session(request: Request, name: str, parameters: AnalyzeParameters) -> bool:
    """Whether the image belongs to a session. Raises RequestError."""
    if len(request.headers.getlist("X-Session")) > 1:
        raise RequestError("the header X-Session is sent more than once; send it once")
    if not name:
        return False
    if not _SESSION.fullmatch(name):
        raise RequestError("X-Session: a session's name has 1 to 64 characters of A-Z a-z 0-9 _ . -")
    if parameters.bytes_max is not None:
        raise RequestError("bytes_max: images of a session have one quality, not one size; give quality")
    return True
