"""One edge process: the local HTTP API, from an open port to a clean end."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from edge.api import build_app
from edge.client import Client, grpc_transport
from edge.metrics import CountedTransport, EdgeMetrics
from edge.pipeline import Pipeline, SessionLink
from edge.settings import EdgeSettings
from edge.trust import load
from edge.update import Updater, first_bundle, source_of
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.process.process import HttpServer, announce, stop_signal
from shared.process.ready import Ready
from shared.process.tracing import start_tracing, stop_tracing

log = logging.getLogger("isthmus.edge")


async def serve(settings: EdgeSettings) -> None:
    """Runs until SIGTERM or SIGINT. Raises BundleError, or RequestError if the port cannot be bound.

    Ready means that this edge can encode; that its cloud is away is reported to each request (503), not by /readyz.
    """
    if settings.update.url is not None and not settings.camera:
        raise RequestError("a camera that asks for its bundle needs a name", setting="camera")
    start_tracing(settings.tracing, "isthmus-edge")
    try:
        await _serve(await asyncio.to_thread(first_bundle, settings), settings)
    finally:
        await asyncio.to_thread(stop_tracing)


async def _serve(bundle: Bundle, settings: EdgeSettings) -> None:
    ready: Ready[Pipeline] = Ready("the edge")
    metrics = EdgeMetrics(settings.metrics, bundle, lambda: ready.value.sessions_open if ready.value else 0)
    app = build_app(ready, settings.http, metrics, host=settings.host)
    http = HttpServer(app, settings.host, settings.http, settings.drain_ms)
    stop = stop_signal()
    http_task = asyncio.create_task(http.serve())
    announce("listening", http=http.address)
    log.info("listening on %s; loading %s", http.address, bundle.path)
    pipeline: Pipeline | None = None
    try:
        key = settings.update.require_signature
        encoder = await asyncio.to_thread(load, bundle, settings.encoder.threads, key)
        transport = grpc_transport(settings.cloud)
        client = Client(settings.cloud, settings.camera, CountedTransport(transport, metrics))
        sessions = SessionLink(settings.cloud, settings.session, transport, settings.camera)
        pipeline = Pipeline(encoder, client, sessions, metrics)
        ready.fill(pipeline)
        announce("ready")
        log.info("ready: bundle %s; cloud %s", bundle.manifest.name, settings.cloud.address)
        updating = _update(settings, client, bundle, pipeline, metrics)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, http_task}, return_when=asyncio.FIRST_COMPLETED)
        if updating is not None:
            updating.cancel()
    finally:
        log.info("ending")
        ready.empty()
        await http.finish(settings.drain_ms / 1e3)
        http.stop()
        await asyncio.gather(http_task, return_exceptions=True)
        if pipeline is not None:
            await pipeline.close()


def _update(
    settings: EdgeSettings, client: Client, bundle: Bundle, pipeline: Pipeline, metrics: EdgeMetrics
) -> asyncio.Task[None] | None:
    """Follows what the cloud wants; None for an edge that was given no address to download from."""
    update = settings.update
    if update.url is None:
        return None

    def swap(encoder: Encoder) -> None:
        pipeline.swap(encoder)
        metrics.bundle = encoder.bundle

    source = partial(source_of, settings.cloud, update.url)
    updater = Updater(update, client, settings.camera, bundle, swap, source, settings.encoder.threads)
    return asyncio.create_task(updater.run(lambda: asyncio.sleep(update.poll_ms / 1e3)))
