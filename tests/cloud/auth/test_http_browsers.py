"""What the HTTP face does with browsers, rates and tokens in odd places."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import httpx
import pytest

from cloud.pipeline import Pipeline
from shared.process.auth import Gate
from shared.process.tokens import TokenGrant, TokenReader, add_token
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.locked import locked, metadata, token_for
from support.service import problem

FLEET = "https://fleet.example.org"


async def test_answers_have_security_headers_and_no_cors(pipeline: Pipeline, tmp_path: Path) -> None:
    async with (
        locked(pipeline, Gate(TokenReader(tmp_path / "none"))) as cloud,
        cloud.client(Origin=FLEET) as client,
    ):
        for answer in (await client.get("/healthz"), await client.get("/v1/bundles")):
            headers = answer.headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
            assert "strict-transport-security" not in headers
            assert not [name for name in headers if name.startswith("access-control-")]
        asked = {"Access-Control-Request-Method": "POST"}
        problem(await client.options("/analyze", headers=asked), 401)


async def test_pages_whose_origin_is_named_may_call(pipeline: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    token = token_for(file, "page", "analyze")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with locked(pipeline, Gate(TokenReader(file)), cors_origins=(FLEET,)) as cloud:
        async with cloud.client(Origin=FLEET) as client:
            preflight = await client.options("/analyze", headers=asked)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == FLEET
            assert "access-control-allow-credentials" not in preflight.headers
            problem(await client.get("/v1/bundles"), 401)
        async with cloud.client(token, Origin=FLEET) as client:
            answer = await client.get("/v1/bundles")
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == FLEET
        async with cloud.client(token, Origin="https://evil.example.org") as client:
            answer = await client.get("/v1/bundles")
            assert "access-control-allow-origin" not in answer.headers


async def test_a_server_without_tokens_answers_no_page_of_another_site(pipeline: Pipeline) -> None:
    async with locked(pipeline, Gate(local=True)) as cloud, cloud.client() as client:
        own = f"http://{cloud.http}"
        assert (await client.get("/v1/bundles", headers={"Origin": own})).status_code == 200
        assert (await client.post("/admin/reload", headers={"Origin": own})).status_code != 403
        for headers in (
            {"Origin": "https://evil.example.org"},
            {"Origin": "null"},
            {"Host": "evil.example.org"},  # a name that points at this machine
            {"Host": f"evil.example.org:{cloud.http.rpartition(':')[2]}"},
            {"Origin": "http://evil.example.org", "Host": "evil.example.org"},
            {"Host": "["},
            {"Host": "[::1"},
        ):
            problem(await client.post("/admin/reload", headers=headers), 403)
        port = cloud.http.rpartition(":")[2]
        for host in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1"):
            assert (await client.get("/v1/bundles", headers={"Host": host})).status_code == 200


async def test_an_open_server_on_loopback_answers_nobody_behind_a_proxy(pipeline: Pipeline) -> None:
    sent = ({"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}, {"Via": "1.1 proxy"})
    async with locked(pipeline, Gate(local=True)) as cloud, cloud.client() as client:
        for headers in sent:
            answer = await client.get("/v1/bundles", headers=headers)
            assert "make tokens first" in problem(answer, 403)["detail"]
        assert (await client.get("/v1/bundles")).status_code == 200
    given = "0123456789abcdef"
    async with locked(pipeline, Gate(given=given, local=True)) as cloud, cloud.client(given) as client:
        for headers in sent:
            assert (await client.get("/v1/bundles", headers=headers)).status_code == 200


async def test_rates_are_answered_429_with_a_hint(
    pipeline: Pipeline, tmp_path: Path, packed: list[bytes]
) -> None:
    file = tmp_path / "tokens.json"
    token = add_token(file, TokenGrant("slow", ("analyze",), requests_per_s=0.01))
    small = add_token(file, TokenGrant("small", ("analyze",), bytes_per_s=0.01))
    kind = {"Content-Type": "application/vnd.isthmus"}
    async with locked(pipeline, Gate(TokenReader(file))) as cloud:
        for one, text in ((token, "requests a second"), (small, "bytes a second")):
            async with cloud.client(one, **kind) as client:
                assert (await client.post("/analyze", content=packed[0])).status_code == 200
                answer = await client.post("/analyze", content=packed[1])
                assert text in problem(answer, 429)["detail"]
                assert int(answer.headers["retry-after"]) > 10  # when there will be room, not before


async def test_attempts_count_together_on_both_ports(pipeline: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    good, wrong = token_for(file, "good", "analyze"), f"isthmus_zzzzzzzz_{'A' * 43}"
    async with locked(pipeline, Gate(TokenReader(file), attempts_per_minute=2)) as cloud:
        async with cloud.channel() as channel, cloud.client(wrong) as client:
            stub = AnalyzerStub(channel)
            problem(await client.get("/v1/bundles"), 401)
            for code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED):
                call = stub.Describe(pb.DescribeRequest(), metadata=metadata(wrong))
                assert await call.code() is code
            answer = await client.get("/v1/bundles")
            problem(answer, 429)
            assert 1 <= int(answer.headers["retry-after"]) <= 30
            await stub.Describe(pb.DescribeRequest(), metadata=metadata(good))
        async with cloud.client(good) as client:
            assert (await client.get("/v1/bundles")).status_code == 200
        assert cloud.gate.refused == {"token": 2, "attempts": 2}


async def test_tokens_reach_no_log_and_no_answer(
    pipeline: Pipeline, tmp_path: Path, packed: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "tokens.json"
    token = token_for(file, "a", "analyze")
    secret = token.rpartition("_")[2]
    answers: list[httpx.Response] = []
    async with locked(pipeline, Gate(TokenReader(file))) as cloud:
        async with cloud.client(token) as client:
            answers += [await client.post("/analyze", content=packed[0])]
            answers += [await client.post("/admin/reload"), await client.get("/no/such/path")]
        async with cloud.client() as client:
            for header in (token, f"Basic {token}", f"Bearer {token} {token}", f"Bearer\t{token}"):
                answers.append(await client.get("/v1/bundles", headers={"Authorization": header}))
                problem(answers[-1], 401)
            twice = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
            answers.append(await client.get("/v1/bundles", headers=twice))
            problem(answers[-1], 401)
            answers.append(await client.get(f"/v1/bundles?token={token}"))
            problem(answers[-1], 401)
    assert not any(secret in answer.text for answer in answers)
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    assert not any(secret in line for line in ours)  # the client's own log has them, of course
