"""One cloud process: gRPC and HTTP over one pipeline, from open ports to a clean end.

    ports open -> "listening" -> the bundle loads in a thread; meanwhile UNAVAILABLE and 503 are answered
               -> warm-up -> "ready", health SERVING; from here on tasks added to the bundle are loaded
               -> SIGTERM: new requests get UNAVAILABLE and 503, running ones are finished -> exit

Inference needs the bundle and the two ports. Everything else is optional: an archive whose disk is full or task folders
that cannot be read are logged and reported by /readyz, and the server serves without them.
"""

from __future__ import annotations

import asyncio
import logging

from cloud.admission import make_gate, make_tls
from cloud.archive.archive import Archive
from cloud.archive.late_archive import LateArchive
from cloud.engine.load import load
from cloud.faces.grpc_server import GrpcServer
from cloud.faces.http_face import build_app
from cloud.pipeline import Pipeline
from cloud.settings import ArchiveSettings, CloudSettings
from cloud.task_watch import TaskWatch
from shared.bundle import Bundle
from shared.process.process import HttpServer, announce, stop_signal
from shared.process.ready import Ready

log = logging.getLogger("isthmus.cloud")


async def serve(settings: CloudSettings) -> None:
    """Runs until SIGTERM or SIGINT. Raises BundleError, or RequestError if a port cannot be bound."""
    # The first scan loads added tasks, so a damaged or vanishing one cannot stop start-up.
    server = CloudServer(Bundle.open_without_added(settings.bundle), settings)
    await server.run()


class CloudServer:
    """The parts of one process. Must be made and run in one event loop."""

    def __init__(self, bundle: Bundle, settings: CloudSettings) -> None:
        """Binds both ports. Raises RequestError, also for tokens and certificates that cannot be used."""
        self._bundle, self._settings = bundle, settings
        self._pipeline: Ready[Pipeline] = Ready("the server")
        self._watch: Ready[TaskWatch] = Ready("the server")
        self._archive = _archive(settings.archive)
        self._tls, self._gate = make_tls(settings), make_gate(settings)
        app = build_app(
            self._pipeline, settings.http, self._watch, self._troubles, self._gate, settings.auth.origins
        )
        self._http = HttpServer(app, settings.host, settings.http, settings.drain_ms, self._tls)
        self._grpc = GrpcServer(
            self._pipeline, settings.host, settings.grpc, settings.sessions.open_max, self._gate, self._tls
        )

    async def run(self) -> None:
        stop = stop_signal()
        await self._grpc.start()
        http_task = asyncio.create_task(self._http.serve())
        announce(
            "listening",
            grpc=self._grpc.address,
            http=self._http.address,
            **({"tls": True} if self._tls else {}),
        )
        log.info("listening: gRPC on %s, HTTP on %s", self._grpc.address, self._http.address)
        loading = asyncio.create_task(self._load_and_watch())
        waits = {http_task, loading, asyncio.create_task(stop.wait())}
        try:
            while not stop.is_set() and not http_task.done():
                done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # raises what ended loading or HTTP
        finally:
            log.info("ending")
            loading.cancel()
            await self._end(http_task)

    async def _end(self, http_task: asyncio.Task[None]) -> None:
        """Refuses what is new, finishes what runs, and closes in the order of the flow."""
        pipeline = self._pipeline.empty()
        self._watch.empty()
        self._http.stop()
        grpc_end = self._grpc.end(self._settings.drain_ms / 1e3)
        await asyncio.gather(grpc_end, http_task, return_exceptions=True)
        if pipeline is not None:
            await pipeline.close()
        if self._archive is not None:
            await self._archive.close()

    async def _load_and_watch(self) -> None:
        settings, engine = self._settings, self._settings.engine
        log.info("loading %s", settings.bundle)
        if self._archive is not None:
            await self._archive.open()
        loaded = await asyncio.to_thread(
            load, self._bundle, engine.device, engine.threads, engine.encode_threads
        )
        pipeline = Pipeline(
            self._bundle,
            loaded.model,
            loaded.encoder,
            settings.pipeline,
            self._archive,
            settings.sessions,
        )
        watch = TaskWatch(pipeline, loaded.model)
        await watch.look()
        self._pipeline.fill(pipeline)
        self._watch.fill(watch)
        await self._grpc.serving()
        announce("ready", **({"troubles": troubles} if (troubles := self._troubles()) else {}))
        log.info(
            "ready: bundle %s, fingerprint %s", self._bundle.manifest.name, self._bundle.fingerprint.hex()
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(watch.run(lambda: asyncio.sleep(settings.tasks.poll_ms / 1e3)))
            if self._archive is not None:
                group.create_task(self._archive.keep_trying())

    def _troubles(self) -> dict[str, str]:
        """Why optional parts do not work now, by the part's name."""
        troubles: dict[str, str] = {"tokens": "their file cannot be read"} if self._gate.trouble else {}
        if self._archive is not None and self._archive.trouble:
            troubles["archive"] = self._archive.trouble
        if (watch := self._watch.value) is not None:
            troubles |= {f"tasks/{name}": why for name, why in watch.refused.items()}
        return troubles


def _archive(settings: ArchiveSettings) -> LateArchive | None:
    folder = settings.folder
    if folder is None:
        return None
    return LateArchive(lambda: Archive(folder, settings.bytes_max, settings.age_max_days * 86_400))
