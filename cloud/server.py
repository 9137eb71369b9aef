"""One cloud process: gRPC and HTTP over one pipeline, from open ports to a clean end.

    ports open -> "listening" -> a bundle loads in a thread; meanwhile UNAVAILABLE and 503 are answered
               -> warm-up -> "ready", health SERVING; from here on bundles and added tasks are kept as on the disk
               -> SIGTERM: new requests get UNAVAILABLE and 503, running ones are finished -> exit

Inference needs one bundle and the two ports. Everything else is optional: an archive whose disk is full, other bundles
or task folders that cannot be read are logged and reported by /readyz, and the server serves without them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.admission import make_gate, make_tls
from cloud.archive.archive import Archive
from cloud.archive.late_archive import LateArchive
from cloud.archive.overview import last_day
from cloud.batch_settings import unmatched
from cloud.engine.choice import import_ray
from cloud.engine.engine import MakeEngine, local_engine
from cloud.engine.load import Loaded, load
from cloud.engine.version import Version
from cloud.faces.grpc_server import GrpcServer
from cloud.faces.http_face import build_app
from cloud.faces.http_page import PageParts
from cloud.metrics import CloudMetrics
from cloud.observer import Observers
from cloud.page.fleet import Fleet
from cloud.pipeline import Pipeline
from cloud.settings import ArchiveSettings, CloudSettings, EngineSettings
from cloud.shelf.keeper import Keeper
from cloud.shelf.plan import PlanFile
from cloud.shelf.rollout import Rollout
from cloud.shelf.shelf import Shelf
from cloud.state.shared import SharedState
from shared.bundle import Bundle
from shared.errors import BundleError, DataError, RequestError
from shared.process.limits import cpu_limit, memory_limit, threads_for
from shared.process.process import HttpServer, announce, hear_signals, stop_signal
from shared.process.ready import Ready
from shared.process.tracing import start_tracing, stop_tracing

if TYPE_CHECKING:
    from cloud.engine.ray_engine import Cluster

log = logging.getLogger("isthmus.cloud")


async def serve(
    settings: CloudSettings, engine: MakeEngine | None = None, stop: asyncio.Event | None = None
) -> None:
    """Runs until SIGTERM or SIGINT, or, where there is one, until `stop` is set.

    engine: makes what answers; None: what the settings say. Raises BundleError, or RequestError if a port cannot be
    bound or Ray cannot be reached.
    """
    start_tracing(settings.tracing, "isthmus-cloud")
    try:
        await CloudServer(_source(settings), settings, engine).run(stop or stop_signal())
    finally:
        await asyncio.to_thread(stop_tracing)


class CloudServer:
    """The parts of one process. Must be made and run in one event loop."""

    def __init__(
        self, source: Bundle | Path, settings: CloudSettings, engine: MakeEngine | None = None
    ) -> None:
        """Binds both ports. source: a bundle, or a folder of bundles. engine: see `serve`.

        Raises RequestError, also for tokens and certificates that cannot be used.
        """
        self._source, self._settings = source, settings
        self._engine = engine
        self._cluster: Cluster | None = None
        self._stop = asyncio.Event()
        self._pipeline: Ready[Pipeline] = Ready("the server")
        self._keeper: Ready[Keeper] = Ready("the server")
        self._archive = _archive(settings.archive)
        self._state = SharedState(settings.state) if settings.state.url is not None else None
        self._rollout = Rollout(self._state.plans if self._state else PlanFile(settings.shelf.rollout))
        self._tls, self._gate = make_tls(settings), make_gate(settings, self._state)
        self._metrics = self._count(settings)
        self._fleet = Fleet(pending=self._rollout.pending)
        app = build_app(
            self._pipeline,
            settings.http,
            self._keeper,
            self._troubles,
            self._gate,
            settings.auth.origins,
            self._metrics,
            PageParts(self._fleet, settings.archive.folder),
        )
        self._http = HttpServer(app, settings.host, settings.http, settings.drain_ms, self._tls)
        self._grpc = GrpcServer(
            self._pipeline,
            settings.host,
            settings.grpc,
            settings.sessions.open_max,
            self._gate,
            self._tls,
            self._metrics.requests,
        )

    def _count(self, settings: CloudSettings) -> CloudMetrics:
        metrics = CloudMetrics(settings.metrics, lambda: self._pipeline.value, self._troubles)
        metrics.tokens(self._gate.refused)
        if self._archive is not None:
            metrics.archive(self._archive)
        return metrics

    async def run(self, stop: asyncio.Event) -> None:
        self._stop = stop
        await self._grpc.start()
        http_task = asyncio.create_task(self._http.serve())
        announce(
            "listening",
            grpc=self._grpc.address,
            http=self._http.address,
            **({"tls": True} if self._tls else {}),
        )
        log.info("listening: gRPC on %s, HTTP on %s", self._grpc.address, self._http.address)
        if not self._gate.locked and self._gate.local:
            log.info("no tokens: everybody on this machine may call (isthmus cloud token add makes one)")
        loading = asyncio.create_task(self._load_and_watch())
        following = [asyncio.create_task(self._state.follow(self._rollout))] if self._state else []
        waits = {http_task, loading, asyncio.create_task(stop.wait()), *following}
        try:
            while not stop.is_set() and not http_task.done():
                done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # raises what ended loading or HTTP
        finally:
            log.info("ending")
            loading.cancel()
            await self._end(http_task)
            for task in following:
                task.cancel()  # not before: what still runs asks for its caller's token

    async def _end(self, http_task: asyncio.Task[None]) -> None:
        """Refuses what is new, finishes what runs, and closes in the order of the flow."""
        pipeline = self._pipeline.empty()
        self._keeper.empty()
        drain_s = self._settings.drain_ms / 1e3
        await asyncio.gather(self._grpc.end(drain_s), self._http.finish(drain_s), return_exceptions=True)
        self._http.stop()
        await asyncio.gather(http_task, return_exceptions=True)
        if pipeline is not None:
            await pipeline.close()
        if self._archive is not None:
            await self._archive.close()
        if self._cluster is not None:
            await asyncio.to_thread(self._cluster.leave)

    async def _load_and_watch(self) -> None:
        settings = self._settings
        log.info("loading %s", self._source.path if isinstance(self._source, Bundle) else self._source)
        if self._archive is not None:
            await self._archive.open()
            await self._remember(settings.archive.folder)
        engine = await self._make_engine()
        shelf = Shelf(
            _loader(settings.engine),
            _shelf_bytes(settings.shelf.bytes_max, memory_limit()),
            settings.shelf.default,
            settings.pipeline.queue_max,
        )
        rollout = self._rollout
        keeper = Keeper(shelf, self._source, settings.shelf.default, rollout)
        await keeper.begin(self._poll)
        self._metrics.bundles(shelf.states)
        observer = Observers(self._metrics, self._fleet, rollout)
        pipeline = Pipeline(
            shelf, settings.pipeline, self._archive, settings.sessions, observer, rollout, engine
        )
        self._pipeline.fill(pipeline)
        self._keeper.fill(keeper)
        _spare_collections()
        await self._grpc.serving()
        announce("ready", **({"troubles": troubles} if (troubles := self._troubles()) else {}))
        names = (f"{info.name}, fingerprint {info.fingerprint}" for info in shelf.infos())
        log.info("ready: bundle %s", "; ".join(names))
        async with asyncio.TaskGroup() as group:
            group.create_task(keeper.run(self._poll))
            group.create_task(self._report_unmatched(shelf))
            if self._archive is not None:
                group.create_task(self._archive.keep_trying())

    async def _report_unmatched(self, shelf: Shelf) -> None:
        """Logs tables of single bundles that name none of those that there are: bundles may still come."""
        await shelf.complete.wait()
        for name in unmatched(self._settings.pipeline.bundles, shelf.bundles()):
            log.warning(
                "[pipeline.bundles.%s] names no bundle that is served now; there are %s. A bundle goes by its folder, "
                "its name, or the first 8 or more digits of its fingerprint",
                name,
                ", ".join(f"{one.path.name} ({one.manifest.fingerprint[:8]})" for one in shelf.bundles()),
            )

    async def _make_engine(self) -> MakeEngine:
        """What answers jobs. Raises RequestError if it cannot be had."""
        if self._engine is not None:
            return self._engine
        if self._settings.engine.kind == "local":
            return local_engine
        self._cluster = await asyncio.to_thread(_join, self._settings, self._source)
        # Ray has taken SIGTERM, and would end the process 3 s after it, in mid-drain.
        hear_signals(self._stop)
        return self._cluster.engine

    async def _remember(self, archive: Path | None) -> None:
        """Fills the fleet's last day from the archive; one that cannot be read is no reason not to serve."""
        if archive is None:
            return
        try:
            for slot in await asyncio.to_thread(last_day, archive):
                self._fleet.add(slot.camera, slot.last_at, slot.records, slot.size, slot.head)
        except DataError as error:
            log.warning("the fleet begins empty: %s", error)

    def _troubles(self) -> dict[str, str]:
        """Why optional parts do not work now, by the part's name."""
        troubles = {"tokens": "they cannot be read; nobody is let in"} if self._gate.trouble else {}
        if self._state is not None and self._state.trouble:
            troubles["state"] = "the database does not answer"
        if self._archive is not None and self._archive.trouble:
            troubles["archive"] = self._archive.trouble
        if (keeper := self._keeper.value) is not None:
            troubles |= keeper.troubles
        return troubles

    async def _poll(self) -> None:
        await asyncio.sleep(self._settings.tasks.poll_ms / 1e3)


