"""What a cloud counts, by name; docs/operating.md explains each for operators. Knows no HTTP.

    pipeline -> CloudMetrics (an Observer) -> counters and histograms, by bundle and task
    Prometheus asks -> what the server holds now: queue, sessions, bundles, archive

Triton's distinction holds: an inference is one image that a task was answered for, an execution is one run of its tail,
over all images of a batch that ask for it. So inferences / executions is the batch size that a tail really sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from cloud.archive.late_archive import LateArchive
from cloud.engine.batch_work import Done, Job
from cloud.observer import ANSWERED, Seen
from cloud.pipeline import Pipeline
from cloud.shelf.slot import BundleState
from shared.bundle import Bundle
from shared.codec.frame_codec import Latent
from shared.process import tracing
from shared.process.config import MetricsSettings
from shared.process.metrics import OTHER, Bounded, Metrics
from shared.types import TaskQuery, Times

BUNDLE = ("bundle", "fingerprint")
MARK_DIGITS = 8  # of a fingerprint, as bitstreams carry it
BUNDLES_MAX = 64  # over the life of a process
TASKS_MAX = 256
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
ENCODING = ("read", "front", "code")


@dataclass(frozen=True, eq=False)
class _OfBundle:
    """The series of one bundle, looked up once. executions, inferences: by task."""

    labels: tuple[str, str]
    stages: dict[str, Histogram]
    batch: Histogram
    bytes: dict[str, Counter]
    executions: dict[str, Counter] = field(default_factory=dict)
    inferences: dict[str, Counter] = field(default_factory=dict)


class CloudMetrics(Metrics):
    """An Observer of the pipeline. ready: returns the pipeline, or None while there is none.

    troubles: why optional parts do not work now, by name.
    """

    def __init__(
        self,
        settings: MetricsSettings,
        ready: Callable[[], Pipeline | None],
        troubles: Callable[[], dict[str, str]] = dict,
    ) -> None:
        super().__init__("cloud")
        self._ready = ready
        self._bundles, self._tasks = Bounded(BUNDLES_MAX), Bounded(TASKS_MAX)
        self._known: dict[tuple[str, bytes], _OfBundle] = {}
        self._images = self.counter(
            "images",
            "Images that came, by how (bitstream, image, frame of a session) and what became of them: answered, gone "
            "(the client left), need_intra, or the gRPC code of the refusal.",
            (*BUNDLE, "source", "outcome"),
        )
        self._inferences = self.counter(
            "inferences", "Images that a task was answered for.", (*BUNDLE, "task")
        )
        self._executions = self.counter(
            "executions", "Runs of a task's tail, each over a batch.", (*BUNDLE, "task")
        )
        self._batch = self.histogram("batch_images", "Images in one batch.", BUNDLE, IMAGES)
        self._stages = self.histogram(
            "stage_seconds",
            "Time of a stage. Of one image: read, front and code (image files) and queue; of a batch: decode, forward "
            "and postprocess.",
            (*BUNDLE, "stage"),
        )
        self._bytes = self.counter(
            "stream_bytes", "Bytes of answered bitstreams, by part: b_v, b_z or container.", (*BUNDLE, "part")
        )
        self._cameras = _Cameras(self, settings.cameras_max) if settings.cameras else None
        self.gauge(
            "queue_images", "Images that wait for a batch.", lambda: self._read(lambda one: one.waiting)
        )
        self.gauge(
            "queue_images_max",
            "Images that may wait; more are refused.",
            lambda: self._read(lambda one: one.settings.queue_max),
        )
        self.gauge("sessions_open", "Open sessions.", lambda: self._read(lambda one: len(one.sessions)))
        self.gauge(
            "ready",
            "1 once the server can answer, 0 while it loads or ends.",
            lambda: self._read(lambda _: 1),
        )
        self.gauge(
            "troubles", "Optional parts that do not work now; /readyz names them.", lambda: len(troubles())
        )

    def bundles(self, states: Callable[[], Sequence[BundleState]]) -> None:
        """Adds what the shelf holds. states: of every bundle on it, loaded or not."""
        names = {
            "bundles_loaded": (),
            "bundle_loaded": BUNDLE,
            "bundle_memory_bytes": BUNDLE,
            "bundle_loads": BUNDLE,
        }
        self.collect(names, lambda prefix: _shelf(prefix, states()))

    def archive(self, archive: LateArchive) -> None:
        """Adds the archive's numbers."""
        self.gauge("archive_working", "1 while records are kept.", lambda: not archive.trouble)
        self.collect({"archive_records": ("outcome",)}, lambda prefix: _records(prefix, archive))

    def tokens(self, refused: Mapping[str, int]) -> None:
        """Adds what a gate refused. refused: calls so far, by a reason of a few words."""
        self.collect({"tokens_refused": ("reason",)}, lambda prefix: _refusals(prefix, refused))

    def batch(self, jobs: Sequence[Job], outcomes: Sequence[Done | Exception]) -> None:
        own = self._of(jobs[0].served.bundle)
        own.batch.observe(len(jobs))
        done = [(job, one) for job, one in zip(jobs, outcomes, strict=True) if isinstance(one, Done)]
        if not done:
            return
        first = done[0][1]
        own.stages["decode"].observe(first.decode_ms / 1e3)
        ran = set()
        for job, one in done:
            is_base = isinstance(one.latent, Latent) and one.latent.z is None
            for query in job.queries:
                self._count(own.inferences, self._inferences, own, query)
                ran.add((query.name, is_base))
        for name, _ in ran:
            self._count(own.executions, self._executions, own, TaskQuery(name=name))
        if ran:
            own.stages["forward"].observe((first.tails_ms - first.postprocess_ms) / 1e3)
            own.stages["postprocess"].observe(first.postprocess_ms / 1e3)

    def queued(self, job: Job, queue_ms: float, done: Done) -> None:
        self._of(job.served.bundle).stages["queue"].observe(queue_ms / 1e3, tracing.exemplar())

    def image(self, seen: Seen) -> None:
        if seen.bundle is None:
            self._images.labels("", "", seen.source, seen.outcome).inc()
            return
        own = self._of(seen.bundle)
        self._images.labels(*own.labels, seen.source, seen.outcome).inc()
        if seen.bytes is not None:
            sizes = seen.bytes
            own.bytes["b_v"].inc(sizes.b_v)
            own.bytes["b_z"].inc(sizes.b_z)
            own.bytes["container"].inc(max(sizes.total - sizes.b_v - sizes.b_z, 0))
        if seen.encoding is not None:
            _observe_encoding(own, seen.encoding)
        if self._cameras is not None and seen.camera and seen.outcome == ANSWERED:
            self._cameras.answered(seen.camera, seen.bytes.total if seen.bytes else 0)

    def _count(self, known: dict[str, Counter], family: Counter, own: _OfBundle, query: TaskQuery) -> None:
        counter = known.get(query.name)
        if counter is None:
            counter = known[query.name] = family.labels(*own.labels, self._tasks(query.name))
        counter.inc()

    def _of(self, bundle: Bundle) -> _OfBundle:
        """The series of a bundle."""
        key = bundle.manifest.name, bundle.fingerprint
        own = self._known.get(key)
        return own if own is not None else self._new(bundle, key)

    def _new(self, bundle: Bundle, key: tuple[str, bytes]) -> _OfBundle:
        fingerprint = self._bundles(bundle.fingerprint.hex())
        labels = (OTHER if fingerprint == OTHER else bundle.manifest.name, fingerprint)
        own = _OfBundle(
            labels,
            {
                stage: self._stages.labels(*labels, stage)
                for stage in (*ENCODING, "queue", "decode", "forward", "postprocess")
            },
            self._batch.labels(*labels),
            {part: self._bytes.labels(*labels, part) for part in ("b_v", "b_z", "container")},
        )
        if fingerprint != OTHER:
            self._known[key] = own
        return own

    def _read(self, number: Callable[[Pipeline], float]) -> float:
        """A number of the pipeline; 0 while there is none."""
        pipeline = self._ready()
        return 0.0 if pipeline is None else float(number(pipeline))


