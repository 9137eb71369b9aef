"""One edge process: the local HTTP API, from an open port to a clean end."""

from __future__ import annotations

import asyncio
import io
import logging

from PIL import Image

from edge.api import build_app
from edge.client import Client
from edge.pipeline import Pipeline
from edge.settings import EdgeSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import NotReadyError
from shared.process.process import HttpServer, announce, stop_signal

log = logging.getLogger("isthmus.edge")


def load(bundle: Bundle, threads: int) -> Encoder:
    """Blocking: an encoder that has encoded one grey picture. Raises BundleError."""
    encoder = Encoder(bundle, threads)
    size = bundle.manifest.preprocess
    grey = io.BytesIO()
    Image.new("RGB", (size.width, size.height), "grey").save(grey, "PNG")
    encoder.encode(grey.getvalue())
    return encoder


async def serve(settings: EdgeSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises BundleError, or RequestError where the port cannot be bound.

    Ready means that this edge can encode; that its cloud is away is told to each request (503), not by /readyz.
    """
    bundle = Bundle.open(settings.bundle)
    ready: list[Pipeline] = []

    def pipeline() -> Pipeline:
        if not ready:
            raise NotReadyError("the edge is loading its bundle; send the request again")
        return ready[0]

    http = HttpServer(build_app(pipeline, settings), settings.host, settings.http_port, settings.drain_ms)
    stop = stop_signal()
    http_task = asyncio.create_task(http.serve())
    announce("listening", http=http.address)
    log.info("listening on %s; loading %s", http.address, settings.bundle)
    try:
        encoder = await asyncio.to_thread(load, bundle, settings.threads)
        ready.append(Pipeline(encoder, Client(settings)))
        announce("ready")
        log.info("ready: bundle %s; cloud %s", bundle.manifest.name, settings.cloud)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, http_task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        log.info("ending")
        http.stop()
        await asyncio.gather(http_task, return_exceptions=True)
        if ready:
            await ready[0].close()