def _spare_collections() -> None:
    """Takes what there is now out of the garbage collector's sight, for good.

    Libraries and networks are some 400,000 objects that stay, and each full collection looks at all of them: nobody is
    answered for 110 to 320 ms meanwhile. A bundle that is unloaded goes by its references all the same.
    """
    gc.collect()
    gc.freeze()


def _source(settings: CloudSettings) -> Bundle | Path:
    """Where bundles come from. Raises BundleError, or RequestError for a folder that is none."""
    folder = settings.shelf.folder
    if folder is None:
        # The first look loads added tasks, so a damaged or vanishing one cannot stop start-up.
        return Bundle.open_without_added(settings.bundle)
    if not folder.is_dir():
        raise RequestError(
            f"there is no folder {folder}; it holds one folder for each bundle", setting="shelf.folder"
        )
    return folder


def _join(settings: CloudSettings, source: Bundle | Path) -> Cluster:
    """Starts or joins Ray. Blocks for seconds. Raises RequestError."""
    first = ""
    if isinstance(source, Bundle):
        with suppress(BundleError):  # of an added task, which the first scan reports
            first = Version.of(Bundle.open(source.path)).name
    ray_engine = import_ray()
    log.info("starting %s", f"at Ray of {settings.ray.address}" if settings.ray.address else "Ray")
    loader = ray_engine.tails_loader(settings.engine)
    cluster: Cluster = ray_engine.Cluster(settings.ray, settings.pipeline, loader, first)
    return cluster


def _loader(engine: EngineSettings) -> Callable[[Bundle], Loaded]:
    # torch counts the machine's processors; in a container with a limit its threads would wait for each other.
    threads = engine.threads or threads_for(cpu_limit(), os.cpu_count() or 1)
    # Replicas run the tails; a model here checks the bundle and says what it can answer.
    device = engine.device if engine.kind == "local" else "cpu"
    return lambda bundle: load(bundle, device, threads, engine.encode_threads)


def _shelf_bytes(bytes_max: int, limit: int | None) -> int:
    """Memory for bundles: at most half of a container's, whose other half is for requests, answers and libraries."""
    if limit is None or bytes_max <= limit // 2:
        return bytes_max
    log.info("bundles may take %d MiB, half of the container's memory", limit // 2 >> 20)
    return limit // 2


def _archive(settings: ArchiveSettings) -> LateArchive | None:
    folder = settings.folder
    if folder is None:
        return None
    key = settings.read_key()
    age_s = settings.age_max_days * 86_400
    return LateArchive(lambda: Archive(folder, settings.bytes_max, age_s, key=key))
