"""Every gRPC method and HTTP route of the cloud refuses whoever may not call it. A new one cannot be forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cloud.faces.grpc_access import METHODS, MethodAccess
from cloud.pipeline import Pipeline
from shared.process.access import PUBLIC, access_of, needs, public
from shared.process.auth import Gate
from shared.process.http_access import undeclared
from shared.process.tokens import SCOPES, Scope, TokenGrant, TokenReader, add_token, revoke_token
from shared.wire import analyzer_pb2 as pb
from support.locked import Locked, locked, metadata, token_for
from support.service import problem

pytestmark = pytest.mark.filterwarnings("ignore:.*experimental.*")

OPEN_PATHS = {
    "/healthz",
    "/readyz",
    "/",
    "/web/{path:path}",
}  # all for strangers, and pages that hold no data
OPEN_METHODS = {f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch")}


@dataclass(frozen=True)
class Tokens:
    """One for each way in which a token can be wrong, and by scope those that have nothing but it."""

    wrong: dict[str, str]
    only: dict[Scope, str]
    all: str
    one_camera: str


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens") / "tokens.json"


@pytest.fixture(scope="module")
def tokens(file: Path) -> Tokens:
    revoked = token_for(file, "revoked", *SCOPES)
    soon = datetime.now(UTC) + timedelta(milliseconds=1)
    expired = add_token(file, TokenGrant("expired", SCOPES, expires_at=soon))
    only: dict[Scope, str] = {scope: token_for(file, scope, scope) for scope in SCOPES}
    whole, one = token_for(file, "all", *SCOPES), token_for(file, "one", *SCOPES, cameras=("gate-*",))
    revoke_token(file, "revoked")
    wrong = {
        "none": "",
        "strange": "0123456789abcdef",
        "unknown": f"isthmus_zzzzzzzz_{'A' * 43}",
        "other secret": whole[:-43] + "A" * 43,
        "revoked": revoked,
        "expired": expired,
    }
    return Tokens(wrong, only, whole, one)


@pytest.fixture
async def cloud(pipeline: Pipeline, file: Path, tokens: Tokens) -> AsyncIterator[Locked]:
    async with locked(pipeline, Gate(TokenReader(file), attempts_per_minute=10_000)) as made:
        yield made


# gRPC: what reflection lists.


async def described(cloud: Locked, token: str) -> list[MethodDescriptor]:
    """Every method that the server's reflection knows of."""
    pool = descriptor_pool.DescriptorPool()
    async with cloud.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        async def ask(**what: Any) -> Any:
            request = reflection_pb2.ServerReflectionRequest(**what)
            return await anext(aiter(stub.ServerReflectionInfo(iter([request]), metadata=metadata(token))))

        async def load(**what: Any) -> None:
            for data in (await ask(**what)).file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(data)
                for name in file.dependency:
                    await load(file_by_filename=name)
                pool.AddSerializedFile(data)

        listed = (await ask(list_services="")).list_services_response.service
        for service in listed:
            await load(file_containing_symbol=service.name)
    methods = [pool.FindServiceByName(service.name).methods for service in listed]
    return [method for one in methods for method in one]


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


async def call(cloud: Locked, path: str, token: str | None, data: bytes = b"") -> grpc.StatusCode:
    """The status of a call as the bytes of one message; OK as soon as there is an answer.

    By the client of threads: that of asyncio reports INTERNAL where a call is refused while its message is written.
    """

    def status() -> grpc.StatusCode:
        with grpc.insecure_channel(cloud.grpc) as channel:
            one = channel.stream_stream(path, lambda sent: sent, lambda got: got)
            running = one(iter([data]), metadata=metadata(token), timeout=20)
            try:
                for _ in running:
                    return grpc.StatusCode.OK
            except grpc.RpcError:
                pass
            return running.code()

    return await asyncio.to_thread(status)


async def test_every_grpc_method_refuses_whoever_may_not_call(cloud: Locked, tokens: Tokens) -> None:
    methods = await described(cloud, tokens.all)
    paths = {path_of(method) for method in methods}
    assert {"/isthmus.v1.Analyzer/Analyze", "/isthmus.v1.Analyzer/AnalyzeSession"} <= paths
    assert paths == set(METHODS), "each method stands in the table, and nothing else does"
    assert {path for path in paths if METHODS[path].needed.is_public} == OPEN_METHODS
    for path in sorted(paths):
        if path in OPEN_METHODS:
            assert await call(cloud, path, None) is grpc.StatusCode.OK
            continue
        for why, token in tokens.wrong.items():
            assert await call(cloud, path, token) is grpc.StatusCode.UNAUTHENTICATED, (path, why)
        for scope, token in tokens.only.items():
            code = await call(cloud, path, token)
            refused = code is grpc.StatusCode.PERMISSION_DENIED
            assert refused == (scope not in METHODS[path].needed.scopes), (path, scope, code)


def names_a_camera(message: Descriptor) -> bool:
    return any(
        field.name == "camera" or (field.message_type is not None and names_a_camera(field.message_type))
        for field in message.fields
    )


def with_camera(method: MethodDescriptor, camera: str) -> bytes:
    """A message of the method that names a camera, wherever its type has one."""
    if method.input_type.name == "SessionRequest":
        return pb.SessionRequest(open=pb.SessionOpen(camera=camera)).SerializeToString()
    others: dict[str, Message] = {
        "Describe": pb.DescribeRequest(camera=camera),
        "Refine": pb.RefineRequest(camera=camera),
    }
    return others.get(method.name, pb.AnalyzeRequest(camera=camera)).SerializeToString()


