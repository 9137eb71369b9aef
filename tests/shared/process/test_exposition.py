"""Registries of their own, bounded labels, and GET /metrics with the requests that it counts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics import parser as openmetrics

from shared.process.http import create_app
from shared.process.metrics import OTHER, Bounded, Metrics
from support.exposition import Numbers
from support.tools import promtool

REQUESTS = "isthmus_test_requests_total"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture
def app(metrics: Metrics) -> FastAPI:
    app = create_app("test", "test", 4, 1 << 20, metrics=metrics)

    @app.get("/rooms/{name}")
    async def room(name: str) -> str:
        if name == "burning":
            raise ValueError(name)
        return name

    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


def test_a_bound_keeps_what_it_knows() -> None:
    bounded = Bounded(2)
    assert [bounded(name) for name in "abcab"] == ["a", "b", OTHER, "a", "b"]


def test_two_servers_of_a_process_do_not_mix(metrics: Metrics) -> None:
    other = Metrics("test")
    metrics.requests.ended("http", "GET /", "200", 0.1)
    assert Numbers(metrics.exposition()[0].decode())(REQUESTS) == 1
    assert Numbers(other.exposition()[0].decode())(REQUESTS) == 0


async def test_requests_are_counted_by_route_and_status(http: httpx.AsyncClient) -> None:
    for path in ("/rooms/blue", "/rooms/red", "/rooms/burning", "/nothing", "/something"):
        await http.get(path)
    await http.request("GET-ALL", "/rooms/blue")
    numbers = Numbers((await http.get("/metrics")).text)
    assert numbers(REQUESTS, method="GET /rooms/{name}", status="200") == 2
    assert numbers(REQUESTS, method="GET /rooms/{name}", status="500") == 1
    assert numbers(REQUESTS, method=OTHER, status="404") == 2
    assert numbers(REQUESTS, method=OTHER, status="405") == 1
    assert numbers.labels(REQUESTS, "method") == {"GET /rooms/{name}", OTHER}
    seconds = "isthmus_test_request_seconds_count"
    assert numbers(seconds, protocol="http", method="GET /rooms/{name}") == 3
    assert numbers("process_resident_memory_bytes") > 1e6
    assert Numbers((await http.get("/metrics")).text)(REQUESTS, method="GET /metrics", status="200") == 1


async def test_no_client_chooses_the_number_of_series(http: httpx.AsyncClient) -> None:
    before = len(Numbers((await http.get("/metrics")).text).series)
    for number in range(30):
        await http.request(f"VERB{number}", f"/path/{number}", headers={"X-Request-Id": f"id-{number}"})
        await http.get(f"/rooms/{number}?key={number}")
    numbers = Numbers((await http.get("/metrics")).text)
    assert len(numbers.series) - before < 80  # a histogram of one method has 17
    assert not re.search(r"id-\d|VERB\d|path/\d", numbers.text)


@pytest.mark.parametrize("version", ["", "; version=1.0.0", "; version=x.y", "; version=9.9;\x0bq=1"])
async def test_open_metrics_on_request(http: httpx.AsyncClient, version: str) -> None:
    answer = await http.get("/metrics", headers={"Accept": f"application/openmetrics-text{version}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert list(openmetrics.text_string_to_metric_families(answer.text))
    plain = await http.get("/metrics", headers={"Accept": "text/html"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_names_are_as_prometheus_wants_them(metrics: Metrics) -> None:
    metrics.requests.ended("http", "GET /", "200", 0.1)
    command, (text, _) = [promtool(), "check", "metrics"], metrics.exposition()
    done = subprocess.run(command, input=text, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    wrong = text.replace(b"request_seconds", b"request_milliseconds")
    assert subprocess.run(command, input=wrong, capture_output=True, timeout=60).returncode != 0
