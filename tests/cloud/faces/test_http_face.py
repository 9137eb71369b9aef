"""The cloud's HTTP face, in process: answers, and every problem."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import shared.process.http
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from shared.bundle import Bundle
from shared.codec.bitstream import MAX_STREAM_BYTES, MEDIA_TYPE, Bitstream
from shared.errors import NotReadyError
from shared.process.config import HttpSettings
from shared.process.logs import TextLines
from shared.types import Analysis
from support.service import GatedModel, bomb, png, problem, until

BOTH_ENGINES = (pytest.mark.slow,)

ROOMS = Path(__file__).parents[3] / "deploy" / "bundles" / "rooms"
IMAGE = {"Content-Type": "image/png"}
STREAM = {"Content-Type": MEDIA_TYPE}


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud")


@pytest.fixture
async def http(pipeline: Pipeline) -> AsyncIterator[httpx.AsyncClient]:
    changed = HttpSettings(image_bytes_max=100_000, requests_max=2)
    async with client_of(build_app(lambda: pipeline, changed)) as client:
        yield client


@pytest.mark.parametrize(
    "kind", ["image/png", "image/anything", "application/octet-stream", "IMAGE/PNG; a=b", None]
)
async def test_an_image(http: httpx.AsyncClient, packed: list[bytes], kind: str | None) -> None:
    answer = await http.post("/analyze", content=png(0), headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 200, answer.text
    analysis = Analysis.model_validate(answer.json())
    assert analysis.bytes.total == len(packed[0])
    assert analysis.request_id == answer.headers["x-request-id"]
    assert {"read_ms", "front_ms", "code_ms", "queue_ms", "decode_ms", "tails_ms"} == set(
        answer.json()["times"]
    )


async def test_a_bitstream(http: httpx.AsyncClient, packed: list[bytes]) -> None:
    answer = await http.post(
        "/analyze?tasks=classification&top_k=1",
        content=packed[0],
        headers=STREAM | {"X-Request-Id": "mine.1"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine.1"
    assert len(answer.json()["results"]["classification"]["top"]) == 1


@pytest.mark.parametrize("kind", ["image", "stream"])
async def test_the_capture_time_comes_back_in_utc(
    http: httpx.AsyncClient, packed: list[bytes], kind: str
) -> None:
    body, headers = (png(0), IMAGE) if kind == "image" else (packed[0], STREAM)
    timed = headers | {"X-Captured-At": "2026-11-22T14:00:00.5+01:00"}
    answer = await http.post("/analyze", content=body, headers=timed)
    assert answer.json()["captured_at"] == "2026-11-22T13:00:00.500000Z"
    assert answer.json()["warnings"] == []
    assert "captured_at" not in (await http.post("/analyze", content=body, headers=headers)).json()


async def test_a_repeat_is_computed_once(
    http: httpx.AsyncClient, packed: list[bytes], model: GatedModel
) -> None:
    headers = STREAM | {"X-Request-Id": "same"}
    first, second = [await http.post("/analyze", content=packed[0], headers=headers) for _ in range(2)]
    assert first.json() == second.json()
    assert len(model.batches) == 1
    told = problem(await http.post("/analyze", content=packed[1], headers=headers), 422)
    assert "used before" in told["detail"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "text"),
    [
        ("/analyze", b"hello world", IMAGE, 415, "not an image"),
        ("/analyze", b"hello world", {}, 415, "not an image"),
        ("/analyze", png(0), {"Content-Type": "text/plain"}, 415, "text/plain"),
        ("/analyze", png(0), {"Content-Type": "multipart/form-data"}, 415, "image/*"),
        ("/analyze", png(0)[:2000], IMAGE, 400, "damaged"),
        ("/analyze", b"", IMAGE, 422, "empty"),
        ("/analyze", bomb(), IMAGE, 413, "megapixels"),
        ("/analyze", bomb(8_000, 8_000), IMAGE, 413, "8000 x 8000"),
        ("/analyze", bytes(100_001), IMAGE, 413, "100000 bytes"),
        ("/analyze", bytes(MAX_STREAM_BYTES + 1), STREAM, 413, "larger"),
        ("/analyze", b"hello", STREAM, 400, "first byte"),
        ("/analyze?tasks=nope", png(0), IMAGE, 404, "classification"),
        ("/analyze?tasks=a,a", png(0), IMAGE, 404, "'a'"),
        ("/analyze?tasks=classification,classification", png(0), IMAGE, 422, "twice"),
        (f"/analyze?tasks={'x' * 65}", png(0), IMAGE, 422, "64 characters"),
        ("/analyze?top_k=0", png(0), IMAGE, 422, "top_k"),
        ("/analyze?top_k=many", png(0), IMAGE, 422, "top_k"),
        ("/analyze?quality=99", png(0), IMAGE, 422, "quality 99"),
        ("/analyze?quality=101", png(0), IMAGE, 422, "quality"),
        ("/analyze", png(0), IMAGE | {"X-Request-Id": "a b"}, 422, "X-Request-Id"),
        ("/analyze", png(0), IMAGE | {"X-Captured-At": "2026-11-22T13:00:00"}, 422, "X-Captured-At: "),
        ("/analyze", png(0), IMAGE | {"X-Captured-At": "noon"}, 422, "RFC 3339 with a zone"),
        ("/nothing", b"", {}, 404, "/docs"),
    ],
    ids=lambda value: "" if isinstance(value, bytes | dict) else None,
)
async def test_problems(
    http: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    told = problem(await http.post(path, content=body, headers=headers), status)
    assert text in told["detail"]


async def test_a_wrong_method(http: httpx.AsyncClient) -> None:
    answer = await http.get("/analyze")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


async def test_another_bundles_stream(
    http: httpx.AsyncClient, packed: list[bytes], packed_1: list[bytes], bundle: Bundle
) -> None:
    other = replace(Bitstream.unpack(packed_1[0]), fingerprint=b"\xde\xad\xbe\xef").pack()
    told = problem(await http.post("/analyze", content=other, headers=STREAM), 409)
    assert "deadbeef" in told["detail"]
    assert bundle.fingerprint.hex() in told["detail"]


async def test_a_body_without_a_length_is_cut_while_it_comes(http: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 10_000
            yield bytes(10_000)

    problem(await http.post("/analyze", content=endless(), headers=IMAGE), 413)
    assert sent <= 120_000


async def test_a_body_that_does_not_come(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.process.http, "BODY_TIMEOUT_S", 0.05)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    problem(await http.post("/analyze", content=stuck(), headers=IMAGE), 408)


async def test_all_bodies_together_have_a_budget(pipeline: Pipeline) -> None:
    picture = png(0)
    changed = HttpSettings(image_bytes_max=100_000, bodies_bytes_max=100_000 + len(picture) // 2)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(100_000 - len(picture) // 4)
        arrived.set()
        await go_on.wait()

    async def unannounced() -> AsyncIterator[bytes]:
        yield picture

    async with client_of(build_app(lambda: pipeline, changed)) as http:
        running = asyncio.create_task(http.post("/analyze", content=slow(), headers=IMAGE))
        await arrived.wait()
        for body in (picture, unannounced()):
            told = problem(await http.post("/analyze", content=body, headers=IMAGE), 429)
            assert "bodies" in told["detail"]
        go_on.set()
        problem(await running, 415)
        # What a request held is free again, however it ended.
        assert (await http.post("/analyze", content=picture, headers=IMAGE)).status_code == 200


async def test_a_body_is_held_once(pipeline: Pipeline) -> None:
    size = 16 << 20

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(size >> 16):
            yield bytes(1 << 16)

    async with client_of(build_app(lambda: pipeline, HttpSettings())) as http:
        problem(await http.post("/analyze", content=b"x", headers=IMAGE), 415)
        tracemalloc.start()
        try:
            problem(await http.post("/analyze", content=parts(), headers=IMAGE), 415)
            assert tracemalloc.get_traced_memory()[1] < 1.5 * size
        finally:
            tracemalloc.stop()


async def test_overload_is_told_before_the_body_is_read(
    http: httpx.AsyncClient, packed: list[bytes], model: GatedModel, pipeline: Pipeline
) -> None:
    model.gate.clear()
    running = [
        asyncio.create_task(http.post("/analyze", content=packed[i], headers=STREAM)) for i in range(2)
    ]
    await asyncio.to_thread(model.entered.wait, 30)
    await until(lambda: pipeline.waiting + sum(model.batches) == 2)
    answer = await http.post("/analyze", content=packed[2], headers=STREAM)
    problem(answer, 429)
    assert answer.headers["retry-after"] == "1"
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).status_code == 200
    model.gate.set()
    assert [one.status_code for one in await asyncio.gather(*running)] == [200, 200]
    assert (await http.post("/analyze", content=packed[2], headers=STREAM)).status_code == 200


async def test_a_late_answer(make_pipeline: Any, packed: list[bytes], model: GatedModel) -> None:
    async with (
        make_pipeline(deadline_ms=50) as pipeline,
        client_of(build_app(lambda: pipeline, HttpSettings())) as http,
    ):
        model.gate.clear()
        problem(await http.post("/analyze", content=packed[0], headers=STREAM), 504)
        problem(await http.post("/analyze", content=png(1), headers=IMAGE), 504)


async def test_unexpected_errors_say_nothing_of_the_inside(
    http: httpx.AsyncClient, packed: list[bytes], model: GatedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(TextLines())
    model.fail = RuntimeError("secret /path/of/the/server")
    answer = await http.post("/analyze", content=packed[0], headers=STREAM | {"X-Request-Id": "seek-me"})
    told = problem(answer, 500)
    assert "secret" not in json.dumps(told)
    assert "secret" in caplog.text
    assert "seek-me" in caplog.text


async def test_while_loading() -> None:
    def loading() -> Any:
        raise NotReadyError("loading")

    async with client_of(build_app(loading, HttpSettings())) as http:
        assert (await http.get("/healthz")).json() == {"status": "alive"}
        for answer in (
            await http.get("/readyz"),
            await http.get("/v1/bundles"),
            await http.post("/analyze", content=png(0), headers=IMAGE),
        ):
            problem(answer, 503)
            assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_head_answers_like_get(http: httpx.AsyncClient, path: str) -> None:
    got, head = await http.get(path), await http.head(path)
    assert head.status_code == 200
    assert head.headers["content-length"] == got.headers["content-length"]


async def test_bundles(http: httpx.AsyncClient, bundle: Bundle) -> None:
    answer = await http.get("/v1/bundles")
    assert answer.json() == [bundle.info().model_dump(mode="json")]


async def test_openapi_tells_bodies_problems_and_examples(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    analyze = document["paths"]["/analyze"]["post"]
    assert set(analyze["requestBody"]["content"]) == {"image/*", MEDIA_TYPE}
    assert {"400", "404", "405", "408", "409", "413", "415", "422", "429", "503", "504"} < set(
        analyze["responses"]
    )
    refused = analyze["responses"]["413"]["content"]
    assert list(refused) == ["application/problem+json"]
    assert refused["application/problem+json"]["example"]["status"] == 413
    example = analyze["responses"]["200"]["content"]["application/json"]["example"]
    answer, rooms = Analysis.model_validate(example), Bundle.open(ROOMS).info()
    assert (answer.bundle, answer.quality in rooms.qualities) == (rooms.name, True)
    schemas = {one["name"]: one["schema"] for one in analyze["parameters"]}
    assert set(schemas) == {
        "tasks",
        "top_k",
        "maps",
        "vectors",
        "quality",
        "bytes_max",
        "x-camera",
        "x-captured-at",
    }
    assert (schemas["tasks"]["type"], schemas["tasks"]["items"]) == ("array", {"type": "string"})
    assert (schemas["top_k"]["minimum"], schemas["top_k"]["maximum"]) == (1, 100)
    assert schemas["maps"]["enum"] == ["none", "png"]
    [asked] = schemas["tasks"]["examples"]
    tasks = {task.name: task.labels for task in rooms.tasks}
    assert set(asked) | set(answer.results) <= set(tasks)
    for name, result in answer.results.items():
        assert all(tasks[name][best.index] == best.label for best in result.top)
    assert (await http.get("/docs")).status_code == 200
