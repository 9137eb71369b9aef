"""Sessions of an edge's clients: X-Session over HTTP, and how many there are at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge.api import build_app
from edge.client import Client
from edge.pipeline import Pipeline, SessionLink
from edge.settings import CloudLink, SessionSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.process.config import HttpSettings
from shared.session_packets import Answered, SameAs
from shared.types import Analysis
from support.levels import write_levels
from support.service import png, problem, until
from support.session_cloud import TASK, Cloud, result

IMAGE = {"Content-Type": "image/png"}


class Unasked:
    """A transport for images by themselves, which none of these tests sends."""

    analyze: Any = None
    describe: Any = None

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(Bundle.open(write_levels(tmp_path_factory.mktemp("levels") / "bundle")))


@pytest.fixture
def cloud(encoder: Encoder) -> Cloud:
    return Cloud(encoder)


@pytest.fixture
async def http(encoder: Encoder, cloud: Cloud) -> AsyncIterator[httpx.AsyncClient]:
    """An edge with room for two sessions."""
    link = CloudLink()
    sessions = SessionLink(link, SessionSettings(sessions_max=2), cloud, "own")
    edge = Pipeline(encoder, Client(link, transport=Unasked()), sessions)
    app = build_app(lambda: edge, HttpSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as client:
        yield client
    await edge.close()
    assert all(stream.cancelled for stream in cloud.streams)


async def post(
    http: httpx.AsyncClient, session: str, seed: int = 0, query: str = "", **headers: str
) -> Analysis:
    answer = await http.post(
        f"/analyze{query}", content=png(seed), headers=IMAGE | {"X-Session": session} | headers
    )
    assert answer.status_code == 200, answer.text
    return Analysis.model_validate(answer.json())


async def test_images_of_a_session_are_coded_given_each_other(http: httpx.AsyncClient, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: Answered(result(1)) if frame.number == 1 else SameAs(1)
    first, second = await post(http, "door"), await post(http, "door")
    assert first.bytes.total > second.bytes.total == 3
    assert first.results == second.results == result(1)
    [stream] = cloud.streams
    assert stream.frames == [(1, "I"), (2, "S")]
    assert stream.opened is not None
    assert stream.opened.camera == "own"
    assert first.request_id == stream.opened.request_id(1)


async def test_sessions_do_not_mix(http: httpx.AsyncClient, cloud: Cloud) -> None:
    for session in ("a", "b", "a", "b"):
        await post(http, session)
    assert [stream.frames for stream in cloud.streams] == [[(1, "I"), (2, "S")]] * 2


async def test_the_idlest_ends_for_another(http: httpx.AsyncClient, cloud: Cloud) -> None:
    for session in ("a", "b", "a", "c"):
        await post(http, session)
    a, b, _ = cloud.streams
    await until(lambda: b.cancelled)
    assert not a.cancelled
    await post(http, "a")
    assert a.frames == [(1, "I"), (2, "S"), (3, "S")]


async def test_more_than_there_is_room_for(http: httpx.AsyncClient, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: None
    tasks = [asyncio.create_task(post(http, session)) for session in ("a", "b")]
    await until(lambda: len(cloud.streams) == 2 and all(stream.sent for stream in cloud.streams))
    answer = await http.post("/analyze", content=png(0), headers=IMAGE | {"X-Session": "c"})
    assert "2 sessions are in use" in problem(answer, 429)["detail"]
    for stream in cloud.streams:
        stream.reply(1, Answered(result(0)))
    await asyncio.gather(*tasks)


async def test_a_session_that_wants_something_else_begins_anew(http: httpx.AsyncClient, cloud: Cloud) -> None:
    await post(http, "a")
    await post(http, "a", query="?top_k=2")
    await post(http, "a", query="?top_k=2", **{"X-Camera": "hall"})
    assert [len(stream.frames) for stream in cloud.streams] == [1, 1, 1]
    opened = cloud.streams[2].opened
    assert opened is not None
    assert (opened.camera, opened.wanted.top_k) == ("hall", 2)


async def test_a_base_says_what_it_cannot_answer(http: httpx.AsyncClient, cloud: Cloud) -> None:
    cloud.act = lambda stream, frame: Answered({}, (TASK.name,))
    told = await post(http, "a")
    assert told.warnings == (
        "only the base of this image was sent; tasks that need the rest: classification",
    )


@pytest.mark.parametrize(
    ("query", "session", "text"),
    [
        ("", "a b", "X-Session: a session's name"),
        ("", "x" * 65, "X-Session: a session's name"),
        ("?bytes_max=100", "a", "one quality, not one size"),
        ("?quality=99", "a", "quality 99"),
    ],
)
async def test_problems(http: httpx.AsyncClient, query: str, session: str, text: str) -> None:
    answer = await http.post(f"/analyze{query}", content=png(0), headers=IMAGE | {"X-Session": session})
    assert text in problem(answer, 422)["detail"]


async def test_a_session_twice(http: httpx.AsyncClient) -> None:
    headers = [("X-Session", "a"), ("X-Session", "b"), *IMAGE.items()]
    answer = await http.post("/analyze", content=png(0), headers=headers)
    assert "more than once" in problem(answer, 422)["detail"]


async def test_an_image_that_is_none(http: httpx.AsyncClient) -> None:
    answer = await http.post("/analyze", content=b"hello", headers=IMAGE | {"X-Session": "a"})
    problem(answer, 415)


def test_an_edge_without_sessions(encoder: Encoder, tmp_path: Path) -> None:
    async def ask() -> None:
        edge = Pipeline(encoder, Client(CloudLink(), transport=Unasked()))
        app = build_app(lambda: edge, HttpSettings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as client:
            answer = await client.post("/analyze", content=png(0), headers=IMAGE | {"X-Session": "a"})
            assert "no sessions" in problem(answer, 422)["detail"]
        await edge.close()

    asyncio.run(ask())
