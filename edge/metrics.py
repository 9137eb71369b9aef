"""What an edge counts, by name; docs/operating.md explains each for operators. Knows no HTTP and no gRPC.

pipeline -> EdgeMetrics: images, their stages and bytes;  CountedTransport around the transport: attempts at the cloud
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from edge.client import Transport
from edge.observer import Seen, code_of
from shared.bundle import Bundle
from shared.process import tracing
from shared.process.config import MetricsSettings
from shared.process.metrics import Bounded, Metrics
from shared.wire import analyzer_pb2 as pb

STAGES = ("read", "front", "code", "send")
BUNDLE = ("bundle", "fingerprint")
QUALITIES = tuple(range(0, 101, 10))


class EdgeMetrics(Metrics):
    """An Observer of the pipeline. bundle: the one that images are coded with now. sessions: how many are open now."""

    def __init__(self, settings: MetricsSettings, bundle: Bundle, sessions: Callable[[], int]) -> None:
        super().__init__("edge")
        self.bundle = bundle
        self._images = self.counter(
            "images",
            "Images that came, by how they were sent (single, or the type of a session's frame) and what became of "
            "them: answered, gone (the client left), or the gRPC code of the refusal.",
            ("frame", "outcome"),
        )
        seconds = self.histogram(
            "stage_seconds",
            "Time of a stage: read, front, code and send (to the cloud and back).",
            ("stage",),
        )
        self._stages = {stage: seconds.labels(stage) for stage in STAGES}
        size = self.counter(
            "stream_bytes", "Bytes of answered bitstreams, by part: b_v, b_z or container.", ("part",)
        )
        self._bytes = {part: size.labels(part) for part in ("b_v", "b_z", "container")}
        self._quality = self.histogram("quality", "Quality of answered images, 0 to 100.", buckets=QUALITIES)
        self._attempts = self.counter(
            "cloud_attempts", "Calls to the cloud, repeats included, by gRPC status.", ("status",)
        )
        self._cameras = Bounded(settings.cameras_max) if settings.cameras else None
        if self._cameras is not None:
            self._of_camera = self.counter("camera_images", "Images answered, by camera.", ("camera",))
        self.gauge("sessions_open", "Sessions of clients that are open.", sessions)
        self.collect({"bundle_info": BUNDLE}, self._info)

    def attempt(self, status: str) -> None:
        """status: a name of gRPC's."""
        self._attempts.labels(status).inc()

    def image(self, seen: Seen) -> None:
        self._images.labels(seen.frame, seen.outcome).inc()
        answer = seen.answer
        if answer is None:
            return
        for stage, histogram in self._stages.items():
            spent_ms: float | None = getattr(answer.times, f"{stage}_ms")
            if spent_ms is not None:
                histogram.observe(spent_ms / 1e3, tracing.exemplar())
        sizes = answer.bytes
        self._bytes["b_v"].inc(sizes.b_v)
        self._bytes["b_z"].inc(sizes.b_z)
        self._bytes["container"].inc(max(sizes.total - sizes.b_v - sizes.b_z, 0))
        self._quality.observe(answer.quality)
        if self._cameras is not None and seen.camera:
            self._of_camera.labels(self._cameras(seen.camera)).inc()

    def _info(self, prefix: str) -> Iterable[Metric]:
        info = GaugeMetricFamily(
            f"{prefix}bundle_info", "1 for the bundle that images are coded with.", labels=BUNDLE
        )
        info.add_metric((self.bundle.manifest.name, self.bundle.fingerprint.hex()), 1)
        yield info


class CountedTransport:
    """A transport whose attempts are counted."""

    def __init__(self, transport: Transport, metrics: EdgeMetrics) -> None:
        self._transport, self._metrics = transport, metrics

    async def analyze(self, request: pb.AnalyzeRequest, timeout_s: float) -> pb.AnalyzeResponse:
        status = "CANCELLED"
        try:
            answer = await self._transport.analyze(request, timeout_s)
            status = "OK"
            return answer
        except Exception as error:
            status = code_of(error)
            raise
        finally:
            self._metrics.attempt(status)

    async def describe(
        self, timeout_s: float, request: pb.DescribeRequest | None = None
    ) -> pb.DescribeResponse:
        return await self._transport.describe(timeout_s, request)

    async def close(self) -> None:
        await self._transport.close()
