"""A camera box as a process: from its file to a clean end, with the local HTTP API of an edge beside it.

It watches its file of settings: a changed table of sources takes effect; a faulty edit does not, and is reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from edge.api import build_app
from edge.box.box import Box
from edge.box.metrics import add_box_metrics
from edge.box.notify import Systemd
from edge.box.page import add_page
from edge.box.settings import BoxConfig, BoxSettings, load_box
from edge.box.status import BoxStatus, status_of, troubles_of
from edge.client import Client, grpc_transport
from edge.metrics import CountedTransport, EdgeMetrics
from edge.pipeline import Pipeline, SessionLink
from edge.quality import quality_for
from edge.sinks.sinks import Sinks, outputs_of
from edge.spool.spool import Spool
from edge.trust import load
from shared.bundle import Bundle
from shared.errors import RequestError
from shared.process.process import HttpServer, announce, stop_signal
from shared.process.ready import Ready
from shared.process.tracing import start_tracing, stop_tracing

log = logging.getLogger("isthmus.edge.box")


class Watched:
    """A file of settings that is looked at. trouble: why its last edit was not taken; empty if it was."""

    def __init__(self, file: Path, flags: Mapping[str, tuple[str, Any]], config: BoxConfig) -> None:
        self.config, self.trouble = config, ""
        self._file, self._flags = file, flags
        self._seen = self._content()

    def look(self) -> BoxConfig | None:
        """The new settings, if the file was changed and is right. Reads a file."""
        content = self._content()
        if content == self._seen:
            return None
        self._seen = content
        try:
            config = load_box(self._file, self._flags)
        except RequestError as error:
            self.trouble = str(error)
            log.error("%s; the previous settings stay in force", error)
            return None
        self.trouble = ""
        if config.settings != self.config.settings:
            log.warning("%s: only changed sources take effect now, the rest after a restart", self._file)
        self.config = config
        return config

    def _content(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except OSError:
            return None


async def serve_box(file: Path, flags: Mapping[str, tuple[str, Any]], config: BoxConfig) -> None:
    """Runs until SIGTERM or SIGINT.

    Raises BundleError, DataError for a spool that cannot be used, or RequestError if the port cannot be bound.
    """
    start_tracing(config.settings.tracing, "isthmus-box")
    try:
        bundle = Bundle.open(config.settings.bundle)
        check_sources(config, bundle)
        with await asyncio.to_thread(open_spool, config.settings) as spool:
            await _serve(Watched(file, flags, config), bundle, spool)
    finally:
        await asyncio.to_thread(stop_tracing)


async def _serve(watched: Watched, bundle: Bundle, spool: Spool) -> None:
    config, systemd = watched.config, Systemd()
    settings = config.settings
    ready: Ready[Pipeline] = Ready("the box")
    boxes: list[Box] = []  # one, once it has begun
    metrics = EdgeMetrics(settings.metrics, bundle, lambda: ready.value.sessions_open if ready.value else 0)
    add_box_metrics(metrics, lambda: status_of(boxes[0], watched.trouble) if boxes else None)
    app = build_app(
        ready,
        settings.http,
        metrics,
        lambda: troubles_of(boxes[0], watched.trouble) if boxes else {},
        settings.host,
    )
    add_status(app, ready, boxes, watched)
    add_page(app, lambda: the_box(ready, boxes), lambda: watched.trouble)
    http = HttpServer(app, settings.host, settings.http, settings.drain_ms)
    stop = stop_signal()
    http_task = asyncio.create_task(http.serve())
    announce("listening", http=http.address)
    pipeline: Pipeline | None = None
    tasks: list[asyncio.Task[None]] = []
    try:
        key = settings.update.require_signature
        encoder = await asyncio.to_thread(load, bundle, settings.encoder.threads, key)
        transport = grpc_transport(settings.cloud)
        client = Client(settings.cloud, settings.camera, CountedTransport(transport, metrics))
        sessions = SessionLink(settings.cloud, settings.session, transport, settings.camera)
        pipeline = Pipeline(encoder, client, sessions, metrics)
        sinks = Sinks(outputs_of(settings.answers, settings.mqtt), settings.answers.waiting_max)
        box = Box(encoder, spool, client, sinks, settings.cloud.in_flight_max, settings.rate)
        boxes.append(box)
        await box.use(config.sources)
        ready.fill(pipeline)
        announce("ready")
        systemd.send("READY=1")
        log.info("ready: %d sources, %d frames in the spool", len(config.sources), spool.depth)
        tasks += [
            asyncio.create_task(systemd.watch(box.disk_answers)),
            asyncio.create_task(follow(watched, box, settings.watch_ms / 1e3)),
        ]
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, http_task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        log.info("ending")
        systemd.send("STOPPING=1")
        ready.empty()
        http.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(http_task, *tasks, return_exceptions=True)
        for one in boxes:
            await one.close()
        if pipeline is not None:
            await pipeline.close()


async def follow(watched: Watched, box: Box, every_s: float) -> None:
    """Takes over changed sources for ever."""
    while True:
        await asyncio.sleep(every_s)
        config = await asyncio.to_thread(watched.look)
        if config is not None:
            try:
                check_sources(config, box.encoder.bundle)
            except RequestError as error:
                watched.trouble = str(error)
                log.error("%s; the previous sources go on", error)
            else:
                await box.use(config.sources)


def open_spool(settings: BoxSettings) -> Spool:
    """Blocks. Raises DataError."""
    one = settings.spool
    return Spool(one.folder, one.bytes_max, one.age_max_days * 86_400, one.full, one.order)


def check_sources(config: BoxConfig, bundle: Bundle) -> None:
    """Raises RequestError for a quality that the bundle does not have, or a loss that it does not promise.

    Tasks are not checked: the cloud may have some that were added to the bundle later.
    """
    for name, source in config.sources.items():
        try:
            bundle.quality(source.quality)
            if source.loss is not None:
                quality_for(bundle, source.tasks, source.loss)
        except RequestError as error:
            raise RequestError(f"[sources.{name}] {error}") from None


def add_status(app: FastAPI, ready: Ready[Pipeline], boxes: list[Box], watched: Watched) -> None:
    """GET /status."""

    @app.get("/status", tags=["health"], summary="Sources, spool, link and sinks")
    def status() -> BoxStatus:  # no coroutine: it reads the spool, and runs in a thread
        return status_of(the_box(ready, boxes), watched.trouble)


def the_box(ready: Ready[Pipeline], boxes: list[Box]) -> Box:
    """Raises NotReadyError while there is none."""
    ready()
    return boxes[0]
