"""The edge's local HTTP API: an image in, the cloud's answer out. Knows no gRPC."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from edge.pipeline import Pipeline
from edge.settings import EdgeSettings
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
from shared.process.http import (
    BytesMaxQuery,
    QualityQuery,
    VectorsQuery,
    add_health,
    answer_doc,
    body_doc,
    camera,
    captured_at,
    create_app,
    media_type,
    problem_doc,
    read_body,
    transport_docs,
    wanted,
    while_connected,
    with_vectors,
)
from shared.types import Analysis, Wanted

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


def build_app(pipeline: Callable[[], Pipeline], settings: EdgeSettings) -> FastAPI:
    """The edge's HTTP API. pipeline: returns the pipeline, or raises NotReadyError while there is none."""
    app = create_app(
        "Isthmus edge",
        "Encodes an image into a few hundred bytes and asks the cloud.",
        settings.requests_max,
        settings.bodies_bytes_max,
    )
    add_health(app, pipeline)

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
        asked: Annotated[Wanted, Depends(wanted)],
        taken_by: Annotated[str, Depends(camera)],
        taken_at: Annotated[datetime | None, Depends(captured_at)],
        quality: QualityQuery = None,
        bytes_max: BytesMaxQuery = None,
        vectors: VectorsQuery = "list",
    ) -> Analysis:
        """The body is the image file as it is (no multipart). Without X-Camera it is this edge's own camera."""
        ready = pipeline()
        media_type(request)
        image = await read_body(request, settings.image_bytes_max)
        work = ready.analyze(image, asked, request.state.request_id, quality, bytes_max, taken_by, taken_at)
        return with_vectors(await while_connected(request, work), vectors)

    return app
