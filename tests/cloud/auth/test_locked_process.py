"""A cloud that listens beyond loopback, as a process, with TLS: its first token, an edge, and the end of the token."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from support.certificates import Authority
from support.processes import killed_after, run_here, server, told
from support.service import png, problem


def test_the_first_token_opens_a_cloud_until_it_is_revoked(tiny_bundle: Path, tmp_path: Path) -> None:
    authority, tokens = Authority(tmp_path / "ca"), tmp_path / "tokens.json"
    pair, ca = authority.server(), authority.pair.certificate
    picture, file = tmp_path / "room.png", tmp_path / "token"
    picture.write_bytes(png(0))
    with server(
        *("cloud", "serve", "--bundle", tiny_bundle, "--host", "0.0.0.0", "--grpc-port", "0"),
        *("--http-port", "0", "--tokens", tokens),
        *("--tls-certificate", pair.certificate, "--tls-key", pair.key),
    ) as cloud:
        ports = cloud.event("listening")
        assert ports["tls"] is True
        grpc, http = (f"localhost:{ports[name].rpartition(':')[2]}" for name in ("grpc", "http"))
        assert cloud.process.stderr is not None
        with killed_after(cloud.process):
            line = next(line for line in cloud.process.stderr if "first token" in line)
        token = line.split()[-1]
        file.write_text(token)
        cloud.event("ready")

        trust = ssl.create_default_context(cafile=str(ca))
        with httpx.Client(base_url=f"https://{http}", verify=trust, timeout=30) as client:
            assert client.get("/readyz").status_code == 200
            problem(client.get("/v1/bundles"), 401)
            bearer = {"Authorization": f"Bearer {token}"}
            assert client.get("/v1/bundles", headers=bearer).status_code == 200

            analyze = ("edge", "analyze", picture, "--cloud", grpc, "--bundle", tiny_bundle, "--ca", ca)
            assert "needs a token" in told(run_here(*analyze), 1)
            done = run_here(*analyze, "--token-file", file)
            assert "classification: " in done.stdout, done.stderr

            assert run_here("cloud", "token", "revoke", "first", "--tokens", tokens).returncode == 0
            problem(client.get("/v1/bundles", headers=bearer), 401)
            assert "not valid" in told(run_here(*analyze, "--token-file", file), 1)
        assert cloud.stop() == 0
        assert token not in cloud.process.stderr.read()  # shown once
