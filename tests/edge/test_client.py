"""The edge's client and pipeline: repeats, deadlines, what is in flight; on a scripted transport, then on gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cloud.pipeline import Pipeline as CloudPipeline
from edge import client as edge_client
from edge.client import Client
from edge.pipeline import Pipeline
from edge.settings import CloudLink
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import (
    CloudUnreachableError,
    DeadlineError,
    NotReadyError,
    OverloadedError,
    RemoteRejectedError,
    RequestError,
)
from shared.types import Analysis, TaskQuery, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from support.service import png, until

ALL = Wanted()


class Scripted:
    """A transport that does what `act` says for each attempt."""

    def __init__(self, act: Callable[[pb.AnalyzeRequest, float], Awaitable[pb.AnalyzeResponse]]) -> None:
        self.act = act
        self.attempts: list[tuple[str, float]] = []
        self.running = self.most_running = 0

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        self.attempts.append((request.request_id, timeout_s))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            return await self.act(request, timeout_s)
        finally:
            self.running -= 1

    async def describe(self, timeout_s: float) -> pb.DescribeResponse:
        return pb.DescribeResponse()

    async def close(self) -> None:
        pass


def answer(request: pb.AnalyzeRequest) -> pb.AnalyzeResponse:
    return pb.AnalyzeResponse(request_id=request.request_id, bundle="b", fingerprint="00000000")


def link(**changed: Any) -> CloudLink:
    return CloudLink(**{"deadline_ms": 20_000, **changed})


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_client, "FIRST_WAIT_S", 0.001)


def failing(errors: list[Exception]) -> Scripted:
    async def act(request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        if errors:
            raise errors.pop(0)
        return answer(request)

    return Scripted(act)


async def test_an_unavailable_cloud_is_asked_again_with_the_same_id(bundle: Bundle) -> None:
    transport = failing([CloudUnreachableError("loading"), CloudUnreachableError("loading")])
    analysis = await Client(link(), transport=transport).analyze("mine", b"", ALL)
    assert analysis.request_id == "mine"
    assert [request_id for request_id, _ in transport.attempts] == ["mine"] * 3


async def test_attempts_are_bounded(bundle: Bundle) -> None:
    transport = failing([CloudUnreachableError("refused")] * 99)
    with pytest.raises(CloudUnreachableError, match=r"cloud.example:1 .*tried 3 times.*refused"):
        await Client(link(attempts_max=3, address="cloud.example:1"), transport=transport).analyze(
            "a", b"", ALL
        )
    assert len(transport.attempts) == 3


async def test_no_attempt_begins_that_the_deadline_would_end(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_client, "FIRST_WAIT_S", 60.0)
    transport = failing([CloudUnreachableError("refused")] * 99)
    async with asyncio.timeout(10):
        with pytest.raises(CloudUnreachableError, match="tried once"):
            await Client(link(deadline_ms=1_000), transport=transport).analyze("a", b"", ALL)


@pytest.mark.parametrize(
    "error", [RemoteRejectedError("NOT_FOUND", "unknown task"), OverloadedError("full"), RequestError("x")]
)
async def test_what_does_not_pass_is_not_asked_again(bundle: Bundle, error: Exception) -> None:
    transport = failing([error])
    with pytest.raises(type(error), match=str(error)):
        await Client(link(), transport=transport).analyze("a", b"", ALL)
    assert len(transport.attempts) == 1


async def test_the_deadline_holds_even_if_the_transport_does_not(bundle: Bundle) -> None:
    async def never(request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        await asyncio.Event().wait()
        raise AssertionError

    transport = Scripted(never)
    with pytest.raises(DeadlineError, match="within 50 ms"):
        await Client(link(deadline_ms=50), transport=transport).analyze("a", b"", ALL)
    assert 0 < transport.attempts[0][1] <= 0.05


async def test_what_is_in_flight_is_capped(bundle: Bundle) -> None:
    go = asyncio.Event()

    async def wait(request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        await go.wait()
        return answer(request)

    transport = Scripted(wait)
    client = Client(link(in_flight_max=3), transport=transport)
    tasks = [asyncio.create_task(client.analyze(f"r{i}", b"", ALL)) for i in range(10)]
    await until(lambda: transport.running == 3)
    go.set()
    await asyncio.gather(*tasks)
    assert transport.most_running == 3
    assert len(transport.attempts) == 10


async def test_waiting_for_a_place_is_within_the_deadline(bundle: Bundle) -> None:
    async def never(request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        await asyncio.Event().wait()
        raise AssertionError

    transport = Scripted(never)
    client = Client(link(in_flight_max=1, deadline_ms=50), transport=transport)
    outcomes = await asyncio.gather(*(client.analyze(i, b"", ALL) for i in "ab"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DeadlineError] * 2
    assert [request_id for request_id, _ in transport.attempts] == ["a"]


@pytest.fixture
async def edge(
    bundle: Bundle, encoder: Encoder, pipeline: CloudPipeline, make_grpc_server: Any
) -> AsyncIterator[Pipeline]:
    """An edge in front of a real gRPC server."""
    async with make_grpc_server(lambda: pipeline) as (address, _):
        made = Pipeline(encoder, Client(link(address=address)))
        yield made
        await made.close()


async def test_an_image_to_its_answer_over_grpc(edge: Pipeline, packed: list[bytes]) -> None:
    analysis = await edge.analyze(png(0), Wanted(top_k=1), "mine")
    assert isinstance(analysis, Analysis)
    assert analysis.request_id == "mine"
    assert analysis.bytes.total == len(packed[0])
    assert len(analysis.results["classification"].top) == 1
    assert None not in analysis.times.model_dump().values()
    assert (analysis.times.send_ms or 0) >= (analysis.times.tails_ms or 0)


async def test_refusals_keep_their_text_over_grpc(edge: Pipeline) -> None:
    with pytest.raises(RemoteRejectedError, match="'nope'") as caught:
        await edge.analyze(png(0), Wanted(tasks=(TaskQuery(name="nope"),)), "mine")
    assert caught.value.code == "NOT_FOUND"
    assert await edge.client.describe()


async def test_a_cloud_that_is_loading_is_asked_until_it_is_ready(
    bundle: Bundle, packed: list[bytes], pipeline: CloudPipeline, make_grpc_server: Any
) -> None:
    asked = 0

    def ready_at_the_third() -> CloudPipeline:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise NotReadyError("loading")
        return pipeline

    async with (
        make_grpc_server(ready_at_the_third) as (address, _),
        Client(link(address=address)) as client,
    ):
        await client.analyze("mine", packed[0], ALL)
    assert asked == 3


async def test_a_cloud_that_is_not_there(bundle: Bundle) -> None:
    async with Client(link(address="127.0.0.1:1")) as client:
        with pytest.raises(CloudUnreachableError, match=r"127\.0\.0\.1:1 cannot be reached"):
            await client.analyze("mine", b"", ALL)
        with pytest.raises(CloudUnreachableError):
            await client.describe()


async def test_a_cloud_that_does_not_answer(
    bundle: Bundle, packed: list[bytes], pipeline: CloudPipeline, model: Any, make_grpc_server: Any
) -> None:
    model.gate.clear()
    async with (
        make_grpc_server(lambda: pipeline) as (address, _),
        Client(link(address=address, deadline_ms=200)) as client,
    ):
        with pytest.raises(DeadlineError, match=f"{address} did not answer within 200 ms"):
            await client.analyze("mine", packed[0], ALL)
    model.gate.set()


def test_wanted_is_not_lost_on_the_way() -> None:
    wanted = Wanted(tasks=(TaskQuery(name="a", top_k=9),), top_k=3)
    assert convert.wanted_of(convert.request_message("a", b"", wanted)) == wanted
