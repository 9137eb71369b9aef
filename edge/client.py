"""The edge's client of a cloud. Knows no image and no bundle.

One `Client.analyze` is one request id. It is sent again while `edge.cloud_status` says that another attempt can
succeed, until its deadline or its attempts are used up. The cloud computes an id once, so a repeat is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import grpc
import grpc.aio

from edge.cloud_status import error_of
from edge.credentials import Bearer, ClientPems, client_pems
from edge.settings import CloudLink
from shared.errors import CloudUnreachableError, DeadlineError
from shared.process import tracing
from shared.types import Analysis, BundleInfo, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert
from shared.wire.analyzer_pb2_grpc import AnalyzerStub

TROUBLE_MAX = 500  # characters
UNANSWERED_MAX = 1024  # ids that are remembered, so that a repeat is known as one
FIRST_WAIT_S = 0.1  # before the second attempt; doubled before each further one
NOBODY_THERE = (
    "failed to connect",
    "DNS resolution failed",
)  # how gRPC begins when no server took the connection


Metadata = grpc.aio.Metadata | None
ErrorOf = Callable[[grpc.aio.AioRpcError], Exception]


class Transport(Protocol):
    """One attempt. Raises CloudUnreachableError, DeadlineError, OverloadedError or RemoteRejectedError."""

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse: ...

    async def describe(
        self, timeout_s: float, request: pb.DescribeRequest | None = None
    ) -> pb.DescribeResponse: ...

    async def close(self) -> None: ...


def channel_options(message_bytes_max: int, answer_bytes_max: int) -> list[tuple[str, int]]:
    """The arguments of the channel, by the names that gRPC's core knows."""
    return [
        ("grpc.max_receive_message_length", answer_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        # gRPC waits 1 s and more before it connects again; an edge's deadline is short.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # A link that died in silence is noticed, also while nothing is sent.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Pings that measure the link cost 1 to 5 bytes a frame of a session, each way.
        ("grpc.http2.bdp_probe", 0),
    ]


class GrpcSessionCall:
    """One AnalyzeSession on a channel. Its methods raise what `Transport` raises.

    error: the error for one of gRPC's.
    """

    def __init__(self, stub: AnalyzerStub, metadata: Metadata, error: ErrorOf) -> None:
        self._call, self._error = stub.AnalyzeSession(metadata=metadata), error

    async def send(self, message: pb.SessionRequest) -> None:
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except asyncio.InvalidStateError:  # the call has ended; reading says why
            raise CloudUnreachableError("the cloud ended the session") from None

    async def receive(self) -> pb.SessionResponse | None:
        """The next message; None once the cloud has ended the session in good order."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        return message if isinstance(message, pb.SessionResponse) else None

    def cancel(self) -> None:
        self._call.cancel()


class GrpcTransport:
    """A channel to each address of a link; one of them is asked until it is away, then the next.

    Raises RequestError for a token or certificates that cannot be used.
    """

    def __init__(self, link: CloudLink) -> None:
        options = channel_options(link.message_bytes_max, link.answer_bytes_max)
        self._bearer, pems = Bearer(link), client_pems(link)
        self._channels = [_channel(address, pems, options) for address in link.addresses]
        self._stubs = [AnalyzerStub(channel) for channel in self._channels]
        self._asked = 0
        self._unanswered: dict[str, None] = {}  # ids of requests that were sent, oldest first

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        stub, failed = self._next()
        repeat = self._repeat(request.request_id)
        try:
            with tracing.span("isthmus.v1.Analyzer/Analyze", "client"):
                metadata = self._metadata(repeat)
                answer: pb.AnalyzeResponse = await stub.Analyze(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise failed(error) from None
        self._unanswered.pop(request.request_id, None)
        return answer

    def _repeat(self, request_id: str) -> str:
        """The id if it was sent before and not answered: a cloud whose queue is full may have its answer."""
        if request_id in self._unanswered:
            return request_id
        self._unanswered[request_id] = None
        if len(self._unanswered) > UNANSWERED_MAX:
            del self._unanswered[next(iter(self._unanswered))]
        return ""

    async def describe(
        self, timeout_s: float, request: pb.DescribeRequest | None = None
    ) -> pb.DescribeResponse:
        message = pb.DescribeRequest() if request is None else request
        stub, failed = self._next()
        try:
            return await stub.Describe(message, timeout=timeout_s, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise failed(error) from None

    def open_session(self) -> GrpcSessionCall:
        stub, failed = self._next()
        return GrpcSessionCall(stub, self._metadata(), failed)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def _next(self) -> tuple[AnalyzerStub, ErrorOf]:
        """The stub to ask, and what makes errors of its failures; one that is away is not asked next time."""
        asked = self._asked

        def failed(error: grpc.aio.AioRpcError) -> Exception:
            found = error_of(error.code(), error.details() or "")
            # Of calls at once that fail, only the first moves on.
            if isinstance(found, CloudUnreachableError) and self._asked == asked:
                self._asked = (asked + 1) % len(self._stubs)
            return found

        return self._stubs[asked], failed

    def _metadata(self, repeat: str = "") -> Metadata:
        """What goes with each call: the token as it is now, and the trace's context. repeat: the id of what is sent
        again."""
        header = self._bearer.header()
        given = tracing.outgoing() if header is None else {"authorization": header, **tracing.outgoing()}
        if repeat:
            given = {**given, "x-request-id": repeat}
        return grpc.aio.Metadata(*given.items()) if given else None


def _channel(address: str, pems: ClientPems | None, options: list[tuple[str, int]]) -> grpc.aio.Channel:
    if pems is None:
        return grpc.aio.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(pems.ca, pems.key, pems.certificate)
    return grpc.aio.secure_channel(address, credentials, options=options)


class Client:
    """A cloud, as the edge sees it. Must be made and used in one event loop; close it, or use `async with`.

    camera: its name, for images that come without one. transport: in place of gRPC channels to `settings.address`.
    """

    def __init__(self, settings: CloudLink, camera: str = "", transport: Transport | None = None) -> None:
        self._settings, self._camera = settings, camera
        self._transport = transport or grpc_transport(settings)
        # Measured: of 2,000 requests at once on one channel, 7 to 10 % end CANCELLED.
        self._places = asyncio.Semaphore(settings.in_flight_max)

    async def analyze(
        self,
        request_id: str,
        bitstream: bytes,
        wanted: Wanted,
        camera: str = "",
        captured_at: datetime | None = None,
    ) -> Analysis:
        """The cloud's answer to a packed bitstream.

        camera: its name; if empty, the client's own. captured_at: with its zone; None if unknown.

        Raises CloudUnreachableError, DeadlineError, OverloadedError, RemoteRejectedError, or RemoteError for an answer
        that cannot be read.
        """
        camera = camera or self._camera
        message = convert.request_message(request_id, bitstream, wanted, camera, captured_at)
        until = asyncio.get_running_loop().time() + self._settings.deadline_ms / 1e3
        try:
            async with asyncio.timeout_at(until), self._places:
                return convert.analysis_of(await self._send(message, until))
        except TimeoutError:
            raise late(self._settings) from None

    async def describe(self) -> list[BundleInfo]:
        """What the cloud serves. One attempt. Raises what `analyze` raises."""
        return convert.bundles_of(await self._transport.describe(self._settings.deadline_ms / 1e3))

    async def wanted(self, camera: str, running: str, trouble: str) -> str:
        """The fingerprint of the bundle that a camera should run, hex; empty: the one that it runs. One attempt.

        trouble: why it does not run the one that was wanted. Raises what `analyze` raises.
        """
        message = pb.DescribeRequest(camera=camera, running=running, trouble=trouble[:TROUBLE_MAX])
        return (await self._transport.describe(self._settings.deadline_ms / 1e3, message)).wanted

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, message: pb.AnalyzeRequest, until: float) -> pb.AnalyzeResponse:
        now, wait_s = asyncio.get_running_loop().time, FIRST_WAIT_S
        for attempt in range(1, self._settings.attempts_max + 1):
            try:
                return await self._transport.analyze(message, max(until - now(), 0.001))
            except CloudUnreachableError as error:
                left_s = until - now()
                if attempt == self._settings.attempts_max or wait_s >= left_s:
                    raise unreachable(self._settings, error, attempt) from None
            except DeadlineError as error:
                raise late(self._settings, error if now() < until else None) from None
            await asyncio.sleep(wait_s)
            wait_s *= 2
        raise AssertionError("attempts_max is at least 1")


def grpc_transport(settings: CloudLink) -> GrpcTransport:
    """A channel to the cloud of these settings. Raises RequestError as `GrpcTransport`."""
    return GrpcTransport(settings)


def unreachable(settings: CloudLink, error: Exception, attempts: int) -> CloudUnreachableError:
    """The error for a user after so many attempts, of which the last ended with `error`."""
    times = "once" if attempts == 1 else f"{attempts} times"
    cloud, reason = settings.address, str(error)
    if reason.startswith(NOBODY_THERE):
        hint = "is `isthmus cloud serve` running there?"
        if "handshake" in reason.lower():
            hint = "somebody is there, and TLS fails: see tls, ca, certificate and key, and the server's certificate"
        return CloudUnreachableError(
            f"the cloud at {cloud} cannot be reached (tried {times}): {reason}; {hint}"
        )
    return CloudUnreachableError(f"the cloud at {cloud} is not available (tried {times}): {reason}")


def late(settings: CloudLink, early: DeadlineError | None = None) -> DeadlineError:
    """early: the cloud's own limit, if it ended the call before this edge's deadline."""
    if early is not None:
        return DeadlineError(f"the cloud at {settings.address} gave up: {early}")
    return DeadlineError(f"the cloud at {settings.address} did not answer within {settings.deadline_ms} ms")
