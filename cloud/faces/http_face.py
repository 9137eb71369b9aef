"""The HTTP face of the cloud: an image or a bitstream in, JSON out. Knows no model.

A client without an edge sends its image here; it is encoded in the server as an edge would, and answered the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from cloud.faces.http_bundles import Fingerprint, add_bundles
from cloud.faces.http_page import PageParts, add_page
from cloud.faces.http_rollout import add_rollout
from cloud.pipeline import Pipeline
from cloud.shelf.keeper import Keeper, Looked
from cloud.shelf.slot import BundleState
from shared.codec.bitstream import MAX_STREAM_BYTES, MEDIA_TYPE
from shared.errors import (
    BitstreamError,
    BundleMismatchError,
    DeadlineError,
    ImageError,
    ImageTooLargeError,
    NotAnImageError,
    NotReadyError,
    OverloadedError,
    PayloadTooLargeError,
    RequestError,
    StreamTooLargeError,
    UnknownBundleError,
    UnknownTaskError,
)
from shared.process.access import needs
from shared.process.auth import Gate, caller
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
from shared.process.http_access import access_guard, describe_access
from shared.process.http_parameters import AnalyzeParameters, analyze_parameters, no_query
from shared.process.metrics import Metrics
from shared.process.sockets import connections_allowed
from shared.types import Analysis, BundleInfo

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: answer_doc(),
    **transport_docs(),
    400: problem_doc(ImageError, BitstreamError),
    404: problem_doc(UnknownTaskError),
    409: problem_doc(BundleMismatchError),
    413: problem_doc(PayloadTooLargeError, ImageTooLargeError, StreamTooLargeError),
    415: problem_doc(NotAnImageError),
    422: problem_doc(RequestError),
    429: problem_doc(OverloadedError),
    503: problem_doc(NotReadyError),
    504: problem_doc(DeadlineError),
}


def build_app(
    pipeline: Callable[[], Pipeline],
    settings: HttpSettings,
    keeper: Callable[[], Keeper] | None = None,
    troubles: Callable[[], dict[str, str]] = dict,
    gate: Gate | None = None,
    cors_origins: Sequence[str] = (),
    metrics: Metrics | None = None,
    page: PageParts | None = None,
) -> FastAPI:
    """The cloud's HTTP API.

    pipeline: returns the pipeline, or raises NotReadyError while there is none. keeper: likewise, for what is asked and
    said of bundles. troubles: see `add_health`. gate: decides who may call; everybody without one. cors_origins: see
    `access_guard`. metrics: see `create_app`. page: what the page at / shows besides analyses.
    """
    app = create_app(
        "Isthmus cloud",
        "Answers vision tasks from a few hundred bytes an image.",
        4 * settings.requests_max,  # the sum of what 30 equal callers may have
        settings.bodies_bytes_max,
        inside=access_guard(
            gate or Gate(),
            cors_origins,
            settings.requests_max,
            max(1, (settings.connections_max or connections_allowed()) // 2),
        ),
        metrics=metrics,
    )
    add_health(app, pipeline, troubles)

    _add_analyze(app, pipeline, settings)
    add_page(app, pipeline, settings, ANSWERS, page)

    @app.get(
        "/v1/bundles",
        tags=["describe"],
        summary="The bundles served, their tasks, labels and quality levels",
        responses={422: ANSWERS[422], 503: ANSWERS[503]},
        dependencies=[Depends(no_query)],
    )
    @needs("analyze", "admin")
    async def bundles() -> list[BundleInfo]:
        return pipeline().infos()

    if keeper is not None:
        add_bundles(app, keeper)
        add_rollout(app, keeper)
        _add_admin(app, keeper)
    describe_access(app)
    return app


def _add_analyze(app: FastAPI, pipeline: Callable[[], Pipeline], settings: HttpSettings) -> None:
    @app.post(
        "/analyze",
        tags=["analyze"],
        summary="One image: an image file, or an Isthmus bitstream",
        responses=ANSWERS,
        response_model_exclude_none=True,
        openapi_extra=body_doc("image/*", MEDIA_TYPE),
    )
    @needs("analyze")
    async def analyze(
        request: Request,
        parameters: Annotated[AnalyzeParameters, Depends(analyze_parameters)],
    ) -> Analysis:
        """The body is the file as it is (no multipart). A bitstream has its own quality, so `quality` and `bytes_max`
        apply to images only."""
        caller().check_camera(parameters.camera)
        ready = pipeline()
        request_id = request.state.request_id
        ready.check_room(request_id)
        if media_type(request, MEDIA_TYPE) == MEDIA_TYPE:
            stream = await read_body(request, MAX_STREAM_BYTES)
            work = ready.analyze(
                stream,
                parameters.wanted,
                request_id,
                camera=parameters.camera,
                captured_at=parameters.captured_at,
            )
        else:
            image = await read_body(request, settings.image_bytes_max)
            work = ready.analyze_image(
                image,
                parameters.wanted,
                request_id,
                parameters.quality,
                parameters.bytes_max,
                parameters.camera,
                parameters.captured_at,
            )
        return with_vectors(await while_connected(request, work), parameters.vectors)


def _add_admin(app: FastAPI, keeper: Callable[[], Keeper]) -> None:
    asked: dict[str, Any] = {"tags": ["admin"], "dependencies": [Depends(no_query)]}
    problems: dict[int | str, dict[str, Any]] = {422: ANSWERS[422], 503: ANSWERS[503]}
    unknown = problems | {404: problem_doc(UnknownBundleError)}

    @app.post(
        "/admin/reload",
        summary="Look at the folders of bundles and added tasks now, also at what was refused",
        responses=problems,
        **asked,
    )
    @needs("admin")
    async def reload() -> Looked:
        return await keeper().look(again=True)

    @app.post(
        "/admin/bundles/{fingerprint}/load",
        summary="Load a bundle before a request needs it",
        responses=unknown,
        **asked,
    )
    @needs("admin")
    async def load(fingerprint: Fingerprint) -> BundleState:
        await keeper().shelf.load(fingerprint)
        return keeper().shelf.state(fingerprint)

    @app.post(
        "/admin/bundles/{fingerprint}/unload",
        summary="Unload a bundle; the next request that needs it loads it again",
        responses=unknown,
        **asked,
    )
    @needs("admin")
    async def unload(fingerprint: Fingerprint) -> BundleState:
        keeper().shelf.unload(fingerprint)
        return keeper().shelf.state(fingerprint)
