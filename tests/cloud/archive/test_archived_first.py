"""Answers that wait for the archive: what was answered is on the disk, whatever becomes of the process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloud.archive.archive import Archive
from cloud.archive.late_archive import LateArchive
from cloud.archive.records import read
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import DataError, NotReadyError
from shared.types import Wanted
from support.archives import archive_at, locked
from support.service import GatedModel, OneBundle

SETTINGS = PipelineSettings(batch_wait_ms=0, archived_first=True)


async def test_an_answer_waits_for_the_disk(
    tmp_path: Path, bundle: Bundle, model: GatedModel, encoder: Encoder, packed: list[bytes]
) -> None:
    with archive_at(tmp_path) as archive:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), SETTINGS, archive)
        with locked(tmp_path):
            asking = asyncio.create_task(pipeline.analyze(packed[0], Wanted(), "a"))
            async with asyncio.timeout(30):
                while not archive._accepted:
                    await asyncio.sleep(0.001)
            assert not asking.done()
        answer = await asking
        assert [one.request_id for one in read(tmp_path)] == [answer.request_id]
        await pipeline.close()


async def test_what_is_not_kept_is_not_answered(
    tmp_path: Path, bundle: Bundle, model: GatedModel, encoder: Encoder, packed: list[bytes]
) -> None:
    def broken() -> Archive:
        raise DataError("no disk")

    away = LateArchive(broken)
    pipeline = Pipeline(OneBundle(bundle, model, encoder), SETTINGS, away)
    with pytest.raises(NotReadyError, match="send the request again"):
        await pipeline.analyze(packed[0], Wanted(), "a")
    with archive_at(tmp_path) as archive:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), SETTINGS, archive)
        archive.close()
        with pytest.raises(NotReadyError):
            await pipeline.analyze(packed[0], Wanted(), "a")
    await pipeline.close()
