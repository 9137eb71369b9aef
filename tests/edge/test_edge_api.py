"""The edge's HTTP face, in process, on a scripted client: answers, and the problems that only an edge has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cloud.pipeline import Pipeline as CloudPipeline
from edge.api import build_app
from edge.client import Client
from edge.pipeline import Pipeline
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE
from shared.encoder import Encoder
from shared.errors import (
    CloudUnreachableError,
    DeadlineError,
    NotReadyError,
    OverloadedError,
    RemoteError,
    RemoteRejectedError,
)
from shared.process.config import HttpSettings
from shared.process.http import PROBLEM_TYPE
from shared.times import captured_at_of
from shared.types import Analysis
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from support.service import bomb, png, problem

IMAGE = {"Content-Type": "image/png"}


class ToPipeline:
    """A transport into a cloud pipeline of this process; raises `error` instead where it is set."""

    def __init__(self, pipeline: CloudPipeline) -> None:
        self.pipeline = pipeline
        self.error: Exception | None = None

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        if self.error is not None:
            raise self.error
        wanted, when = convert.wanted_of(request), captured_at_of(request.captured_at)
        return convert.response_message(
            await self.pipeline.analyze(
                request.bitstream, wanted, request.request_id, timeout_s, request.camera, when
            )
        )

    async def describe(self, timeout_s: float) -> pb.DescribeResponse:
        return convert.describe_message([self.pipeline.infos()[0]])

    async def close(self) -> None:
        pass


@pytest.fixture
def transport(pipeline: CloudPipeline) -> ToPipeline:
    return ToPipeline(pipeline)


@pytest.fixture
async def http(bundle: Bundle, encoder: Encoder, transport: ToPipeline) -> AsyncIterator[httpx.AsyncClient]:
    edge = Pipeline(encoder, Client(CloudLink(attempts_max=1), transport=transport))
    app = build_app(lambda: edge, HttpSettings(image_bytes_max=100_000))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as client:
        yield client
    await edge.close()


async def test_an_image(http: httpx.AsyncClient, packed: list[bytes]) -> None:
    answer = await http.post(
        "/analyze?tasks=classification&top_k=2", content=png(0), headers=IMAGE | {"X-Request-Id": "mine"}
    )
    assert answer.status_code == 200, answer.text
    analysis = Analysis.model_validate(answer.json())
    assert analysis.request_id == answer.headers["x-request-id"] == "mine"
    assert analysis.bytes.total == len(packed[0])
    assert len(analysis.results["classification"].top) == 2
    assert len(answer.json()["times"]) == 7


async def test_the_capture_time_goes_to_the_cloud_and_comes_back(http: httpx.AsyncClient) -> None:
    headers = IMAGE | {"X-Captured-At": "2026-11-22T14:00:00+01:00"}
    answer = await http.post("/analyze", content=png(0), headers=headers)
    assert answer.json()["captured_at"] == "2026-11-22T13:00:00Z"


async def test_edge_and_cloud_are_ready_apart(http: httpx.AsyncClient, transport: ToPipeline) -> None:
    transport.error = CloudUnreachableError("gone")
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (CloudUnreachableError("gone"), 503, "5"),
        (OverloadedError("full"), 429, "1"),
        (DeadlineError("late"), 504, None),
        (RemoteError("nonsense"), 502, None),
        (RemoteRejectedError("INTERNAL", "broken"), 502, None),
        (RemoteRejectedError("NOT_FOUND", "unknown task"), 404, None),
        (RemoteRejectedError("FAILED_PRECONDITION", "another bundle"), 409, None),
        (RemoteRejectedError("INVALID_ARGUMENT", "no"), 422, None),
        (KeyError("secret"), 500, None),
    ],
)
async def test_what_the_cloud_does(
    http: httpx.AsyncClient, transport: ToPipeline, error: Exception, status: int, retry_after: str | None
) -> None:
    transport.error = error
    answer = await http.post("/analyze", content=png(0), headers=IMAGE)
    assert "secret" not in problem(answer, status)["detail"]
    assert answer.headers.get("retry-after") == retry_after


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "text"),
    [
        ("/analyze", b"hello world", IMAGE, 415, "not an image"),
        ("/analyze", b"hello world", {"Content-Type": "text/plain"}, 415, "text/plain"),
        ("/analyze", b"hello world", {"Content-Type": MEDIA_TYPE}, 415, "image/*"),
        ("/analyze", png(0)[:2000], IMAGE, 400, "damaged"),
        ("/analyze", bomb(), IMAGE, 413, "megapixels"),
        ("/analyze", bytes(100_001), IMAGE, 413, "100000 bytes"),
        ("/analyze", png(0), IMAGE | {"X-Captured-At": "noon"}, 422, "X-Captured-At: 'noon' is not"),
        ("/analyze?tasks=nope", png(0), IMAGE, 404, "classification"),
        ("/analyze?quality=99", png(0), IMAGE, 422, "quality 99"),
    ],
    ids=lambda value: "" if isinstance(value, bytes | dict) else None,
)
async def test_problems(
    http: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    assert text in problem(await http.post(path, content=body, headers=headers), status)["detail"]


async def test_on_loopback_no_page_of_another_site_is_answered(bundle: Bundle) -> None:
    def loading() -> Any:
        raise NotReadyError("loading")

    app = build_app(loading, HttpSettings(), host="127.0.0.1")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8090"
    ) as http:
        for headers in (
            {"Host": "evil.example.org:8090"},  # a name that points at this machine
            {"Host": "evil.example.org", "Origin": "http://evil.example.org"},
            {"Origin": "https://evil.example.org"},
            {"Origin": "null"},
            {"Host": "[::1"},
        ):
            problem(await http.post("/analyze", content=png(0), headers=IMAGE | headers), 403)
            problem(await http.get("/healthz", headers=headers), 403)
        for host in ("localhost", "localhost:1234", "127.0.0.1:8090", "[::1]:8090"):
            assert (await http.get("/healthz", headers={"Host": host})).status_code == 200
            own = {"Host": host, "Origin": f"http://{host}"}
            assert (await http.get("/healthz", headers=own)).status_code == 200
    app = build_app(loading, HttpSettings(), host="0.0.0.0")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as http:
        assert (await http.get("/healthz")).status_code == 200


async def test_while_loading(bundle: Bundle) -> None:
    def loading() -> Any:
        raise NotReadyError("loading")

    app = build_app(loading, HttpSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as http:
        problem(await http.get("/readyz"), 503)
        problem(await http.post("/analyze", content=png(0), headers=IMAGE), 503)
        document = (await http.get("/openapi.json")).json()
    answers = document["paths"]["/analyze"]["post"]["responses"]
    titles = {
        status: answer["content"][PROBLEM_TYPE]["example"]["title"]
        for status, answer in answers.items()
        if status != "200"
    }
    assert (titles["404"], titles["409"]) == ("Unknown to the cloud", "Cloud has another bundle")
    assert {"400", "404", "405", "408", "409", "413", "415", "422", "429", "502", "503", "504"} < set(answers)
