"""The fleet in memory, and over HTTP with records from an archive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from cloud.archive.archive import Archive
from cloud.archive.overview import last_day, newest, one_record, slots
from cloud.faces.http_face import build_app
from cloud.faces.http_page import PageParts
from cloud.observer import ANSWERED, Seen
from cloud.page.fleet import SLOT_S, SLOTS, Fleet, mark_of
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import DataError, DeadlineError, NotAnImageError
from shared.process.auth import Gate
from shared.process.config import HttpSettings
from shared.process.tokens import TokenReader
from shared.types import ByteCount
from support.archives import LONG_S, archive_at, at, put, record
from support.locked import token_for
from support.service import GatedModel, OneBundle, png, problem

PNG = {"Content-Type": "image/png"}
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


@dataclass
class Clock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    return Fleet(cameras_max=3, now=clock)


def count_answer(fleet: Fleet, bundle: Bundle, camera: str = "door", size: int = 40) -> None:
    sizes = ByteCount(b_v=4, b_z=size - 15, total=size, bits_per_pixel=0.01)
    fleet.image(Seen("frame", camera, bundle, ANSWERED, sizes))


def fail(fleet: Fleet, camera: str, error: BaseException) -> None:
    seen = Seen("image", camera)
    seen.failed(error)
    fleet.image(seen)


def test_a_day_is_counted_in_quarters_of_an_hour(fleet: Fleet, clock: Clock, bundle: Bundle) -> None:
    for minutes in (0, 1, 14, 15, 60):
        clock.now = NOON + timedelta(minutes=minutes)
        count_answer(fleet, bundle)
    found = fleet.camera("door")
    assert found is not None
    assert found.curve[-5:] == (3, 1, 0, 0, 1)
    assert (found.answers, found.bytes, found.errors) == (5, 5 * 40, 0)
    assert (found.last_at, found.bundle) == (clock.now, bundle.fingerprint.hex())
    clock.now += timedelta(seconds=SLOT_S * (SLOTS - 1))
    later = fleet.camera("door")
    assert later is not None
    assert later.answers == 1  # the oldest quarter still counts, those before it are gone
    clock.now += timedelta(days=3)
    gone = fleet.camera("door")
    assert gone is not None
    assert (gone.answers, sum(gone.curve)) == (0, 0)


def test_the_rate_is_that_of_the_last_minutes(fleet: Fleet, clock: Clock, bundle: Bundle) -> None:
    for second in range(0, 240, 2):
        clock.now = NOON + timedelta(seconds=second)
        count_answer(fleet, bundle)
    rates = [fleet.camera("door").rate]  # type: ignore[union-attr]
    clock.now += timedelta(minutes=10)
    rates.append(fleet.camera("door").rate)  # type: ignore[union-attr]
    assert rates == [pytest.approx(30, rel=0.02), 0]


def test_errors_belong_to_whoever_gave_a_name(fleet: Fleet, bundle: Bundle) -> None:
    count_answer(fleet, bundle)
    fail(fleet, "door", NotAnImageError("no image"))
    assert fleet.camera("door").last_error.detail == "no image"  # type: ignore[union-attr]
    fail(fleet, "door", RuntimeError("a path of this machine"))
    fail(fleet, "door", asyncio.CancelledError())  # its client has gone
    fail(fleet, "", DeadlineError("late"))
    count_answer(fleet, bundle, "")
    assert [one.camera for one in fleet.listed().cameras] == ["door"]
    found = fleet.camera("door")
    assert found is not None
    assert found.errors == 2
    assert found.last_error is not None
    assert (found.last_error.title, found.last_error.detail) == ("Internal error", "")


def test_one_camera_too_many_takes_the_place_of_the_one_seen_longest_ago(
    fleet: Fleet, clock: Clock, bundle: Bundle
) -> None:
    for second, name in enumerate(("a", "b", "c", "a", "d")):
        clock.now = NOON + timedelta(seconds=second)
        count_answer(fleet, bundle, name)
    listed = fleet.listed()
    assert [one.camera for one in listed.cameras] == ["d", "a", "c"]
    assert [one.camera for one in fleet.listed(limit=1).cameras] == ["d"]
    assert fleet.listed("A").total == 1
    assert fleet.listed("z").cameras == ()


def test_both_versions_name_their_bundle(packed: list[bytes], packed_1: list[bytes], bundle: Bundle) -> None:
    assert mark_of(packed[0]) == mark_of(packed_1[0]) == bundle.fingerprint.hex()
    assert mark_of(b"") == ""


def test_an_archive_fills_the_day_before_the_start(tmp_path: Path, packed: list[bytes]) -> None:
    now = datetime.now(UTC)
    with archive_at(tmp_path) as archive:
        for minutes, name in ((2000, "door"), (300, "door"), (299, "door"), (10, "hall")):
            archive.append(name, now - timedelta(minutes=minutes), f"r{minutes}", packed[0])
        archive.append("", now, "unnamed", packed[0])
        assert archive.flush(30)
    fleet = Fleet()
    for slot in last_day(tmp_path):
        fleet.add(slot.camera, slot.last_at, slot.records, slot.size, slot.head)
    listed = fleet.listed()
    assert [(one.camera, one.answers) for one in listed.cameras] == [("hall", 1), ("door", 2)]
    assert {one.bundle for one in listed.cameras} == {mark_of(packed[0])}
    assert listed.cameras[1].bytes == 2 * len(packed[0])


def test_slots_of_an_archive(tmp_path: Path) -> None:
    with archive_at(tmp_path) as archive:
        put(archive, *(record(i, "door") for i in range(0, 3600, 300)), record(7, "hall"))
        archive.flush(30)
    found = {(one.camera, one.last_at): one.records for one in slots(tmp_path, at(0), at(7200), 900)}
    assert found == {("door", at(600 + 900 * i)): 3 for i in range(4)} | {("hall", at(7)): 1}
    with pytest.raises(DataError, match="no archive"):
        last_day(tmp_path / "nothing")


def test_the_newest_records_of_one_camera(tmp_path: Path) -> None:
    with archive_at(tmp_path) as archive:
        put(archive, *(record(i, "door" if i % 2 else "hall") for i in range(20)))
        archive.flush(30)
    first = newest(tmp_path, "door", 4)
    assert [one.request_id for one in first] == ["r19", "r17", "r15", "r13"]
    assert [one.request_id for one in newest(tmp_path, "door", 2, first[-1].id)] == ["r11", "r9"]
    assert newest(tmp_path, "cellar", 4) == []
    assert one_record(tmp_path, first[0].id) == first[0]
    assert one_record(tmp_path, 999) is None


@dataclass
class Site:
    http: httpx.AsyncClient
    archive: Archive
    fleet: Fleet


@pytest.fixture
async def site(
    tmp_path: Path, bundle: Bundle, encoder: Encoder, model: GatedModel, settings: PipelineSettings
) -> AsyncIterator[Site]:
    """A cloud with an archive, and its fleet."""
    fleet = Fleet()
    with archive_at(tmp_path, age_max_s=LONG_S) as archive:
        pipeline = Pipeline(OneBundle(bundle, model, encoder), settings, archive, observer=fleet)
        app = build_app(lambda: pipeline, HttpSettings(), page=PageParts(fleet, tmp_path))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
            yield Site(http, archive, fleet)
        await pipeline.close()


async def test_answers_and_errors_reach_the_fleet(site: Site) -> None:
    for camera, body in (("door", png(0)), ("door", png(1)), ("hall", b"no image"), ("hall", png(2))):
        await site.http.post("/analyze", content=body, headers=PNG | {"X-Camera": camera})
    await site.http.post("/v1/inspect", content=png(3), headers=PNG)
    listed = (await site.http.get("/v1/fleet")).json()
    assert listed["archived"] is True
    assert [(one["camera"], one["answers"], one["errors"]) for one in listed["cameras"]] == [
        ("hall", 1, 1),
        ("door", 2, 0),
    ]
    assert (await site.http.get("/v1/fleet?search=OO")).json()["total"] == 1
    one = (await site.http.get("/v1/fleet/hall")).json()
    assert one["last_error"]["title"] == "Not an image"


async def test_a_cameras_records_with_their_answers(site: Site) -> None:
    for seed in range(5):
        await site.http.post("/analyze", content=png(seed), headers=PNG | {"X-Camera": "door"})
    site.archive.append("door", datetime.now(UTC), "other", b"\xb8" + bytes(20))
    assert site.archive.flush(30)
    found = (await site.http.get("/v1/fleet/door/records?limit=3")).json()
    assert len(found) == 3
    assert "error" in found[0]
    assert found[0]["views"] == {}
    assert found[1]["views"]["classification"]["lines"][0].startswith("red")
    assert found[1]["frame"] == "I"
    more = (await site.http.get(f"/v1/fleet/door/records?before={found[-1]['id']}")).json()
    assert [one["id"] for one in more] == sorted((one["id"] for one in more), reverse=True)
    assert len(more) == 3
    whole = (await site.http.get(f"/v1/fleet/door/records/{more[0]['id']}")).json()
    assert whole["request_id"] == more[0]["request_id"]
    assert (await site.http.get("/v1/fleet/cellar/records")).json() == []


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/fleet?limit=0", 422, "limit"),
        ("/v1/fleet?page=2", 422, "page"),
        ("/v1/fleet/nobody", 404, "nobody"),
        ("/v1/fleet/a%20b", 422, "camera"),
        ("/v1/fleet/door/records?limit=1000", 422, "limit"),
        ("/v1/fleet/door/records?before=x", 422, "before"),
        ("/v1/fleet/door/records/77", 404, "no record 77"),
        (f"/v1/fleet/door/records/{1 << 70}", 422, "id"),
        ("/v1/replays/none", 404, "no replay"),
        ("/v1/replays/none/results", 404, "no replay"),
    ],
)
async def test_problems(site: Site, path: str, status: int, text: str) -> None:
    assert text in problem(await site.http.get(path), status)["detail"]


async def test_a_server_without_an_archive_says_so(pipeline: Pipeline) -> None:
    app = build_app(lambda: pipeline, HttpSettings(), page=PageParts(Fleet()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
        assert (await http.get("/v1/fleet")).json()["archived"] is False
        assert (await http.get("/v1/replays")).json() == []
        question = {"task": "classification", "since": "2026-01-01", "until": "2026-01-02"}
        for answer in (
            await http.get("/v1/fleet/door/records"),
            await http.post("/v1/replays", json=question),
        ):
            assert "--archive" in problem(answer, 400)["detail"]


async def test_a_token_shows_the_cameras_that_it_may_use(
    tmp_path: Path, pipeline: Pipeline, bundle: Bundle
) -> None:
    """Of the fleet, of records, and of replays: nobody learns of other cameras, not even that they exist."""
    tokens = tmp_path / "tokens.json"
    bound = token_for(tokens, "acme", "admin", cameras=("acme-*",))
    camera_box = token_for(tokens, "box", "analyze", cameras=("acme-1",))
    fleet = Fleet()
    for name in ("acme-1", "other-1"):
        count_answer(fleet, bundle, name)
    with archive_at(tmp_path / "archive") as archive:
        put(archive, record(1, "acme-1"), record(2, "other-1"))
        archive.flush(30)
    page = PageParts(fleet, tmp_path / "archive")
    app = build_app(lambda: pipeline, HttpSettings(), gate=Gate(TokenReader(tokens)), page=page)
    question = {"task": "classification", "since": "2026-11-22", "until": "2026-11-23"}
    bearer = {"Authorization": f"Bearer {bound}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud", headers=bearer) as http:
        listed = (await http.get("/v1/fleet")).json()
        assert [one["camera"] for one in listed["cameras"]] == ["acme-1"]
        assert listed["total"] == 1
        assert len((await http.get("/v1/fleet/acme-1/records")).json()) == 1
        for answer in (
            await http.get("/v1/fleet/other-1"),
            await http.get("/v1/fleet/nowhere"),
            await http.get("/v1/fleet/other-1/records"),
            await http.get("/v1/fleet/other-1/records/2"),
            await http.post("/v1/replays", json=question),
            await http.post("/v1/replays", json=question | {"camera": "other-1"}),
            await http.post("/v1/inspect", content=b"", headers={"Content-Type": "image/png"}),
        ):
            problem(answer, 403)
        started = (await http.post("/v1/replays", json=question | {"camera": "acme-1"})).json()
        assert started["total"] == 1
        box = {"Authorization": f"Bearer {camera_box}"}
        for path in ("/v1/fleet", "/v1/fleet/acme-1", "/v1/replays", f"/v1/replays/{started['id']}"):
            problem(await http.get(path, headers=box), 403)