class _Cameras:
    """Series by camera, which somebody has asked for. most: cameras that have series of their own."""

    def __init__(self, metrics: Metrics, most: int) -> None:
        self._name = Bounded(most)
        self._images = metrics.counter("camera_images", "Images answered, by camera.", ("camera",))
        self._bytes = metrics.counter(
            "camera_stream_bytes", "Bytes of answered bitstreams, by camera.", ("camera",)
        )
        self._last = metrics.labelled(
            "camera_last_answer_timestamp_seconds",
            "When a camera was answered last, in Unix time.",
            ("camera",),
        )

    def answered(self, camera: str, size: int) -> None:
        name = self._name(camera)
        self._images.labels(name).inc()
        self._bytes.labels(name).inc(size)
        self._last.labels(name).set(time.time())


def _observe_encoding(own: _OfBundle, times: Times) -> None:
    for stage, spent_ms in times.encoding.items():
        if spent_ms is not None:
            own.stages[stage].observe(spent_ms / 1e3, tracing.exemplar())


def _shelf(prefix: str, states: Sequence[BundleState]) -> Iterable[Metric]:
    loaded = GaugeMetricFamily(
        f"{prefix}bundle_loaded",
        "1 if a bundle is loaded, 0 if a request would load it.",
        labels=BUNDLE,
    )
    memory = GaugeMetricFamily(
        f"{prefix}bundle_memory_bytes", "About the memory of a loaded bundle.", labels=BUNDLE
    )
    loads = CounterMetricFamily(f"{prefix}bundle_loads", "How often a bundle was loaded.", labels=BUNDLE)
    for state in states:
        labels = (state.name or "", (state.fingerprint or "")[:MARK_DIGITS])
        is_loaded = state.state == "loaded"
        loaded.add_metric(labels, is_loaded)
        memory.add_metric(labels, (state.memory_bytes or 0) if is_loaded else 0)
        loads.add_metric(labels, state.loads)
    total = sum(state.state == "loaded" for state in states)
    yield GaugeMetricFamily(f"{prefix}bundles_loaded", "Bundles that are loaded.", total)
    yield from (loaded, memory, loads)


def _refusals(prefix: str, refused: Mapping[str, int]) -> Iterable[Metric]:
    tokens = CounterMetricFamily(
        f"{prefix}tokens_refused", "Calls that were refused for their token, by reason.", labels=("reason",)
    )
    for reason, number in list(refused.items()):
        tokens.add_metric((reason,), number)
    yield tokens


def _records(prefix: str, archive: LateArchive) -> Iterable[Metric]:
    records = CounterMetricFamily(
        f"{prefix}archive_records",
        "Records since the start: written, repeated or dropped.",
        labels=("outcome",),
    )
    for outcome, number in archive.counts().items():
        records.add_metric((outcome,), number)
    yield records
