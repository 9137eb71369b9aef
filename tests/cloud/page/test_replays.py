"""Replays over HTTP: progress, results, one at a time, cancelling, and every wrong question."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import cloud.page.replays
from cloud.faces.http_face import build_app
from cloud.faces.http_page import PageParts
from cloud.page.fleet import Fleet
from cloud.page.replays import Question, Replays
from cloud.pipeline import Pipeline
from shared.process.config import HttpSettings
from support.archives import archive_at
from support.service import GatedModel, problem, until

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RECORDS = 30


@dataclass
class Site:
    http: httpx.AsyncClient
    model: GatedModel

    async def start(self, **changed: Any) -> httpx.Response:
        question = {"task": "classification", "since": "2026-11-22T00:00:00Z", "until": "2026-11-23"}
        return await self.http.post("/v1/replays", json=question | changed)

    async def end(self, id_: str) -> dict[str, Any]:
        """The replay once it has ended."""
        replay: dict[str, Any] = {"state": "running"}

        async def ended() -> bool:
            nonlocal replay
            replay = (await self.http.get(f"/v1/replays/{id_}")).json()
            return bool(replay["state"] != "running")

        for _ in range(10_000):
            if await ended():
                return replay
        raise AssertionError(replay)


@pytest.fixture
async def site(
    tmp_path: Path, pipeline: Pipeline, model: GatedModel, packed: list[bytes]
) -> AsyncIterator[Site]:
    """A cloud whose archive holds thirty frames of two cameras, one of them damaged."""
    with archive_at(tmp_path) as archive:
        for i in range(RECORDS):
            data = packed[i % 8] if i else packed[0][:-1]
            camera = "door" if i % 3 else "hall"
            archive.append(camera, NOON + timedelta(seconds=i), f"r{i}", data)
        assert archive.flush(30)
    app = build_app(lambda: pipeline, HttpSettings(), page=PageParts(Fleet(), tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud") as http:
        yield Site(http, model)


async def test_a_replay_from_question_to_results(site: Site) -> None:
    started = await site.start()
    assert started.status_code == 202, started.text
    replay = started.json()
    assert (replay["state"], replay["total"]) == ("running", RECORDS)
    ended = await site.end(replay["id"])
    assert (ended["state"], ended["answered"], ended["failed"]) == ("done", RECORDS - 1, 1)
    assert ended["errors"] == {"Invalid bitstream": 1}
    assert ended["labels"] == [{"label": "red", "count": RECORDS - 1}]
    assert ended["newest"][0]["request_id"] == f"r{RECORDS - 1}"
    assert ended["newest"][-1]["error"].startswith("Invalid bitstream")
    lines = (await site.http.get(f"/v1/replays/{replay['id']}/results")).text.splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == [f"r{i}" for i in range(RECORDS)]
    assert (await site.http.get("/v1/replays")).json() == [ended]


async def test_one_camera_and_a_span(site: Site) -> None:
    until_text = (NOON + timedelta(seconds=10)).isoformat()
    replay = (await site.start(camera="hall", until=until_text)).json()
    assert replay["total"] == 4
    ended = await site.end(replay["id"])
    assert {line["camera"] for line in ended["newest"]} == {"hall"}


async def test_one_at_a_time_and_cancelled(site: Site) -> None:
    site.model.gate.clear()
    first = (await site.start()).json()
    await until(site.model.entered.is_set)
    refused = await site.start()
    assert "another replay" in problem(refused, 429)["detail"]
    assert refused.headers["retry-after"]
    site.model.gate.set()
    cancelled = (await site.http.delete(f"/v1/replays/{first['id']}")).json()
    assert cancelled["state"] in ("cancelled", "done")
    again = (await site.http.delete(f"/v1/replays/{first['id']}")).json()
    assert again["state"] == cancelled["state"]
    second = (await site.start()).json()
    assert second["id"] != first["id"]
    assert (await site.end(second["id"]))["state"] == "done"
    problem(await site.http.get(f"/v1/replays/{first['id']}"), 404)


async def test_cancelling_stops_the_work(
    site: Site, tmp_path: Path, pipeline: Pipeline, model: GatedModel
) -> None:
    """The batch that is being answered ends; no other begins."""
    model.gate.clear()
    replays = Replays(tmp_path)
    question = Question(task="classification", since=NOON, until=NOON + timedelta(days=1))
    replay = await replays.start(question, pipeline)
    await until(model.entered.is_set)
    cancelling = asyncio.create_task(replays.cancel(replay.id))
    await asyncio.sleep(0)  # lets it run as far as it comes, which is to wait for the batch
    model.gate.set()
    ended = await cancelling
    assert ended.state == "cancelled"
    assert ended.answered + ended.failed < RECORDS
    assert len(model.batches) <= 2
    assert ended.ended_at
    await replays.close()


async def test_the_file_of_results_has_a_bound(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud.page.replays, "FILE_BYTES_MAX", 1000)
    replay = (await site.start()).json()
    ended = await site.end(replay["id"])
    assert (ended["state"], ended["whole"]) == ("done", False)
    text = (await site.http.get(f"/v1/replays/{replay['id']}/results")).text
    assert 0 < len(text) <= 1000
    assert text.endswith("\n")


@pytest.mark.parametrize(
    ("changed", "status", "text"),
    [
        ({"task": "nope"}, 404, "classification"),
        ({"task": ""}, 422, "task"),
        ({"bundle": "00000000"}, 404, "no bundle"),
        ({"bundle": "any"}, 422, "bundle"),
        ({"since": "yesterday"}, 422, "since"),
        ({"since": "2026-11-24T00:00:00Z"}, 422, "before its end"),
        ({"since": "0001-01-01T00:00:00+14:00"}, 422, "range"),
        ({"camera": "a b"}, 422, "camera"),
        ({"camera": "cellar"}, 400, "no record of camera cellar"),
        ({"since": "2020-01-01", "until": "2020-01-02"}, 400, "no record"),
    ],
)
async def test_wrong_questions(site: Site, changed: dict[str, str], status: int, text: str) -> None:
    assert text in problem(await site.start(**changed), status)["detail"]
    assert (await site.http.get("/v1/replays")).json() == []


async def test_a_body_that_is_no_question(site: Site) -> None:
    answer = await site.http.post("/v1/replays", content=b"{", headers={"Content-Type": "application/json"})
    problem(answer, 422)
