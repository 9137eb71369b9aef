"""Both OpenAPIs and every gRPC method of real servers under generated requests: no 500, no UNKNOWN, no INTERNAL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.process.tokens import SCOPES, TokenGrant, add_token
from support.processes import ROOT, Server, server
from support.service import png

ROOMS = ROOT / "deploy" / "bundles" / "rooms"
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"
GROWTH_MAX = 400 << 20  # bytes that a server may grow by; a leak of each request's picture would be more


@dataclass(frozen=True)
class Pair:
    """A cloud and an edge as processes. token: what opens all of the cloud."""

    cloud: Server
    edge: Server
    grpc: str
    cloud_http: str
    edge_http: str
    token: str
    stream: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    path = tmp_path_factory.mktemp("apis")
    (path / "shelf").mkdir()
    (path / "shelf" / "rooms").symlink_to(ROOMS)
    stream = path / "room.isthmus"
    stream.write_bytes(Encoder(Bundle.open(ROOMS)).encode(png(0)).data)
    token = add_token(path / "tokens.json", TokenGrant("fuzz", SCOPES))
    (path / "token").write_text(token)
    ports = ("--grpc-port", "0", "--http-port", "0", "--archive", path / "kept")
    with server(
        "cloud", "serve", "--bundles", path / "shelf", *ports, "--tokens", path / "tokens.json"
    ) as cloud:
        at = cloud.event("listening")
        cloud.event("ready")
        with server(
            *("edge", "serve", "--bundle", ROOMS, "--cloud", at["grpc"], "--port", "0"),
            *("--token-file", path / "token"),
        ) as edge:
            edge_at = edge.event("listening")["http"]
            edge.event("ready")
            yield Pair(cloud, edge, at["grpc"], at["http"], edge_at, token, stream)


def schemathesis(address: str, token: str, path: Path, *options: str, seconds: int) -> None:
    """Generates requests for every operation of an OpenAPI. Fails on an answer that breaks a check."""
    pytest.importorskip("schemathesis", reason="comes with '.[dev]'")
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://{address}/openapi.json"),
        *("--checks", CHECKS, "--header", f"Authorization:Bearer {token}", "--request-timeout", "60"),
        *("--continue-on-failure", "--no-color", "--max-time", str(seconds), *options),
    ]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=seconds + 150)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Tested:" in done.stdout


def assert_sound(pair: Pair) -> None:
    """Both servers answer as before, and none has said that something unexpected happened."""
    for address, headers in (
        (pair.cloud_http, {"Authorization": f"Bearer {pair.token}"}),
        (pair.edge_http, {}),
    ):
        with httpx.Client(base_url=f"http://{address}", headers=headers, timeout=60) as client:
            assert client.get("/readyz").status_code == 200
            answer = client.post("/analyze", content=png(0), headers={"Content-Type": "image/png"})
            assert answer.status_code == 200, answer.text


def memory(one: Server) -> int:
    return int(psutil.Process(one.process.pid).memory_info().rss)


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_http(pair: Pair, tmp_path: Path, side: str) -> None:
    address = pair.cloud_http if side == "cloud" else pair.edge_http
    schemathesis(
        address, pair.token, tmp_path, "--max-examples", "2", "--seed", "1", "--phases", "fuzzing", seconds=6
    )
    assert_sound(pair)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_http_for_ten_minutes(pair: Pair, tmp_path: Path, side: str) -> None:
    address, one = (pair.cloud_http, pair.cloud) if side == "cloud" else (pair.edge_http, pair.edge)
    before = memory(one)
    schemathesis(address, pair.token, tmp_path, "--phases", "coverage,fuzzing,stateful", seconds=600)
    assert_sound(pair)
    assert memory(one) < before + GROWTH_MAX


def grpc_ends(pair: Pair, count: int, seed: int, timeout_s: float) -> dict[str, int]:
    command = [
        sys.executable,
        "-m",
        "support.fuzz_grpc",
        pair.grpc,
        "--count",
        str(count),
        "--seed",
        str(seed),
    ]
    done = subprocess.run(
        [*command, "--stream", str(pair.stream), "--token", pair.token],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""  # the messages of calls that ended as they must not
    ends: dict[str, int] = json.loads(done.stdout)
    assert sum(ends.values()) == count
    return ends


def test_grpc(pair: Pair) -> None:
    before = memory(pair.cloud)
    ends = grpc_ends(pair, 300, 1, 150)
    assert_sound(pair)
    assert {end.split()[0] for end in ends} >= {
        "Analyze",
        "AnalyzeStream",
        "AnalyzeSession",
        "Refine",
        "Describe",
    }
    assert any(end == "Analyze OK" for end in ends), ends  # some come through
    assert any(end == "Analyze INVALID_ARGUMENT" for end in ends), ends
    assert memory(pair.cloud) < before + GROWTH_MAX


@pytest.mark.slow
def test_grpc_for_long(pair: Pair) -> None:
    before = memory(pair.cloud)
    for seed in range(2, 8):
        grpc_ends(pair, 10_000, seed, 1200)
    assert_sound(pair)
    assert memory(pair.cloud) < before + GROWTH_MAX
