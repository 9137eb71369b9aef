"""The fleet over HTTP: cameras, their archived frames with answers, and replays. Knows no model and no database.

A token of the scope "admin" sees the cameras that it may use; a replay of all cameras needs one that may use all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from cloud.page.fleet import LISTED_MAX, CameraState, Fleet, FleetState
from cloud.page.recorded import RECORDS_MAX, Recorded, RecordReader
from cloud.page.replays import Question, Replay, Replays
from cloud.pipeline import Pipeline
from shared.errors import (
    DataError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    RequestError,
    UnknownBundleError,
    UnknownTaskError,
)
from shared.process.access import needs
from shared.process.auth import caller
from shared.process.http import problem_doc, while_connected
from shared.process.http_parameters import no_query, only

Answers = dict[int | str, dict[str, Any]]

_INVALID: Answers = {422: problem_doc(RequestError)}
_RECORDS: Answers = {
    **_INVALID,
    400: problem_doc(DataError),
    429: problem_doc(OverloadedError),
    503: problem_doc(NotReadyError),
}
_REPLAY: Answers = {**_INVALID, 400: problem_doc(DataError), 404: problem_doc(NotFoundError)}

CameraName = Annotated[
    str, InPath(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$", description="as clients give it in X-Camera")
]
ReplayId = Annotated[str, InPath(max_length=64)]


def add_fleet(app: FastAPI, pipeline: Callable[[], Pipeline], fleet: Fleet, archive: Path | None) -> None:
    """Cameras, and their archived frames. archive: its folder; None keeps nothing."""

    @app.get(
        "/v1/fleet",
        tags=["fleet"],
        summary="The cameras that this server answers, and their last day",
        responses=_INVALID,
        response_model_exclude_none=True,
        dependencies=[Depends(only("search", "limit"))],
    )
    @needs("admin")
    async def cameras(
        search: Annotated[str, Query(max_length=64, description="part of a name, in any case")] = "",
        limit: Annotated[int, Query(ge=1, le=LISTED_MAX)] = 100,
    ) -> FleetState:
        return fleet.listed(search, limit, archive is not None, caller().may_use)

    @app.get(
        "/v1/fleet/{camera}",
        tags=["fleet"],
        summary="One camera and its last day",
        responses={**_INVALID, 404: problem_doc(NotFoundError)},
        response_model_exclude_none=True,
        dependencies=[Depends(no_query)],
    )
    @needs("admin")
    async def camera(camera: CameraName) -> CameraState:
        caller().check_camera(camera)
        found = fleet.camera(camera)
        if found is None:
            raise NotFoundError(f"camera {camera} has sent nothing here, or too long ago")
        return found

    _add_records(app, pipeline, archive)


def _add_records(app: FastAPI, pipeline: Callable[[], Pipeline], archive: Path | None) -> None:
    reader = RecordReader(archive) if archive is not None else None

    def records() -> RecordReader:
        if reader is None:
            raise DataError("this server keeps no archive; start it with --archive")
        return reader

    @app.get(
        "/v1/fleet/{camera}/records",
        tags=["fleet"],
        summary="A camera's newest archived frames with their answers",
        responses=_RECORDS,
        response_model_exclude_none=True,
        dependencies=[Depends(only("limit", "before"))],
    )
    @needs("admin")
    async def newest(
        request: Request,
        camera: CameraName,
        limit: Annotated[int, Query(ge=1, le=RECORDS_MAX)] = 12,
        before: Annotated[
            int | None, Query(ge=1, le=1 << 62, description="only those written before this record's id")
        ] = None,
    ) -> list[Recorded]:
        caller().check_camera(camera)
        work = records().newest(pipeline(), camera, limit, before)
        return await while_connected(request, work)

    @app.get(
        "/v1/fleet/{camera}/records/{id}",
        tags=["fleet"],
        summary="One archived frame with all answers and maps",
        responses={**_RECORDS, 404: problem_doc(NotFoundError)},
        response_model_exclude_none=True,
        dependencies=[Depends(no_query)],
    )
    @needs("admin")
    async def one(
        request: Request, camera: CameraName, id: Annotated[int, InPath(ge=1, le=1 << 62)]
    ) -> Recorded:
        caller().check_camera(camera)
        return await while_connected(request, records().one(pipeline(), camera, id))


def add_replays(app: FastAPI, pipeline: Callable[[], Pipeline], archive: Path | None) -> None:
    """A new question to the archive, one at a time. archive: see `add_fleet`."""
    keeper = Replays(archive) if archive is not None else None

    def replays() -> Replays:
        if keeper is None:
            raise DataError("this server keeps no archive; start it with --archive")
        return keeper

    @app.post(
        "/v1/replays",
        tags=["replays"],
        status_code=202,
        summary="Ask a task of what the archive holds of a time",
        responses={**_RECORDS, 404: problem_doc(UnknownTaskError, UnknownBundleError)},
        response_model_exclude_none=True,
        dependencies=[Depends(no_query)],
    )
    @needs("admin")
    async def start(question: Annotated[Question, Body()]) -> Replay:
        """One replay runs at a time, in small batches between those of the cameras."""
        caller().check_camera(question.camera)
        return await replays().start(question, pipeline())

    @app.get(
        "/v1/replays",
        tags=["replays"],
        summary="The replay that runs, or that ran last, if any",
        responses=_INVALID,
        response_model_exclude_none=True,
        dependencies=[Depends(no_query)],
    )
    @needs("admin")
    async def last() -> list[Replay]:
        found = None if keeper is None else keeper.last()
        return [] if found is None or not caller().may_use(found.question.camera) else [found]

    _add_replay(app, replays)


def _add_replay(app: FastAPI, replays: Callable[[], Replays]) -> None:
    """One replay by its id."""

    def found(id: str) -> Replay:
        replay = replays().find(id)
        caller().check_camera(replay.question.camera)
        return replay

    @app.get(
        "/v1/replays/{id}",
        tags=["replays"],
        summary="A replay's progress and newest lines",
        responses=_REPLAY,
        response_model_exclude_none=True,
        dependencies=[Depends(no_query)],
    )
    @needs("admin")
    async def progress(id: ReplayId) -> Replay:
        return found(id)

    @app.delete(
        "/v1/replays/{id}",
        tags=["replays"],
        summary="Cancel a replay; its lines so far stay",
        responses=_REPLAY,
        response_model_exclude_none=True,
        dependencies=[Depends(no_query)],
    )
    @needs("admin")
    async def cancel(id: ReplayId) -> Replay:
        return await replays().cancel(found(id).id)

    @app.get(
        "/v1/replays/{id}/results",
        tags=["replays"],
        summary="Every line so far, as `isthmus cloud replay` writes them",
        response_class=StreamingResponse,
        responses={**_REPLAY, 200: {"content": {"application/x-ndjson": {}}}},
        dependencies=[Depends(no_query)],
    )
    @needs("admin")
    async def results(id: ReplayId) -> StreamingResponse:
        headers = {"Content-Disposition": f'attachment; filename="replay-{found(id).id[:8]}.jsonl"'}
        return StreamingResponse(replays().results(id), 200, headers, "application/x-ndjson")
