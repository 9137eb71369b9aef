"""TLS of a cloud's two ports and of its edges: tokens, client certificates, and certificates that change."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud.pipeline import Pipeline
from edge.client import Client, GrpcTransport
from edge.settings import CloudLink
from shared.errors import CloudUnreachableError, RemoteRejectedError, RequestError
from shared.process.auth import Gate
from shared.process.tls import ServerTls, TlsFiles
from shared.process.tokens import TokenReader
from shared.types import Wanted
from support.certificates import Authority, Pair
from support.locked import Locked, locked, token_for
from support.service import problem

MESSAGE_OF_TLS = "TLS"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other-ca"))


@pytest.fixture(scope="module")
def server_pair(authority: Authority) -> Pair:
    return authority.server()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
def token(tokens: Path) -> str:
    return token_for(tokens, "edge", "analyze")


@pytest.fixture
async def with_tls(pipeline: Pipeline, tokens: Path, token: str, server_pair: Pair) -> AsyncIterator[Locked]:
    tls = ServerTls(TlsFiles(server_pair.certificate, server_pair.key))
    async with locked(pipeline, Gate(TokenReader(tokens)), tls) as made:
        yield made


@pytest.fixture
async def mutual(
    pipeline: Pipeline, tokens: Path, token: str, server_pair: Pair, authority: Authority
) -> AsyncIterator[Locked]:
    """A cloud that asks edges for a certificate."""
    tls = ServerTls(TlsFiles(server_pair.certificate, server_pair.key, authority.pair.certificate))
    async with locked(pipeline, Gate(TokenReader(tokens), certificates=True), tls) as made:
        yield made


def link(cloud: Locked, **how: Any) -> CloudLink:
    return CloudLink.of(address=cloud.grpc, deadline_ms=20_000, attempts_max=1, **how)


async def ask(settings: CloudLink, packed: bytes, camera: str = "") -> str:
    async with Client(settings, camera) as client:
        return (await client.analyze("a-request", packed, Wanted())).request_id


async def test_an_edge_with_token_and_authority_is_answered(
    with_tls: Locked, authority: Authority, token: str, packed: list[bytes], tmp_path: Path
) -> None:
    ca = authority.pair.certificate
    assert await ask(link(with_tls, ca=ca, token=token), packed[0]) == "a-request"
    with pytest.raises(RemoteRejectedError, match="needs a token") as none:
        await ask(link(with_tls, ca=ca), packed[0])
    assert none.value.code == "UNAUTHENTICATED"
    # From a file, which is read again when it changes.
    file = tmp_path / "token"
    file.write_text("a-wrong-token\n")
    async with Client(link(with_tls, ca=ca, token_file=file)) as client:
        with pytest.raises(RemoteRejectedError, match="not valid"):
            await client.describe()
        file.write_text(f"{token}\n")
        assert len(await client.describe()) == 1
        file.unlink()
        assert len(await client.describe()) == 1


async def test_an_edge_trusts_nobody_but_its_authority(
    with_tls: Locked, stranger: Authority, token: str, packed: list[bytes], capfd: Any
) -> None:
    for how in ({"ca": stranger.pair.certificate}, {"tls": True}):
        with pytest.raises(CloudUnreachableError, match="TLS fails"):
            await ask(link(with_tls, token=token, **how), packed[0])
    with pytest.raises(CloudUnreachableError):  # one that speaks no TLS gets no answer either
        await ask(link(with_tls, token=token), packed[0])


async def test_grpc_asks_each_edge_for_a_certificate_of_the_authority(
    mutual: Locked, authority: Authority, stranger: Authority, token: str, packed: list[bytes], capfd: Any
) -> None:
    ca = authority.pair.certificate
    gate = authority.issue("gate", "gate-1", "DNS:gate-2", "DNS:yard-*")
    wrong = stranger.issue("gate", "gate-1")
    with pytest.raises(CloudUnreachableError):
        await ask(link(mutual, ca=ca, token=token), packed[0], "gate-1")
    with pytest.raises(CloudUnreachableError):
        await ask(
            link(mutual, ca=ca, certificate=wrong.certificate, key=wrong.key, token=token),
            packed[0],
            "gate-1",
        )
    own = link(mutual, ca=ca, certificate=gate.certificate, key=gate.key)
    for camera in ("gate-1", "gate-2", "yard-7"):
        assert await ask(own, packed[0], camera)
    for camera in ("gate-3", "yard", ""):
        with pytest.raises(RemoteRejectedError, match="may not use") as refused:
            await ask(own, packed[0], camera)
        assert refused.value.code == "PERMISSION_DENIED"


async def test_a_token_with_a_certificate_has_to_allow_the_camera_too(
    mutual: Locked, authority: Authority, tokens: Path, packed: list[bytes]
) -> None:
    gate = authority.issue("gate-and-yard", "gate-1", "DNS:yard-1")
    gates = token_for(tokens, "gates", "analyze", cameras=("gate-*",))
    own = link(mutual, ca=authority.pair.certificate, certificate=gate.certificate, key=gate.key, token=gates)
    assert await ask(own, packed[0], "gate-1")
    for camera in ("yard-1", "gate-2"):
        with pytest.raises(RemoteRejectedError, match="may not use"):
            await ask(own, packed[0], camera)


def context(authority: Authority, own: Pair | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(authority.pair.certificate))
    if own is not None:
        made.load_cert_chain(own.certificate, own.key)
    return made


def https(cloud: Locked, trust: ssl.SSLContext, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"https://{cloud.http}", verify=trust, headers=headers, timeout=30)


async def test_http_takes_a_certificate_or_a_token(
    mutual: Locked, authority: Authority, stranger: Authority, token: str, packed: list[bytes]
) -> None:
    gate = authority.issue("gate-http", "gate-1")
    body = {
        "content": packed[0],
        "headers": {"Content-Type": "application/vnd.isthmus", "X-Camera": "gate-1"},
    }
    async with https(mutual, context(authority)) as nobody:
        answer = await nobody.get("/readyz")
        assert answer.status_code == 200
        assert "max-age" in answer.headers["strict-transport-security"]
        problem(await nobody.post("/analyze", **body), 401)
    async with https(mutual, context(authority), Authorization=f"Bearer {token}") as bearer:
        assert (await bearer.post("/analyze", **body)).status_code == 200
    async with https(mutual, context(authority, gate)) as certified:
        assert (await certified.post("/analyze", **body)).status_code == 200
        problem(await certified.post("/analyze", **body | {"headers": {"X-Camera": "yard"}}), 403)
        problem(await certified.post("/admin/reload"), 403)
    wrong = stranger.issue("gate-http", "gate-1")
    with pytest.raises(httpx.HTTPError):
        async with https(mutual, context(authority, wrong)) as refused:
            await refused.post("/analyze", **body)
    with pytest.raises(httpx.HTTPError):  # a server that is not whom the client trusts
        async with https(mutual, context(stranger)) as deceived:
            await deceived.get("/readyz")


async def serial(address: str) -> str:
    """The serial number of the certificate that a port shows."""
    host, _, port = address.rpartition(":")
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=trust)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(shown)


async def test_a_new_certificate_is_shown_without_a_restart(
    pipeline: Pipeline, authority: Authority, stranger: Authority, tmp_path: Path, caplog: Any
) -> None:
    first, second, odd = authority.server("one"), authority.server("two"), stranger.server("three")
    files = TlsFiles(tmp_path / "server.pem", tmp_path / "server.key")
    shutil.copy(first.certificate, files.certificate)
    shutil.copy(first.key, files.key)
    async with locked(pipeline, Gate(), ServerTls(files)) as cloud:
        ports = (cloud.http, cloud.grpc)
        before = first.certificate.read_text()
        assert [await serial(port) for port in ports] == [before, before]
        shutil.copy(second.certificate, files.certificate)  # half of the pair: the old one is served on
        assert [await serial(port) for port in ports] == [before, before]
        assert "the old certificate is used on" in caplog.text
        shutil.copy(second.key, files.key)
        after = second.certificate.read_text()
        assert [await serial(port) for port in ports] == [after, after]
        files.key.write_text("nonsense")
        assert [await serial(port) for port in ports] == [after, after]
        files.key.unlink()
        assert [await serial(port) for port in ports] == [after, after]
        shutil.copy(odd.certificate, files.certificate)
        shutil.copy(odd.key, files.key)
        assert [await serial(port) for port in ports] == [odd.certificate.read_text()] * 2


def test_files_that_cannot_be_used(authority: Authority, server_pair: Pair, tmp_path: Path) -> None:
    odd = authority.server("odd")
    for files, text in (
        (TlsFiles(server_pair.certificate, odd.key), "are no certificate with its key"),
        (TlsFiles(server_pair.certificate, tmp_path / "none"), "cannot read"),
        (TlsFiles(server_pair.certificate, server_pair.key, server_pair.key), "holds no certificates"),
    ):
        with pytest.raises(RequestError, match=text):
            ServerTls(files)


async def test_an_edge_with_files_that_cannot_be_used(server_pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "spaces").write_text("two words\n")
    for how, text in (
        ({"token_file": tmp_path / "none"}, "cannot read the token"),
        ({"token_file": tmp_path / "spaces"}, "holds no token"),
        ({"ca": tmp_path / "none"}, "cannot read"),
        ({"ca": server_pair.key}, "holds no certificates"),
        ({"certificate": server_pair.certificate, "key": tmp_path / "none"}, "are no certificate"),
    ):
        with pytest.raises(RequestError, match=text):
            GrpcTransport(CloudLink.of(**how))
    with pytest.raises(RequestError, match="given together"):
        CloudLink.of(certificate=server_pair.certificate)
