"""Answers jobs in replicas of a Ray cluster. The one file that knows Ray.

    RayEngine.submit(job) -> a replica that holds the job's bundle, or the one with room (multiplexing by `Version`)
                          -> local_engine of the replica -> Done

A job brings all that its answer depends on, a session's reference included. So replicas keep nothing between two jobs:
any of them answers any frame of any session, and what a lost replica had is asked again of another. References,
answers by request id and the archive stay in the gateway, which is the server that there is without Ray too.

Bundles are read by replicas from the folder in which the gateway found them: it must be there on every machine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read at the import, as the next
os.environ.setdefault("RAY_worker_niceness", "0")  # by default replicas starve beside any other load

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import metrics
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cloud.engine.batch_work import Done, Job, Model, Served
from cloud.engine.engine import BatchSeen, Engine, Limits, MakeEngine, local_engine
from cloud.engine.fair_queue import Share
from cloud.engine.load import load
from cloud.engine.version import Version
from cloud.settings import EngineSettings, PipelineSettings, RaySettings
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.codec.frame_codec import Coded, Latent
from shared.errors import BundleError, IsthmusError, NotReadyError, RequestError
from shared.process.rates import Places
from shared.types import TaskQuery

log = logging.getLogger("isthmus.cloud.ray")
R = TypeVar("R")
LoadModel = Callable[[Bundle], Model]

APP, TAILS = "isthmus", "Tails"
TRIES = 3  # a job that ends each replica that it meets must not end them all
BUNDLES_MAX = 8  # loaded in one replica
STUCK_S = 300.0  # longer than any deadline; loading a bundle is a part of it
OBJECT_STORE_BYTES = 128 << 20  # answers and bitstreams are small
IMAGES, SECONDS = [1, 2, 4, 8, 16, 32, 64, 128], [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}


class Tails:
    """Decodes and runs tails; one replica is one process. Keeps nothing but loaded bundles.

    It batches as a server without Ray does. Ray's own @serve.batch closes a batch after its wait even while another one
    runs, and so divides what arrives meanwhile into small ones.

    load: loads a bundle's model; blocks. limits: of the replica. first: name of the version that is loaded before the
    replica counts as ready; empty: none.
    """

    def __init__(self, load: LoadModel, limits: PipelineSettings, first: str) -> None:
        self._load, self._limits = load, limits
        self._first: dict[str, Served] = {}
        if first:
            with suppress(BundleError):  # another is there by now: whoever asks for this one is told so
                self._first[first] = self._read(first)
        self._counts = _Counts()
        self._engine: Engine | None = None
        self._since: dict[object, float] = {}  # when jobs came that are not answered yet

    async def answer(
        self, source: Bitstream | Coded | Latent, queries: tuple[TaskQuery, ...], share: Share
    ) -> Done | IsthmusError:
        """The result of a job, or the error that this job gets; whatever else goes wrong is raised."""
        if self._engine is None:
            self._engine = local_engine(self._limits, self._counts.batch)
        job = object()
        self._since[job] = time.monotonic()
        try:
            served: Served = await self._served(serve.get_multiplexed_model_id())
            done, _ = await self._engine.submit(Job(source, queries, served, share))
        except BundleError as error:
            return NotReadyError(f"the bundle has changed on the disk ({error}); send the request again")
        except IsthmusError as error:
            return error
        finally:
            del self._since[job]
        return done

    @serve.multiplexed(max_num_models_per_replica=BUNDLES_MAX)
    async def _served(self, version: str) -> Served:
        """Raises BundleError."""
        if version in self._first:
            return self._first.pop(version)
        return await asyncio.to_thread(self._read, version)

    def _read(self, version: str) -> Served:
        bundle = Version.parse(version).open()
        return Served(bundle, self._load(bundle))

    def check_health(self) -> None:
        """Asked by Ray, which replaces the replica if this raises."""
        if self._since and time.monotonic() - min(self._since.values()) > STUCK_S:
            raise RuntimeError(f"a job has been here for more than {STUCK_S:.0f} s")


def tails_loader(engine: EngineSettings) -> LoadModel:
    """What `Tails` load bundles with, on the device of the settings."""
    return partial(_load, engine)


def _load(engine: EngineSettings, bundle: Bundle) -> Model:
    return load(bundle, engine.device, engine.threads, engine.encode_threads).model


class _Counts:
    """A replica's metrics, which Ray exports with its own, as ray_isthmus_..."""

    def __init__(self) -> None:
        bundle = ("bundle", "fingerprint")
        self._images = metrics.Histogram(
            "isthmus_batch_images", "Images in one batch.", boundaries=IMAGES, tag_keys=bundle
        )
        self._stages = metrics.Histogram(
            "isthmus_stage_seconds", "Time of a batch.", boundaries=SECONDS, tag_keys=(*bundle, "stage")
        )
        self._inferences = metrics.Counter(
            "isthmus_inferences", "Images that a task was answered for.", tag_keys=(*bundle, "task")
        )

    def batch(self, jobs: Sequence[Job], outcomes: Sequence[Done | Exception]) -> None:
        manifest = jobs[0].served.bundle.manifest
        tags = {"bundle": manifest.name, "fingerprint": manifest.fingerprint[:8]}
        self._images.observe(len(jobs), tags)
        done = [(job, one) for job, one in zip(jobs, outcomes, strict=True) if isinstance(one, Done)]
        for job, _ in done:
            for query in job.queries:
                self._inferences.inc(1, tags | {"task": query.name})
        if done:
            first = done[0][1]
            self._stages.observe(max(first.decode_ms, 1e-3) / 1e3, tags | {"stage": "decode"})
            self._stages.observe(max(first.tails_ms, 1e-3) / 1e3, tags | {"stage": "tails"})


