"""The routes that the page at / asks of the cloud, beside those that every client has. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request

from cloud.faces.http_fleet import add_fleet, add_replays
from cloud.faces.web_files import add_web_files
from cloud.page.fleet import Fleet
from cloud.page.inspection import Inspection, Inspector
from cloud.pipeline import Pipeline
from shared.process.access import needs
from shared.process.auth import caller
from shared.process.config import HttpSettings
from shared.process.http import body_doc, media_type, read_body, while_connected
from shared.process.http_parameters import only

Answers = dict[int | str, dict[str, Any]]


@dataclass(frozen=True)
class PageParts:
    """What the page shows of a server besides analyses. archive: its folder; None keeps nothing."""

    fleet: Fleet
    archive: Path | None = None


def add_page(
    app: FastAPI,
    pipeline: Callable[[], Pipeline],
    settings: HttpSettings,
    answers: Answers,
    parts: PageParts | None = None,
) -> None:
    """The page's files and its routes. answers: the problems of an analysis, for OpenAPI. parts: None for no fleet."""
    add_web_files(app)
    _add_inspect(app, pipeline, settings, {status: answers[status] for status in answers if status != 200})
    if parts is not None:
        add_fleet(app, pipeline, parts.fleet, parts.archive)
        add_replays(app, pipeline, parts.archive)


def _add_inspect(
    app: FastAPI, pipeline: Callable[[], Pipeline], settings: HttpSettings, problems: Answers
) -> None:
    inspector = Inspector()

    @app.post(
        "/v1/inspect",
        tags=["page"],
        summary="One image: answers as pictures, bits by cell, and what JPEG would take",
        responses=problems,
        response_model_exclude_none=True,
        openapi_extra=body_doc("image/*"),
        dependencies=[Depends(only("quality", "fitted", "bundle"))],
    )
    @needs("analyze")
    async def inspect(
        request: Request,
        quality: Annotated[
            int | None, Query(ge=0, le=100, description="quality to encode with; none: the bundle's default")
        ] = None,
        fitted: Annotated[
            bool, Query(description="the body is the `image` of an earlier answer, to be taken as it is")
        ] = False,
        bundle: Annotated[
            str, Query(pattern="^([0-9a-f]{8})?$", description="its fingerprint; none: the default")
        ] = "",
    ) -> Inspection:
        """The body is the image file as it is. Every task is answered; nothing is archived.

        To see another quality, send the `image` of the first answer with `fitted`: it is smaller than most files, and
        gives the same bitstream.
        """
        caller().check_camera("")  # the image belongs to no camera
        ready = pipeline()
        media_type(request)
        data = await read_body(request, settings.image_bytes_max)
        work = inspector.inspect(ready, data, request.state.request_id, quality, fitted, bundle)
        return await while_connected(request, work)
