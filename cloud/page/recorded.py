"""A camera's records with their answers: from the archive, through the engine that serves. Knows no transport.

newest records -> Chunks: frames that need others are decoded -> Pipeline.ask -> lines, or views with maps
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import Field

from cloud.archive.chunks import Chunks, Opened
from cloud.archive.frames import FrameReader, Known
from cloud.archive.overview import newest, one_record
from cloud.archive.records import Head, Record, count_earlier_in_chunk, reading
from cloud.engine.batch_work import Served, base_tasks_of
from cloud.engine.batcher import within
from cloud.page.fleet import mark_of
from cloud.page.inspection import TaskView, every_task, view_all
from cloud.pipeline import Pipeline
from shared.codec.bitstream import Bitstream
from shared.codec.frame_codec import Coded, Latent
from shared.errors import DataError, IsthmusError, NotFoundError, exit_of
from shared.frozen import Frozen, Moment
from shared.types import TaskQuery

RECORDS_MAX = 24  # at once
EARLIER_MAX = 1000  # frames to decode before one can be; an edge sends a frame that needs none once a minute


class Recorded(Frozen):
    """One archived frame. views: its answers, by task; without maps in lists. error: why it has none."""

    id: int = Field(description="its place in the order of writing")
    request_id: str
    received_at: Moment
    captured_at: Moment | None = None
    bytes: int
    frame: str = Field(default="", description="its type: I, I base, I refinement, P or S")
    quality: int | None = None
    views: dict[str, TaskView] = Field(default={})
    error: str = ""


class RecordReader:
    """Reads and answers records, one list at a time. path: the archive's folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="records")

    async def newest(
        self, pipeline: Pipeline, camera: str, limit: int, before: int | None = None
    ) -> list[Recorded]:
        """A camera's newest records with their answers, without maps. before: see `newest`.

        Raises DataError, or DeadlineError.
        """
        loop = asyncio.get_running_loop()
        limit = min(limit, RECORDS_MAX)
        records = await loop.run_in_executor(self._thread, newest, self._path, camera, limit, before)
        return await self._all(pipeline, records, maps=False)

    async def one(self, pipeline: Pipeline, camera: str, id_: int) -> Recorded:
        """One record with all answers and maps. Raises DataError, or NotFoundError if the camera has no such record."""
        loop = asyncio.get_running_loop()
        record = await loop.run_in_executor(self._thread, one_record, self._path, id_)
        if record is None or record.camera != camera:
            raise NotFoundError(f"camera {camera} has no record {id_} here; it was deleted, or never kept")
        return (await self._all(pipeline, [record], maps=True))[0]

    async def _all(self, pipeline: Pipeline, records: list[Record], maps: bool) -> list[Recorded]:
        """The records with their answers, in their order; each is asked of the bundle that it was made with."""
        answered: dict[int, Recorded] = {}
        for mark in dict.fromkeys(mark_of(record.data) for record in records):
            own = [record for record in records if mark_of(record.data) == mark]
            try:
                async with pipeline.bundles.use(bytes.fromhex(mark)) as served:
                    found = await self._of_bundle(pipeline, served, own, maps)
            except IsthmusError as error:
                found = [_shown(Opened(record, error)) for record in own]
            answered |= {one.id: one for one in found}
        return [answered[record.id] for record in records]

    async def _of_bundle(
        self, pipeline: Pipeline, served: Served, records: list[Record], maps: bool
    ) -> list[Recorded]:
        loop = asyncio.get_running_loop()
        cells_max = pipeline.settings.grid_cells_max
        async with within(None, pipeline.settings.deadline_ms / 1e3):
            opened = await loop.run_in_executor(self._thread, self._open, served, records, cells_max)
        return list(await asyncio.gather(*(_answer(pipeline, served, one, maps) for one in opened)))

    def _open(self, served: Served, records: list[Record], cells_max: int) -> list[Opened]:
        """The records of one bundle with what they say. Raises DataError."""
        reader = FrameReader(served.bundle, served.model.codec, cells_max)
        with reading(self._path) as db:
            far = {one.id for one in records if count_earlier_in_chunk(db, one) > EARLIER_MAX}
            near = sorted((one for one in records if one.id not in far), key=lambda one: one.id)
            opened = list(
                Chunks(Head(self._path, db), reader).open(near)
            )  # in the order of writing, so that each is decoded once
        late = DataError(f"over {EARLIER_MAX} frames have to be decoded before this one; a replay does it")
        return [*opened, *(Opened(one, late) for one in records if one.id in far)]


async def _answer(pipeline: Pipeline, served: Served, opened: Opened, maps: bool) -> Recorded:
    content = opened.content
    if isinstance(content, IsthmusError):
        return _shown(opened)
    source = content.latent if isinstance(content, Known) else content
    queries = _queries(served, source, maps)
    try:
        results = await pipeline.ask(source, queries, served) if queries else {}
    except IsthmusError as error:
        return _shown(Opened(opened.record, error, opened.frame))
    views = await asyncio.to_thread(view_all, results)
    return _shown(opened).model_copy(update={"views": views, "quality": source.quality})


def _shown(opened: Opened) -> Recorded:
    """A record without its answers; with its error, if it has one."""
    record, content = opened.record, opened.content
    return Recorded(
        id=record.id,
        request_id=record.request_id,
        received_at=record.received_at,
        captured_at=record.captured_at,
        bytes=len(record.data),
        frame=opened.frame,
        error=f"{exit_of(content).title}: {content}" if isinstance(content, IsthmusError) else "",
    )


def _queries(served: Served, source: Bitstream | Coded | Latent, maps: bool) -> tuple[TaskQuery, ...]:
    """Every task that the source answers."""
    queries = every_task(served.bundle, maps)
    has_z = source.z is not None if isinstance(source, Latent) else getattr(source, "has_z", True)
    return (
        queries if has_z else tuple(query for query in queries if query.name in base_tasks_of(served.model))
    )
