"""One cloud process: gRPC and HTTP over one pipeline, from open ports to a clean end.

ports open -> "listening" -> the bundle loads in a thread; meanwhile UNAVAILABLE and 503 are answered
           -> warm-up -> "ready", health SERVING; from here on tasks that are added to the bundle are taken up
           -> SIGTERM: health NOT_SERVING, running requests end -> exit
"""

from __future__ import annotations

import asyncio
import logging

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud.archive.archive import Archive
from cloud.engine.load import load
from cloud.faces.grpc_face import Servicer, StreamLimit
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import CloudSettings
from cloud.task_watch import TaskWatch
from shared.bundle import Bundle
from shared.errors import NotReadyError, RequestError
from shared.process.process import HttpServer, announce, at, listen, stop_signal
from shared.wire import analyzer_pb2
from shared.wire.analyzer_pb2_grpc import add_AnalyzerServicer_to_server

log = logging.getLogger("isthmus.cloud")

SERVICE = analyzer_pb2.DESCRIPTOR.services_by_name["Analyzer"].full_name


class Slot:
    """Where the pipeline, and what watches its bundle's tasks, will stand once they are loaded."""

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None
        self._watch: TaskWatch | None = None
        self._why = "the server is loading its bundle; send the request again"

    def get(self) -> Pipeline:
        """Raises NotReadyError while it is loading or ending."""
        if self._pipeline is None:
            raise NotReadyError(self._why)
        return self._pipeline

    def watch(self) -> TaskWatch:
        """Raises NotReadyError while it is loading or ending."""
        if self._watch is None:
            raise NotReadyError(self._why)
        return self._watch

    def fill(self, pipeline: Pipeline, watch: TaskWatch | None = None) -> None:
        self._pipeline, self._watch = pipeline, watch

    def empty(self) -> Pipeline | None:
        """No new requests from here on; what is returned is still to be closed."""
        pipeline, self._pipeline, self._watch = self._pipeline, None, None
        self._why = "the server is ending; send the request again"
        return pipeline


async def serve(settings: CloudSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises BundleError, RequestError where a port cannot be bound, DataError where the archive cannot be used.
    """
    # Added tasks are taken up by the first look: one that is damaged, or goes meanwhile, does not end the server.
    bundle = Bundle.open_without_added(settings.bundle)
    if settings.archive is None:
        await _serve(bundle, settings, None)
        return
    archive = Archive(settings.archive, settings.archive_bytes_max, settings.archive_age_max_days * 86_400)
    try:
        await _serve(bundle, settings, archive)
    finally:
        await asyncio.to_thread(archive.close)
        log.info("archive %s: %d records written, %d dropped", archive.path, archive.written, archive.dropped)


async def _serve(bundle: Bundle, settings: CloudSettings, archive: Archive | None) -> None:
    slot = Slot()
    http = HttpServer(
        build_app(slot.get, settings, slot.watch), settings.host, settings.http_port, settings.drain_ms
    )
    grpc_server, health_servicer, grpc_address = await _grpc_server(slot, settings)
    stop = stop_signal()
    await grpc_server.start()
    http_task = asyncio.create_task(http.serve())
    announce("listening", grpc=grpc_address, http=http.address)
    log.info("listening: gRPC on %s, HTTP on %s; loading %s", grpc_address, http.address, settings.bundle)
    loading = asyncio.create_task(_load_and_watch(bundle, settings, slot, health_servicer, archive))
    waits = {http_task, loading, asyncio.create_task(stop.wait())}
    try:
        while not stop.is_set() and not http_task.done():
            done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises where loading or HTTP failed
    finally:
        log.info("ending")
        loading.cancel()
        pipeline = slot.empty()
        await health_servicer.enter_graceful_shutdown()
        http.stop()
        await asyncio.gather(grpc_server.stop(settings.drain_ms / 1e3), http_task, return_exceptions=True)
        if pipeline is not None:
            await pipeline.close()


async def _load_and_watch(
    bundle: Bundle,
    settings: CloudSettings,
    slot: Slot,
    health_servicer: health.aio.HealthServicer,
    archive: Archive | None,
) -> None:
    loaded = await asyncio.to_thread(load, bundle, settings.device, settings.threads, settings.encode_threads)
    pipeline = Pipeline(bundle, loaded.model, loaded.encoder, settings, archive)
    watch = TaskWatch(pipeline, loaded.model)
    await watch.look()
    slot.fill(pipeline, watch)
    for name in ("", SERVICE):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    announce("ready")
    log.info("ready: bundle %s, fingerprint %s", bundle.manifest.name, bundle.fingerprint.hex())
    await watch.run(lambda: asyncio.sleep(settings.tasks_poll_ms / 1e3))


async def _grpc_server(
    slot: Slot, settings: CloudSettings
) -> tuple[grpc.aio.Server, health.aio.HealthServicer, str]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.message_bytes_max),
            # Answers are as large as the bundle's maps, whatever a request may have.
            ("grpc.max_send_message_length", -1),
            # Edges ask each minute whether the link is there, also while nothing is sent.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
            ("grpc.so_reuseport", 0),  # two servers on one port would share its requests in silence
        ],
        interceptors=[StreamLimit(settings.streams_max)],
        maximum_concurrent_rpcs=settings.rpcs_max,
    )
    servicer = Servicer(slot.get, settings.stream_requests_max, settings.stream_idle_ms / 1e3)
    add_AnalyzerServicer_to_server(servicer, server)
    health_servicer = health.aio.HealthServicer()
    for name in ("", SERVICE):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    # Tried before, because gRPC tells a taken port in lines of its own on stderr, and without the reason.
    listen(settings.host, settings.grpc_port).close()
    address = at(settings.host, settings.grpc_port)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise RequestError(f"cannot listen on {address}") from None
    return server, health_servicer, at(settings.host, port)
