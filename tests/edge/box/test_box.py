"""A box in this process with a cloud that is made up: from a folder to the sinks, and what it says about itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import edge.link
from edge.box.box import Box, Keeper
from edge.box.metrics import add_box_metrics
from edge.box.page import add_page, page_of
from edge.box.settings import RateSettings
from edge.box.status import status_of, troubles_of
from edge.capture.settings import SourceSettings
from edge.metrics import EdgeMetrics
from edge.observer import seeing
from edge.sinks.outputs import FileOutput
from edge.sinks.sinks import Sinks
from edge.spool.records import NewFrame
from edge.spool.spool import Spool
from shared.encoder import Encoder
from shared.errors import CloudUnreachableError, RemoteRejectedError
from shared.process.config import MetricsSettings
from shared.process.http import add_health, create_app
from shared.process.metrics import Metrics
from shared.types import Analysis, BundleInfo, ByteCount, Times, Wanted
from support.service import png
from support.slow_disk import SlowDisk


class FakeCloud:
    """Answers, unless it is away."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint, self.away = fingerprint, False
        self.refuses = ""
        self.got: list[tuple[str, Wanted]] = []

    async def analyze(
        self, request_id: str, bitstream: bytes, wanted: Wanted, camera: str = "", captured_at: Any = None
    ) -> Analysis:
        self._check()
        if self.refuses:
            raise RemoteRejectedError("INVALID_ARGUMENT", self.refuses)
        self.got.append((camera, wanted))
        sizes = ByteCount(b_v=0, b_z=0, total=len(bitstream), bits_per_pixel=0)
        return Analysis(
            request_id=request_id,
            bundle="b",
            fingerprint=self.fingerprint,
            quality=0,
            results={},
            bytes=sizes,
            times=Times(),
        )

    async def describe(self) -> list[BundleInfo]:
        self._check()
        named = {"name": "b", "fingerprint": self.fingerprint, "tasks": ()}
        return [BundleInfo(qualities=(0,), default_quality=0, **named)]

    def _check(self) -> None:
        if self.away:
            raise CloudUnreachableError("nobody there")


@asynccontextmanager
async def box_at(path: Path, encoder: Encoder, **more: Any) -> AsyncIterator[tuple[Box, FakeCloud]]:
    cloud = FakeCloud(encoder.bundle.fingerprint.hex())
    sinks = Sinks([FileOutput(path / "answers.jsonl", 1 << 20, 2)])
    box = Box(encoder, Spool(path / "spool", **more), cloud, sinks)
    try:
        yield box, cloud
    finally:
        await box.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(90):
        while not condition():
            await asyncio.sleep(0.01)


def inbox(path: Path, count: int, name: str = "in") -> Path:
    folder = path / name
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def of(folder: Path, **more: Any) -> SourceSettings:
    return SourceSettings(kind="folder", url=str(folder), settle_ms=0, **more)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.link, "WAIT_MAX_S", 0.2)


