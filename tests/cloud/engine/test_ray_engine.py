"""A server before a Ray of its own: the same answers as without it, and what is left when a replica dies."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cloud.engine.load import load
from cloud.pipeline import Pipeline
from cloud.settings import PipelineSettings
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE
from shared.types import Analysis, Wanted
from support.processes import Server, server
from support.service import OneBundle

pytest.importorskip("ray", reason="comes with the extra ray")
pytestmark = pytest.mark.slow  # a whole server and its Ray

REPLICAS = 2
SENT = 48
SETTINGS = """
[ray]
replicas_min = {replicas}
cpus = 0.25
machine_cpus = 2
folder = "{folder}"
[engine]
threads = 1
[http]
requests_max = 64
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix="ray", ignore_cleanup_errors=True
    ) as path:  # sockets have short names
        yield Path(path)


@pytest.fixture(scope="module")
def served(tiny_bundle: Path, folder: Path) -> Iterator[tuple[Server, str]]:
    """A server's process, and the address of its HTTP."""
    (folder / "cloud.toml").write_text(SETTINGS.format(replicas=REPLICAS, folder=folder))
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # everything on the loopback address
    arguments = (
        "--bundle",
        tiny_bundle,
        "--config",
        folder / "cloud.toml",
        "--grpc-port",
        0,
        "--http-port",
        0,
    )
    with server("cloud", "serve", "--engine", "ray", *map(str, arguments)) as process:
        http = process.event("listening")["http"]
        process.event("ready", 600)
        yield process, f"http://{http}"


def replicas(process: Server) -> set[int]:
    below = psutil.Process(process.process.pid).children(recursive=True)
    return {one.pid for one in below if "ServeReplica" in " ".join(one.cmdline())}


async def post(address: str, streams: list[bytes], name: str) -> list[httpx.Response]:
    async with httpx.AsyncClient(
        base_url=address, timeout=60, limits=httpx.Limits(max_connections=64)
    ) as http:
        headers = {"Content-Type": MEDIA_TYPE}
        calls = [
            http.post("/analyze", content=data, headers=headers | {"X-Request-ID": f"{name}{i}"})
            for i, data in enumerate(streams)
        ]
        return await asyncio.gather(*calls)


def scores(analysis: Analysis) -> dict[str, Any]:
    result: Any = analysis.results["classification"]
    return {best.label: pytest.approx(best.score, abs=1e-5) for best in result.top}


async def test_the_same_answers_as_without_ray(
    served: tuple[Server, str], bundle: Bundle, packed: list[bytes], packed_1: list[bytes]
) -> None:
    local = Pipeline(OneBundle(bundle, load(bundle, threads=1).model), PipelineSettings())
    for version, streams in enumerate((packed_1, packed), 1):
        expected = [await local.analyze(data, Wanted(), f"{i}{version}") for i, data in enumerate(streams)]
        answers = await post(served[1], streams, f"v{version}-")
        for answer, other in zip(answers, expected, strict=True):
            assert answer.status_code == 200, answer.text
            assert scores(Analysis.model_validate(answer.json())) == scores(other)
    await local.close()


async def test_a_killed_replica_loses_no_request(served: tuple[Server, str], packed: list[bytes]) -> None:
    """Each is answered, by another replica where it has to be, or refused with a time to send it again."""
    process, address = served
    before = replicas(process)
    assert len(before) == REPLICAS
    running = asyncio.create_task(post(address, packed * (SENT // 8), "k"))
    await asyncio.sleep(0)
    os.kill(min(before), signal.SIGKILL)
    first = await running
    assert {one.status_code for one in first} <= {200, 429, 503}
    assert all("retry-after" in one.headers for one in first if one.status_code != 200)
    left = [i for i, one in enumerate(first) if one.status_code != 200]
    assert len(left) < SENT
    again = await post(address, packed * (SENT // 8), "k")  # a repeat is answered from what is remembered
    assert [one.status_code for one in again] == [200] * SENT


def test_a_server_that_is_killed_leaves_no_process(served: tuple[Server, str]) -> None:
    process, _ = served
    below = psutil.Process(process.process.pid).children(recursive=True)
    assert len(below) > REPLICAS
    process.process.kill()
    _, alive = psutil.wait_procs(below, timeout=150)  # two of Ray's agents look for it once a minute or so
    assert not alive
