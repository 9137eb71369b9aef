"""Connections of gRPC: shared by who has calls on them, and given up by those that have none."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import ExitStack

import grpc.aio
import pytest

from cloud.faces import grpc_connections
from cloud.faces.grpc_connections import GrpcConnections, endpoint_of
from cloud.faces.grpc_server import GrpcServer
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from shared.errors import OverloadedError
from shared.process.ready import Ready
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support.service import until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"  # with empty settings


def test_one_caller_leaves_connections_to_others() -> None:
    connections = GrpcConnections(8)
    with ExitStack() as greedy, ExitStack() as modest:
        for number in range(6):
            for _ in range(3):  # calls of one connection count once
                greedy.enter_context(connections.used("greedy", 1.0, f"ipv4:1.2.3.4:{number + 1}"))
        with pytest.raises(OverloadedError, match="on 6 of your connections"):
            greedy.enter_context(connections.used("greedy", 1.0, "ipv4:1.2.3.4:9"))
        for number in range(3):
            modest.enter_context(connections.used("modest", 1.0, f"ipv4:5.6.7.8:{number + 1}"))
        with pytest.raises(OverloadedError, match="on 3 of your connections"):
            modest.enter_context(connections.used("modest", 1.0, "ipv4:5.6.7.8:9"))
    with connections.used("greedy", 1.0, "ipv4:1.2.3.4:9"):
        pass


@pytest.mark.parametrize(
    ("peer", "endpoint"),
    [
        ("ipv4:127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("ipv6:%5B::1%5D:5000", ("::1", 5000)),
        ("ipv6:%5B::ffff:10.0.0.1%5D:5000", ("10.0.0.1", 5000)),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", ("fe80::1", 5000)),
        ("unix:/run/x", None),
        ("ipv4:nowhere:1", None),
        ("", None),
    ],
)
def test_the_other_end_of_a_connection(peer: str, endpoint: tuple[str, int] | None) -> None:
    assert endpoint_of(peer) == endpoint


async def test_silent_connections_give_way_and_busy_ones_stay(
    pipeline: Pipeline, packed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More connections than there may be: those that say nothing are closed, and others are let in again."""
    monkeypatch.setattr(grpc_connections, "QUIET_S", 0.2)
    monkeypatch.setattr("cloud.faces.grpc_server.SWEEP_S", 0.05)
    ready: Ready[Pipeline] = Ready("the server")
    ready.fill(pipeline)
    server = GrpcServer(ready, "127.0.0.1", GrpcSettings(port=0, connections_max=12))
    await server.start()
    host, port = server.address.rsplit(":", 1)
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stream = AnalyzerStub(channel).AnalyzeStream(timeout=60)
            await stream.write(pb.AnalyzeRequest(request_id="one", bitstream=packed[0]))
            assert isinstance(await stream.read(), pb.AnalyzeStreamResponse)
            silent = []
            for _ in range(11):
                one = socket.create_connection((host, int(port)), 30)
                one.sendall(PREFACE)
                one.setblocking(False)
                silent.append(one)
            await until(lambda: sum(map(_is_closed, silent)) >= 3)
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(server.address, options=options) as late:
                call = AnalyzerStub(late).Describe(pb.DescribeRequest(), wait_for_ready=True, timeout=60)
                assert (await call).bundles
            await stream.write(pb.AnalyzeRequest(request_id="two", bitstream=packed[1]))
            assert isinstance(await stream.read(), pb.AnalyzeStreamResponse)
            stream.cancel()
            for one in silent:
                one.close()
    finally:
        await asyncio.wait_for(server.end(0), 30)


async def test_a_look_without_a_descriptor_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_connections, "QUIET_S", 0.0)
    monkeypatch.setattr("cloud.faces.grpc_server.SWEEP_S", 0.05)
    failing, descriptors = [OSError(errno.EMFILE, "too many open files")], grpc_connections.descriptors

    def failing_once() -> int:
        if failing:
            raise failing.pop()
        return descriptors()

    monkeypatch.setattr(grpc_connections, "descriptors", failing_once)
    server = GrpcServer(Ready("the server"), "127.0.0.1", GrpcSettings(port=0, connections_max=1))
    await server.start()
    host, port = server.address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), 30) as silent:
            silent.sendall(PREFACE)
            silent.setblocking(False)
            await until(lambda: _is_closed(silent))
    finally:
        await asyncio.wait_for(server.end(0), 30)


def _is_closed(one: socket.socket) -> bool:
    try:
        while data := one.recv(4096):
            assert data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