async def test_from_folders_to_the_sinks(tmp_path: Path, encoder: Encoder) -> None:
    moved, deleted = inbox(tmp_path, 3), inbox(tmp_path, 2, "other")
    async with box_at(tmp_path, encoder) as (box, cloud):
        cloud.away = True
        await box.use({"door": of(moved, tasks=("classification",)), "yard": of(deleted, after="delete")})
        await until(lambda: box.spool.depth == 5)
        assert len(list(moved.glob("*.png"))) == 3  # none leaves before the cloud has it
        await until(lambda: box.link.trouble)
        assert set(troubles_of(box)) == {"link"}
        cloud.away = False
        await until(lambda: box.sinks.all[0].delivered == 5 and box.spool.depth == 0)
        assert sorted(one.name for one in (moved / "done").iterdir()) == ["0.png", "1.png", "2.png"]
        assert list(deleted.iterdir()) == []
        status = await status_of(box)
        assert status.sources["door"].accepted == 3
        assert (status.link.sent, status.spool.depth, status.link.trouble) == (5, 0, "")
        wanted = dict(cloud.got)
        assert [task.name for task in wanted["door"].tasks] == ["classification"]
        assert wanted["yard"].tasks == ()
        await check_page(box)
        metrics = Metrics("edge")
        add_box_metrics(metrics, lambda: status_of(box))
        await metrics.prepare()
        text = metrics.exposition()[0].decode()
        for line in (
            'isthmus_edge_source_images_total{outcome="accepted",source="door"} 3.0',
            "isthmus_edge_link_frames_total 5.0",
            "isthmus_edge_spool_frames 0.0",
            "isthmus_edge_link_up 1.0",
        ):
            assert line in text
        # Sources come, change and go; the rest is not touched.
        kept = box.sources["yard"]
        third = inbox(tmp_path, 1, "third")
        await box.use({"yard": kept.settings, "hall": of(third)})
        assert set(box.sources) == {"yard", "hall"}
        assert box.sources["yard"] is kept
        await until(lambda: box.sinks.all[0].delivered == 6)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    cameras = [json.loads(line)["camera"] for line in lines]
    assert sorted(cameras) == ["door", "door", "door", "hall", "yard", "yard"]


async def check_page(box: Box) -> None:
    app = create_app("box", "", 4, 1 << 20)
    add_page(app, lambda: box, lambda: {"config": "<script>alert(1)</script>"})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://box") as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert 'aria-label="door"' in page.text
        assert 'aria-label="yard"' in page.text
        assert "<script" not in page.text
        assert "&lt;script&gt;" in page.text
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; img-src 'self' data:; style-src 'sha256-")
        picture = await client.get("/sources/door/picture")
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
        assert (await client.get("/sources/nobody/picture")).status_code == 404


async def test_a_slow_disk_holds_up_no_other_request(tmp_path: Path, encoder: Encoder) -> None:
    disk, metrics = SlowDisk(), Metrics("edge")
    async with box_at(tmp_path, encoder, clock=disk) as (box, _):
        app = create_app("box", "", 4, 1 << 20, metrics=metrics)
        add_health(app, lambda: None, lambda: troubles_of(box))
        add_page(app, lambda: box, dict)
        add_box_metrics(metrics, lambda: status_of(box))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://box") as client:
            disk.stand_still()
            slow = [asyncio.create_task(client.get(path)) for path in ("/metrics", "/")]
            await until(disk.waited.is_set)
            assert (await client.get("/readyz")).status_code == 200
            assert not disk.gave_up
            disk.go_on()
            assert [one.status_code for one in await asyncio.gather(*slow)] == [200, 200]


async def test_a_camera_whose_frames_are_refused(tmp_path: Path, encoder: Encoder) -> None:
    async with box_at(tmp_path, encoder) as (box, cloud):
        cloud.refuses = "unknown task 'parking'"
        folder = inbox(tmp_path, 1)
        await box.use({"door": of(folder)})
        await until(lambda: "source door" in troubles_of(box))
        assert (await status_of(box)).sources["door"].trouble == "frames are refused: unknown task 'parking'"
        assert (folder / "0.png").exists()
        cloud.refuses = ""
        (folder / "1.png").write_bytes(png(1))
        await until(lambda: box.link.sent == 1 and box.spool.depth == 0)
        assert troubles_of(box) == {}