class RayEngine:
    """An Engine before a deployment of `Tails`. Must be made and used in one event loop.

    at_work_max: jobs that all replicas together can work on. queue_max: more that may wait. Those who send divide both.
    """

    def __init__(self, tails: DeploymentHandle, at_work_max: int, queue_max: int) -> None:
        self._tails, self._at_work_max = tails, at_work_max
        self._places = Places(at_work_max + queue_max)
        self._handles: WeakKeyDictionary[Served, DeploymentHandle] = WeakKeyDictionary()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    @property
    def waiting(self) -> int:
        """Jobs beyond those that all replicas can work on at once."""
        return max(0, self._running - self._at_work_max)

    def refusal(self, _: Hashable, share: Share) -> IsthmusError | None:
        return self._places.refusal(share.name, share.weight)

    async def submit(self, job: Job) -> tuple[Done, float]:
        """See `cloud.engine.engine.Engine`. The wait includes the way to the replica and back."""
        if self._closing:
            raise NotReadyError("the server is ending; send the request again")
        started = time.perf_counter()
        with self._places.held(job.share.name, job.share.weight):
            self._running += 1
            self._idle.clear()
            try:
                outcome = await self._ask(job)
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()
        if isinstance(outcome, Exception):
            raise outcome
        ended = time.perf_counter()  # the replica's clock is another one
        wait_ms = (ended - started) * 1e3 - outcome.decode_ms - outcome.tails_ms
        return replace(outcome, ended_s=ended), max(wait_ms, 0.0)

    async def close(self) -> None:
        self._closing = True
        await self._idle.wait()

    async def _ask(self, job: Job) -> Done | IsthmusError:
        """Raises OverloadedError or NotReadyError, or RayTaskError for what went wrong unexpectedly."""
        handle = self._handles.get(job.served)
        if handle is None:
            version = Version.of(job.served.bundle).name
            handle = self._handles[job.served] = self._tails.options(multiplexed_model_id=version)
        for _ in range(TRIES):
            response = handle.answer.remote(job.source, job.queries, job.share)
            try:
                outcome: Done | IsthmusError = await response
                return outcome
            except asyncio.CancelledError:
                response.cancel()
                raise
            except RayTaskError:
                raise
            except (RayError, RayServeException) as error:
                # The replica or its machine went: jobs can be repeated.
                log.warning("a job is asked again: %s", str(error).splitlines()[0])
        raise NotReadyError("the replica that worked on this request was lost; send the request again")


def tails_application(
    settings: RaySettings, limits: PipelineSettings, load: LoadModel, first: str = ""
) -> serve.Application:
    """The deployment that decodes and answers, with its share of devices and its scaling. load, first: see `Tails`."""
    deploy = serve.deployment(
        name=TAILS,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        # Jobs wait in the replicas, each of which shares its places fairly among those who sent them.
        max_ongoing_requests=limits.batch_max + limits.queue_max,
        autoscaling_config={
            "min_replicas": settings.replicas_min,
            "initial_replicas": settings.replicas_min,
            "max_replicas": _most(settings),
            "target_ongoing_requests": limits.batch_max,
        },
        health_check_period_s=5,
        logging_config=LOGGING,
    )
    return deploy(Tails).bind(load, limits, first)


class Cluster:
    """A Ray that this process has started or joined, with `Tails` deployed. Its methods block for seconds."""

    def __init__(
        self, settings: RaySettings, limits: PipelineSettings, load: LoadModel, first: str = ""
    ) -> None:
        """load, first: see `Tails`. Raises RequestError where there is no cluster, or none can be started."""
        join(settings)
        try:
            serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
            if APP not in serve.status().applications:
                serve.run(tails_application(settings, limits, load, first), name=APP, route_prefix=None)
        except (RuntimeError, TimeoutError, RayError) as error:
            trouble = _deployment_trouble() or _short(error)
            ray.shutdown()
            raise RequestError(f"Ray does not serve: {trouble}") from None
        self.tails = serve.get_deployment_handle(TAILS, APP)
        self.engine = engine_maker(self.tails, settings)

    def leave(self) -> None:
        """Ends the Ray that was started here; one that was joined goes on, with its replicas."""
        ray.shutdown()