async def test_every_grpc_message_with_a_camera_is_bound_to_the_token(cloud: Locked, tokens: Tokens) -> None:
    methods = [m for m in await described(cloud, tokens.all) if names_a_camera(m.input_type)]
    assert {m.name for m in methods} == {"Analyze", "AnalyzeStream", "AnalyzeSession", "Describe", "Refine"}
    for method in methods:
        path = path_of(method)
        assert METHODS[path].camera is not None, f"{path} names a camera that nobody looks at"
        nameless = () if method.name == "Describe" else ("",)  # it may be asked about no camera
        for camera in ("other", "Gate-1", "gate", *nameless):
            code = await call(cloud, path, tokens.one_camera, with_camera(method, camera))
            assert code is grpc.StatusCode.PERMISSION_DENIED, (path, camera)
        code = await call(cloud, path, tokens.one_camera, with_camera(method, "gate-1"))
        assert code is not grpc.StatusCode.PERMISSION_DENIED, path


async def test_a_grpc_method_that_is_not_in_the_table_is_closed(
    cloud: Locked, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(METHODS, "/isthmus.v1.Analyzer/Describe")
    assert await call(cloud, "/isthmus.v1.Analyzer/Describe", None) is grpc.StatusCode.UNAUTHENTICATED
    assert await call(cloud, "/isthmus.v1.Analyzer/Describe", tokens.all) is grpc.StatusCode.PERMISSION_DENIED
    monkeypatch.setitem(METHODS, "/isthmus.v1.Analyzer/Describe", MethodAccess(PUBLIC))
    assert (
        await call(cloud, "/isthmus.v1.Analyzer/Describe", None) is grpc.StatusCode.OK
    )  # the walk would see it


# HTTP: what OpenAPI lists, and what the application really routes.


def operations(cloud: Locked) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in cloud.app.openapi()["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def filled(path: str) -> str:
    """A path with something for each of its parameters."""
    return "/".join("x" if part.startswith("{") else part for part in path.split("/"))


async def test_every_http_route_refuses_whoever_may_not_call(cloud: Locked, tokens: Tokens) -> None:
    assert undeclared(cloud.app) == [], "each route has @needs(...) or @public"
    routes = {route.path: access_of(route) for route in cloud.app.routes}  # type: ignore[attr-defined]
    listed = {path for _, path, _ in operations(cloud)}
    assert listed <= set(routes)
    assert {path for path, needed in routes.items() if needed == PUBLIC} == OPEN_PATHS
    calls = {(method, path) for method, path, _ in operations(cloud)}
    calls |= {("GET", path) for path in ("/docs", "/redoc", "/openapi.json", "/no/such/path")}
    async with cloud.client() as client:
        for method, path in sorted(calls):
            if path in OPEN_PATHS:
                assert (await client.request(method, path)).status_code == 200
                continue
            for why, token in tokens.wrong.items():
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                answer = await client.request(method, filled(path), headers=headers)
                problem(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer", why
                assert not token or token not in answer.text
            needed = routes.get(path)
            for scope, token in tokens.only.items():
                answer = await client.request(
                    method, filled(path), headers={"Authorization": f"Bearer {token}"}
                )
                refused = answer.status_code == 403
                assert refused == (needed is not None and scope not in needed.scopes), (path, scope)


async def test_openapi_says_what_asks_for_a_token(cloud: Locked, tokens: Tokens) -> None:
    for _, path, operation in operations(cloud):
        asks = "security" in operation
        assert asks == (path not in OPEN_PATHS)
        assert not asks or {"401", "403", "429"} <= set(operation["responses"])


async def test_every_http_route_that_takes_a_camera_is_bound_to_the_token(
    cloud: Locked, tokens: Tokens
) -> None:
    with_camera = [
        (method, path)
        for method, path, operation in operations(cloud)
        if any(parameter["name"].lower() == "x-camera" for parameter in operation.get("parameters", ()))
    ]
    assert ("POST", "/analyze") in with_camera
    async with cloud.client(tokens.one_camera) as client:
        for method, path in with_camera:
            for headers in ({"X-Camera": "other"}, {}):
                problem(await client.request(method, filled(path), headers=headers), 403)
            answer = await client.request(method, filled(path), headers={"X-Camera": "gate-1"})
            assert answer.status_code != 403


async def test_a_route_that_declares_nothing_is_closed(cloud: Locked, tokens: Tokens) -> None:
    @cloud.app.get("/forgotten")
    async def forgotten() -> str:
        raise AssertionError("it was called")

    @cloud.app.get("/metrics-of-the-test")
    @needs("metrics")
    async def counted() -> str:
        return "1"

    @cloud.app.get("/page-of-the-test")
    @public
    async def page() -> str:
        return "hello"

    assert undeclared(cloud.app) == ["/forgotten"]
    async with cloud.client() as client, cloud.client(tokens.all) as known:
        problem(await client.get("/forgotten"), 401)
        problem(await known.get("/forgotten"), 403)
        problem(await client.get("/metrics-of-the-test"), 401)
        assert (await known.get("/metrics-of-the-test")).json() == "1"
        assert (await client.get("/page-of-the-test")).json() == "hello"
