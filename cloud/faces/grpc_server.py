"""The cloud's gRPC server: its options and limits, the services on it, and how it ends.

start -> calls are answered -> end: new calls get UNAVAILABLE, accepted ones are finished -> connections are closed
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud.faces.grpc_access import AccessInterceptor
from cloud.faces.grpc_connections import SWEEP_S, GrpcConnections
from cloud.faces.grpc_face import Servicer
from cloud.faces.grpc_guard import ReadableMessages, RunningCalls, StreamLimit
from cloud.faces.grpc_seen import CallsSeen
from cloud.pipeline import Pipeline
from cloud.settings import GrpcSettings
from shared.errors import RequestError
from shared.process.auth import Gate
from shared.process.metrics import RequestMetrics
from shared.process.process import LAST_S, address_of, listen
from shared.process.ready import Ready
from shared.process.sockets import close_connections, connections_allowed
from shared.process.tls import Certificates, ServerTls
from shared.wire import analyzer_pb2
from shared.wire.analyzer_pb2_grpc import add_AnalyzerServicer_to_server

log = logging.getLogger("isthmus.cloud.grpc")

SERVICE = analyzer_pb2.DESCRIPTOR.services_by_name["Analyzer"].full_name
SESSIONS = f"/{SERVICE}/AnalyzeSession"

PING_INTERVAL_MIN_MS = (
    30_000  # edges ask once a minute whether the link is alive, also when they send nothing
)
CONNECTION_IDLE_MS = 600_000  # an edge reconnects with its next request and does not notice


def server_options(message_bytes_max: int, connections_max: int, head_ms: int) -> list[tuple[str, int]]:
    """The arguments of the gRPC server, by the names that its core knows (not always those of the C macros)."""
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        # Answers are as large as the bundle's maps, whatever the limit of a request.
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
        # Pings that measure the link would cost more bytes than a session's frames.
        ("grpc.http2.bdp_probe", 0),
        # Two servers on one port would share its requests without anyone noticing.
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", connections_max),
        # Also the time that a connection has for its HTTP/2 preface and settings.
        ("grpc.server_handshake_timeout_ms", head_ms),
        ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS),
    ]


class _Health(health.aio.HealthServicer):
    """The library's, which logs a traceback for each call of the method that it has no code for."""

    async def List(self, _: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask Check or Watch, which name a service")


class GrpcServer:
    """gRPC on a port of its own: the Analyzer, health and reflection. Must be made in a running event loop.

    port 0 takes a free one. sessions_max: open at once. gate: decides who may call; everybody without one. requests:
    counts the calls.

    Raises RequestError if the address cannot be bound.
    """

    def __init__(
        self,
        ready: Ready[Pipeline],
        host: str,
        settings: GrpcSettings,
        sessions_max: int = 128,
        gate: Gate | None = None,
        tls: ServerTls | None = None,
        requests: RequestMetrics | None = None,
    ) -> None:
        self._calls = RunningCalls(SERVICE)
        connections_max = settings.connections_max or connections_allowed()
        self._connections = GrpcConnections(connections_max)
        self._sweeping: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(
            options=server_options(
                settings.message_bytes_max,
                connections_max,
                settings.head_ms,
            ),
            interceptors=[
                *([] if requests is None else [CallsSeen(requests)]),
                AccessInterceptor(
                    gate or Gate(),
                    settings.head_ms / 1e3,
                    calls_max=settings.rpcs_max,
                    connections=self._connections,
                    check_room=lambda request_id: ready().check_room(request_id),
                ),
                self._calls,
                StreamLimit(settings.streams_max, {SESSIONS: sessions_max}),
                ReadableMessages(),
            ],
            # Each kind of call has a bound of its own that tokens share (up to 4 times rpcs_max among 30 equal ones),
            # so that this one, which knows nobody, is never reached by one of them alone.
            maximum_concurrent_rpcs=4 * settings.rpcs_max + 3 * settings.streams_max + sessions_max,
        )
        self._servicer = Servicer(ready, settings.stream_requests_max, settings.stream_idle_ms / 1e3)
        add_AnalyzerServicer_to_server(self._servicer, self._server)
        self._health = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._port = _bind(self._server, host, settings.port, tls)
        self.address = address_of(host, self._port)

    async def start(self) -> None:
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        self._sweeping = asyncio.create_task(self._sweep())

    async def serving(self) -> None:
        """Health checks answer SERVING from here on."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def end(self, drain_s: float) -> None:
        """Finishes the calls that run, for `drain_s` at most, refuses the rest, and closes every connection.

        The caller withdraws the pipeline first, so that new calls get UNAVAILABLE.
        """
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._health.enter_graceful_shutdown()
        self._servicer.end()
        try:
            async with asyncio.timeout(drain_s):
                await self._calls.end()
        except TimeoutError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self._calls.cut()
        # gRPC ends calls that arrive while it stops with CANCELLED, which clients do not repeat. Calls on a connection
        # that is closed under them end UNAVAILABLE, so the connections are closed before gRPC stops.
        close_connections(self._port)
        await self._server.stop(0)

    async def _sweep(self) -> None:
        """Looks at connections for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self._connections.sweep(self._port)
            except OSError as error:
                # To list descriptors takes one, which is what may be short just now.
                log.warning("open connections cannot be listed: %s", error.strerror)

    async def _set_health(self, status: int) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)


def _bind(server: grpc.aio.Server, host: str, port: int, tls: ServerTls | None) -> int:
    """The bound port. Raises RequestError."""
    # Tried first, because gRPC reports a taken port in lines of its own on stderr, and without the reason.
    listen(host, port).close()
    address = address_of(host, port)
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(tls))
    except RuntimeError:
        raise RequestError(f"cannot listen on {address}") from None


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Credentials that follow the files. Where there is a client CA, each client has to have a certificate."""
    first = tls.current()
    sent = first.number

    def newest() -> grpc.ServerCertificateConfiguration | None:  # for each handshake, in a thread of gRPC's
        nonlocal sent
        now = tls.current()
        if now.number == sent:
            return None
        sent = now.number
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(first),
        newest,  # type: ignore[arg-type]  # the stubs lack its None: nothing new
        require_client_authentication=first.client_ca is not None,
    )


def _configuration(now: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(now.key, now.certificate)], now.client_ca)
