"""What a client may set over HTTP: nothing unknown or repeated is ignored, lists come in two forms, OpenAPI agrees."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, Request

from shared.process.http import create_app, media_type, read_body
from shared.process.http_parameters import AnalyzeParameters, analyze_parameters, no_query
from support.service import problem

KNOWN = "known are tasks, top_k, maps, vectors, quality, bytes_max"


@pytest.fixture
def http() -> httpx.AsyncClient:
    app = create_app("test", "test", requests_max=4, bodies_bytes_max=1000)

    @app.post("/analyze")
    async def analyze(
        request: Request, parameters: Annotated[AnalyzeParameters, Depends(analyze_parameters)]
    ) -> dict[str, Any]:
        kind = media_type(request)
        return {
            "tasks": [query.name for query in parameters.wanted.tasks],
            "top_k": parameters.wanted.top_k,
            "maps": parameters.wanted.maps,
            "quality": parameters.quality,
            "bytes_max": parameters.bytes_max,
            "camera": parameters.camera,
            "captured_at": str(parameters.captured_at),
            "kind": kind,
            "body": len(await read_body(request, 1000)),
        }

    @app.get("/bare", dependencies=[Depends(no_query)])
    async def bare() -> str:
        return "fine"

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")


async def post(http: httpx.AsyncClient, query: str, **options: Any) -> httpx.Response:
    return await http.post(f"/analyze{query}", content=b"image", **options)


async def test_defaults_and_values(http: httpx.AsyncClient) -> None:
    answer = (await post(http, "")).json()
    assert answer == {
        "tasks": [],
        "top_k": 5,
        "maps": "none",
        "quality": None,
        "bytes_max": None,
        "camera": "",
        "captured_at": "None",
        "kind": "",
        "body": 5,
    }
    query = "?tasks=a&top_k=2&maps=png&quality=50&bytes_max=400"
    headers = {"X-Camera": "door", "X-Captured-At": "2026-11-22T14:00:00+01:00", "Content-Type": "image/png"}
    answer = (await post(http, query, headers=headers)).json()
    assert (answer["tasks"], answer["maps"], answer["quality"]) == (["a"], "png", 50)
    assert (answer["bytes_max"], answer["camera"], answer["kind"]) == (400, "door", "image/png")
    assert answer["captured_at"].startswith("2026-11-22 13:00:00")


@pytest.mark.parametrize("query", ["tasks=a,b", "tasks=a&tasks=b", "tasks=a,&tasks=%20b", "tasks=a%2Cb"])
async def test_a_list_is_repeated_or_separated_by_commas(http: httpx.AsyncClient, query: str) -> None:
    assert (await post(http, f"?{query}")).json()["tasks"] == ["a", "b"]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("task=a", f"unknown parameter 'task'; {KNOWN}"),
        ("top-k=3", f"unknown parameter 'top-k'; {KNOWN}"),
        ("Top_k=3", "unknown parameter 'Top_k'"),
        ("top_k=0&nope", "unknown parameter 'nope'"),
        ("top_k=1&top_k=1", "top_k is given 2 times; give it once"),
        ("quality=50&quality=60&quality=70", "quality is given 3 times"),
        ("maps=png&maps=none", "maps is given 2 times"),
        ("vectors=list&vectors=list", "vectors is given 2 times"),
        ("bytes_max=1&bytes_max=2", "bytes_max is given 2 times"),
        ("top_k=", "top_k: "),
        ("top_k=0", "top_k: "),
        ("maps=all", "maps: "),
        ("maps=arrays", "over gRPC alone"),
        ("&".join(["tasks=a"] * 65), "at most 64"),
        (f"tasks={'a,' * 65}", "at most 64"),
        (f"tasks={'x' * 65}", "64 characters"),
        ("x" * 500, f"'{'x' * 64}'"),
    ],
)
async def test_refused_by_name(http: httpx.AsyncClient, query: str, detail: str) -> None:
    assert detail in problem(await post(http, f"?{query}"), 422)["detail"]


@pytest.mark.parametrize("header", ["X-Camera", "X-Captured-At", "X-Request-Id"])
async def test_a_repeated_header(http: httpx.AsyncClient, header: str) -> None:
    answer = await post(http, "", headers=[(header, "a"), (header, "b")])
    assert f"the header {header} is sent more than once" in problem(answer, 422)["detail"]


async def test_a_call_without_parameters(http: httpx.AsyncClient) -> None:
    assert (await http.get("/bare")).json() == "fine"
    detail = problem(await http.get("/bare?tasks=a"), 422)["detail"]
    assert detail == "unknown parameter 'tasks'; this call takes none"


async def test_the_hint_for_an_empty_body_works_as_typed(http: httpx.AsyncClient) -> None:
    """curl sends files as a form, unless it is told otherwise."""
    detail = problem(await http.post("/analyze"), 422)["detail"]
    assert "curl --data-binary @room.png" in detail
    answer = await post(http, "", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.json()["body"] == 5
    assert "image/*" in problem(await post(http, "", headers={"Content-Type": "text/plain"}), 415)["detail"]


async def test_openapi(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    parameters = {one["name"]: one for one in document["paths"]["/analyze"]["post"]["parameters"]}
    assert set(parameters) == {
        "tasks",
        "top_k",
        "maps",
        "vectors",
        "quality",
        "bytes_max",
        "x-camera",
        "x-captured-at",
    }
    assert parameters["tasks"]["in"] == "query"
    assert parameters["tasks"]["schema"]["type"] == "array"
    assert not any(one.get("required") for one in parameters.values())
    assert all(one.get("description") for one in parameters.values())
    assert "parameters" not in document["paths"]["/bare"]["get"]