def join(settings: RaySettings) -> None:
    """Starts Ray for this process, or joins the one at the address. Raises RequestError."""
    # log_to_driver: its lines would go to the stdout that programs read.
    options = {} if settings.address else _own_options(settings)
    try:
        ray.init(address=settings.address or "local", namespace=APP, log_to_driver=False, **options)
    except Exception as error:  # Ray raises that itself where its processes do not come up within 30 s
        hint = "; for its token set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if settings.address else ""
        place = settings.address or "this machine"
        raise RequestError(f"no Ray at {place}: {_short(error)}{hint}", setting="ray.address") from None


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _deployment_trouble() -> str:
    """Why `Tails` cannot be deployed, as the last line of what its replicas report; empty if it is not known."""
    if not ray.is_initialized() or APP not in (applications := serve.status().applications):
        return ""
    tails = applications[APP].deployments.get(TAILS)
    return (tails.message.strip().splitlines() or [""])[-1] if tails else ""


def _own_options(settings: RaySettings) -> dict[str, Any]:
    """Of a Ray that is started here, for this machine alone."""
    # Its processes inherit both. Without a token Ray would write one to the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    folder = {"_temp_dir": str(settings.folder.resolve())} if settings.folder else {}
    return {
        "_node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": settings.machine_cpus,
        "logging_level": logging.WARNING,
        **folder,
    }


def engine_maker(tails: DeploymentHandle, settings: RaySettings) -> MakeEngine:
    """Engines before deployed `Tails`."""

    def make(limits: Limits, _: BatchSeen) -> Engine:  # replicas count their batches
        replicas = _most(settings)
        return RayEngine(tails, replicas * limits.batch_max, replicas * limits.queue_max)

    return make


def _most(settings: RaySettings) -> int:
    return max(settings.replicas_min, settings.replicas_max)


def map_items(settings: RaySettings, load: Callable[[], Callable[[int], R]], count: int) -> Iterator[R]:
    """`load()(i)` for each i < count, by Ray Data, as each is done. load: runs once in each process, and may be slow.

    An item whose process is lost is done again by another. Raises RequestError where there is no Ray.
    """
    join(settings)
    from ray.data import from_items

    try:
        done = from_items([{"at": at} for at in range(count)], override_num_blocks=max(count, 1)).map(
            _Mapper,
            fn_constructor_args=(load,),
            concurrency=(1, max(1, min(_most(settings), count))),
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            max_restarts=-1,
            max_task_retries=TRIES,
        )
        for row in done.iter_rows():
            yield row["out"]
    finally:
        ray.shutdown()


class _Mapper:
    """One process of `map_items`."""

    def __init__(self, load: Callable[[], Callable[[int], Any]]) -> None:
        self._do = load()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"out": self._do(int(row["at"]))}


RunGateway = Callable[[MakeEngine, asyncio.Event], Awaitable[None]]


class Gateway:
    """A whole server as a deployment: our ports, contract, TLS and tokens; Ray's proxies are not in the way.

    run: serves with an engine until the event is set; then it drains.
    """

    def __init__(self, run: RunGateway, tails: DeploymentHandle, settings: RaySettings) -> None:
        self._stop = asyncio.Event()
        self._serving = asyncio.ensure_future(run(engine_maker(tails, settings), self._stop))

    def check_health(self) -> None:
        """Asked by Ray, which replaces the replica if this raises."""
        if self._serving.done():
            raise RuntimeError(f"the gateway has ended: {self._serving.exception() or 'asked to'}")

    async def __del__(self) -> None:  # awaited by Ray before the process ends
        self._stop.set()
        await self._serving


def gateway_application(
    run: RunGateway,
    settings: RaySettings,
    limits: PipelineSettings,
    load: LoadModel,
    drain_ms: int,
) -> serve.Application:
    """A gateway on each machine that offers the resource `gateway`, before one deployment of tails."""
    tails = tails_application(settings, limits, load)
    deploy = serve.deployment(
        name="Gateway",
        num_replicas=settings.gateways,
        max_replicas_per_node=1,  # they bind the same ports
        ray_actor_options={"num_cpus": 1, "resources": {"gateway": 1}},
        graceful_shutdown_timeout_s=drain_ms / 1e3 + 10,
        logging_config=LOGGING,
    )
    return deploy(Gateway).bind(run, tails, settings)
