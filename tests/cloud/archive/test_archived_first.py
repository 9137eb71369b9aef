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
from shared.codec.frame_codec import FrameCodec
from shared.encoder import Encoder
from shared.errors import DataError, NotReadyError
from shared.session_packets import SentFrame, SessionOpen
from shared.types import Wanted
from support.archives import archive_at, locked
from support.service import GatedModel, OneBundle, png, until
from support.session_ends import EdgeEnd

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


async def test_frames_of_a_session_wait_in_their_order(
    tmp_path: Path, bundle: Bundle, model: GatedModel, encoder: Encoder
) -> None:
    latent = encoder.encode(png(0)).latent
    fingerprint = bytes.fromhex(bundle.manifest.fingerprint)
    opened = SessionOpen(fingerprint=fingerprint, session=bytes(16), grid=latent.grid, camera="door")
    edge = EdgeEnd(FrameCodec(encoder.codec), opened)
    with archive_at(tmp_path) as archive:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), SETTINGS, archive)
        live = await pipeline.sessions.open(opened, lambda asked: None)
        ended: list[int] = []

        async def send(number: int) -> None:
            data = edge.intra(number, latent) if number == 1 else edge.same(number, latent)
            reply = await live.frame(SentFrame(number, data))
            assert reply is not None
            ended.append(reply.number)

        with locked(tmp_path):
            tasks = [asyncio.create_task(send(1))]
            for number in (1, 2, 3):
                await until(lambda count=number: archive._accepted >= count)
                tasks.append(asyncio.create_task(send(number + 1)))
            assert ended == []
        await asyncio.gather(*tasks)
        assert ended == [1, 2, 3, 4]
        assert [one.request_id for one in read(tmp_path)] == [opened.request_id(n) for n in ended]
        archive.close()
        with pytest.raises(NotReadyError, match="the archive does not take"):
            await send(5)
        await pipeline.close()