async def test_images_beside_those_of_the_sources(tmp_path: Path, encoder: Encoder) -> None:
    """What POST /analyze brings is seen, reaches the sinks, and counts in the budget."""
    async with box_at(tmp_path, encoder) as (box, cloud):
        metrics = EdgeMetrics(MetricsSettings(), encoder.bundle, lambda: 0)
        observer = box.observer(metrics, "")
        assert "POST /analyze" not in page_of(box, await status_of(box))
        for camera in ("", "gate"):
            with seeing(observer, camera) as seen:
                seen.answered(await cloud.analyze("r", b"12345", Wanted()), "P")
        with pytest.raises(CloudUnreachableError), seeing(observer, "gate"):
            raise CloudUnreachableError("nobody there")
        posted = (await status_of(box)).posted
        assert (posted.outcomes, posted.bytes) == ({"answered": 2, "UNAVAILABLE": 1}, 10)
        assert "2 answered, 1 UNAVAILABLE" in page_of(box, await status_of(box))
        assert b'isthmus_edge_images_total{frame="P",outcome="answered"} 2.0' in metrics.exposition()[0]
        await until(lambda: box.sinks.all[0].delivered == 2)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["camera"] for line in lines] == ["analyze", "gate"]
    cloud = FakeCloud(encoder.bundle.fingerprint.hex())
    rate = RateSettings(kbit_per_s=0.1, window_s=10)
    box = Box(encoder, Spool(tmp_path / "other"), cloud, Sinks([]), rate=rate)
    try:
        with seeing(box.observer(metrics, ""), "") as seen:
            seen.answered(await cloud.analyze("r", bytes(500), Wanted()))
        assert box.rate.allowance(time.monotonic()) == 0
    finally:
        await box.close()


async def test_a_file_that_is_kept_is_sent_once(tmp_path: Path, encoder: Encoder) -> None:
    kept = inbox(tmp_path, 3)
    async with box_at(tmp_path, encoder) as (box, cloud):
        await box.use({"door": of(kept, after="keep")})
        await until(lambda: len(cloud.got) == 3 and box.spool.depth == 0)
    (kept / "0.png").write_bytes(png(7))
    (kept / "late.png").write_bytes(png(8))
    async with box_at(tmp_path, encoder) as (box, cloud):  # only what has come or changed
        await box.use({"door": of(kept, after="keep")})
        await until(lambda: len(cloud.got) >= 2 and box.spool.depth == 0)
        (kept / "last.png").write_bytes(png(9))
        await until(lambda: box.accepted["door"] >= 3)
        assert box.accepted["door"] == 3
    assert len(list(kept.glob("*.png"))) == 5


async def test_a_full_spool_stops_and_goes_on(tmp_path: Path, encoder: Encoder) -> None:
    many = tuple(f"{'x' * 60}{number}" for number in range(40))  # a frame costs some 4,000 bytes
    async with box_at(tmp_path, encoder, bytes_max=64 << 10, full="stop") as (box, cloud):
        cloud.away = True
        await box.use({"door": of(inbox(tmp_path, 40), tasks=many)})
        await until(lambda: box.spool.state().bytes > (64 << 10) - 6000)
        stopped = box.accepted["door"]
        assert 5 < stopped < 40
        assert box.spool.state().drops == {}
        cloud.away = False
        await until(lambda: box.accepted["door"] == 40 and box.spool.depth == 0)
        assert box.drops == {}
    assert len(cloud.got) == 40


async def test_a_budget(tmp_path: Path, encoder: Encoder) -> None:
    cloud = FakeCloud(encoder.bundle.fingerprint.hex())
    rate = RateSettings(kbit_per_s=0.1, window_s=10)  # not even the lowest quality fits: images are given up
    box = Box(encoder, Spool(tmp_path / "spool"), cloud, Sinks([]), rate=rate)
    try:
        await box.use({"door": of(inbox(tmp_path, 8))})
        await until(lambda: box.accepted["door"] + box.drops["door", "budget"] == 8)
        assert box.drops["door", "budget"] >= 6
    finally:
        await box.close()


async def test_a_frame_that_cannot_be_kept_holds_up_no_other(tmp_path: Path) -> None:
    spool, disk = Spool(tmp_path / "spool"), ThreadPoolExecutor(1)
    keeper = Keeper(spool, disk)
    bad, good = (NewFrame("door", "00", b"x", "{}", None, origin) for origin in ("\udcff.png", "a.png"))
    async with asyncio.timeout(90):
        with pytest.raises(UnicodeEncodeError):
            await keeper.put(bad)
        assert await keeper.put(good)
    assert spool.depth == 1
    disk.shutdown()
    spool.close()
