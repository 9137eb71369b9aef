"""A camera box as a process: from its file to a clean end, with the local HTTP API of an edge beside it.

It watches its file of settings: a changed table of sources takes effect; a faulty edit does not, and is reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from edge.api import build_app
from edge.box.box import Box
from edge.box.metrics import add_box_metrics
from edge.box.notify import Systemd
from edge.box.page import add_page
from edge.box.settings import BoxConfig, BoxSettings, check_sources, load_box
from edge.box.status import BoxStatus, status_of, troubles_of
from edge.client import Client, grpc_transport
from edge.metrics import CountedTransport, EdgeMetrics
from edge.pipeline import Pipeline, SessionLink
from edge.sinks.sinks import Sinks, outputs_of
from edge.spool.spool import Spool
from edge.trust import load
from edge.update import Updater, first_bundle, source_of
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.process.process import HttpServer, announce, stop_signal
from shared.process.ready import Ready
from shared.process.tracing import start_tracing, stop_tracing

log = logging.getLogger("isthmus.edge.box")


class Watched:
    """A file of settings that is looked at. trouble: why its last edit was not taken, or not whole; empty if it was."""

    def __init__(self, file: Path, flags: Mapping[str, tuple[str, Any]], config: BoxConfig) -> None:
        self.config, self.trouble = config, ""
        self._began_with = config.settings
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
        if config.settings != self._began_with:
            self.trouble = f"{self._file}: only changed sources take effect now, the rest after a restart"
            log.warning("%s", self.trouble)
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
    settings = config.settings
    check_update(settings)
    start_tracing(settings.tracing, "isthmus-box")
    try:
        bundle = await asyncio.to_thread(first_bundle, settings)
        check_sources(config, bundle)
        with await asyncio.to_thread(open_spool, settings) as spool:
            await _serve(Watched(file, flags, config), bundle, spool)
    finally:
        await asyncio.to_thread(stop_tracing)


@dataclass(eq=False)
class _Running:
    """What there is of a box so far. tasks: ended first."""

    watched: Watched
    ready: Ready[Pipeline]
    metrics: EdgeMetrics
    box: Box | None = None
    pipeline: Pipeline | None = None
    updater: Updater | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def others(self) -> dict[str, str]:
        """Troubles that are not the box's own."""
        return {"config": self.watched.trouble, "update": self.updater.trouble if self.updater else ""}

    def the_box(self) -> Box:
        """Raises NotReadyError while there is none."""
        self.ready()
        assert self.box is not None
        return self.box

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.box is not None:
            await self.box.close()
        if self.pipeline is not None:
            await self.pipeline.close()


async def _serve(watched: Watched, bundle: Bundle, spool: Spool) -> None:
    settings, systemd = watched.config.settings, Systemd()
    ready: Ready[Pipeline] = Ready("the box")
    metrics = EdgeMetrics(settings.metrics, bundle, lambda: ready.value.sessions_open if ready.value else 0)
    running = _Running(watched, ready, metrics)
    http = HttpServer(_app(running), settings.host, settings.http, settings.drain_ms)
    stop = stop_signal()
    http_task = asyncio.create_task(http.serve())
    announce("listening", http=http.address)
    try:
        await _begin(running, bundle, spool)
        assert running.box is not None
        announce("ready")
        systemd.send("READY=1")
        log.info("ready: %d sources, %d frames in the spool", len(running.box.sources), spool.depth)
        running.tasks.append(asyncio.create_task(systemd.watch(running.box.disk_answers)))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, http_task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        log.info("ending")
        systemd.send("STOPPING=1")
        ready.empty()
        await http.finish(settings.drain_ms / 1e3)
        http.stop()
        await asyncio.gather(http_task, return_exceptions=True)
        await running.close()


async def _begin(running: _Running, bundle: Bundle, spool: Spool) -> None:
    """Loads the bundle and starts everything. Raises BundleError or RequestError."""
    config, metrics = running.watched.config, running.metrics
    settings = config.settings
    key = settings.update.require_signature
    encoder = await asyncio.to_thread(load, bundle, settings.encoder.threads, key)
    transport = grpc_transport(settings.cloud)
    client = Client(settings.cloud, settings.camera, CountedTransport(transport, metrics))
    sessions = SessionLink(settings.cloud, settings.session, transport, settings.camera)
    sinks = Sinks(outputs_of(settings.answers, settings.mqtt), settings.answers.waiting_max)
    in_flight_max = settings.cloud.in_flight_max
    box = running.box = Box(encoder, spool, client, sinks, in_flight_max, settings.rate, sessions)
    # Who posts an image waits for its answer.
    prompt = settings.session.model_copy(update={"answers_wait_ms": 0})
    posted = SessionLink(settings.cloud, prompt, transport, settings.camera)
    observer = box.observer(metrics, settings.camera)
    pipeline = running.pipeline = Pipeline(encoder, client, posted, observer)
    await box.use(config.sources)
    running.ready.fill(pipeline)
    running.tasks.append(asyncio.create_task(follow(running.watched, box, settings.watch_ms / 1e3)))
    update = settings.update
    if update.url is None:
        return

    def swap(encoder: Encoder) -> None:
        pipeline.swap(encoder)
        box.swap(encoder)
        metrics.bundle = encoder.bundle

    def accepts(bundle: Bundle) -> None:
        check_sources(running.watched.config, bundle)

    source = partial(source_of, settings.cloud, update.url)
    threads = settings.encoder.threads
    running.updater = Updater(update, client, settings.camera, bundle, swap, source, threads, accepts)
    waiting = partial(asyncio.sleep, update.poll_ms / 1e3)
    running.tasks.append(asyncio.create_task(running.updater.run(waiting)))


def _app(running: _Running) -> FastAPI:
    """The local API: that of an edge, GET /status, and the page."""

    def troubles() -> dict[str, str]:
        return troubles_of(running.box, running.others()) if running.box else {}

    async def status_now() -> BoxStatus | None:
        return await status_of(running.box, running.others()) if running.box else None

    settings = running.watched.config.settings
    add_box_metrics(running.metrics, status_now)
    app = build_app(running.ready, settings.http, running.metrics, troubles, settings.host)
    add_page(app, running.the_box, running.others)

    @app.get("/status", tags=["health"], summary="Sources, spool, link and sinks")
    async def status() -> BoxStatus:
        return await status_of(running.the_box(), running.others())

    return app


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


def check_update(settings: BoxSettings) -> None:
    """Raises RequestError."""
    if settings.update.url is not None and not settings.camera:
        raise RequestError("a box that asks for its bundle needs a name", setting="camera")


def open_spool(settings: BoxSettings) -> Spool:
    """Blocks. Raises DataError."""
    one = settings.spool
    return Spool(one.folder, one.bytes_max, one.age_max_days * 86_400, one.full, one.order)
