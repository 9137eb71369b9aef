"""What a server counts, and the text in which Prometheus reads it. Knows neither edge nor cloud, and no HTTP.

    Metrics("cloud", ...) -> counter, histogram, gauge -> a registry of its own -> exposition -> GET /metrics

Names begin with isthmus_cloud_ or isthmus_edge_; times are in seconds, sizes in bytes. A label is never an id, and each
has a bounded number of values: what comes beyond it counts as "other". So a client cannot fill the memory of a server,
or of its Prometheus, with names of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

log = logging.getLogger("isthmus.requests")

OTHER = "other"
# From what a range coder takes to what a client waits for.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Each counter would come with a second series that says when it was made.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Bounded:
    """The first `most` different values as they are, and every later one as "other"."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value


class Metrics:
    """The metrics of one server, in a registry of its own: several servers of one process do not mix.

    side: "cloud" or "edge", a part of every name. requests: counts those of both protocols. labels: of each metric,
    by its whole name without _total.
    """

    def __init__(self, side: str) -> None:
        self.registry = CollectorRegistry()
        self._prefix = f"isthmus_{side}_"
        self.labels: dict[str, tuple[str, ...]] = {}
        self.requests = RequestMetrics(self)
        self._before: list[Callable[[], Awaitable[None]]] = []
        ProcessCollector(registry=self.registry)

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """name: without prefix and _total."""
        return Counter(self._named(name, labels), text, labels, registry=self.registry)

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        return Histogram(self._named(name, labels), text, labels, registry=self.registry, buckets=buckets)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A number that is read when Prometheus asks."""
        Gauge(self._named(name), text, registry=self.registry).set_function(read)

    def labelled(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """A gauge that its owner sets."""
        return Gauge(self._named(name, labels), text, labels, registry=self.registry)

    def collect(self, names: Mapping[str, Sequence[str]], read: Callable[[str], Iterable[Metric]]) -> None:
        """Adds series that come and go.

        names: what they are called, with their labels. read: given the prefix, returns them when Prometheus asks.
        """
        for name, labels in names.items():
            self._named(name, labels)
        self.registry.register(_Reading(lambda: read(self._prefix)))

    def before(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Adds what is awaited before each exposition: numbers that a disk has to be asked for."""
        self._before.append(ask)

    async def prepare(self) -> None:
        """Asks for the numbers that take time, so that the exposition does not."""
        for ask in self._before:
            await ask()

    def _named(self, name: str, labels: Sequence[str] = ()) -> str:
        whole = self._prefix + name
        self.labels[whole] = tuple(labels)
        return whole

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Everything that is counted, and its media type. accept: the request's header; OpenMetrics has exemplars."""
        # The library's own choice repeats what the header says, and fails where its version is no number.
        if "application/openmetrics-text" in accept:
            text: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4


class _Reading(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


class RequestMetrics:
    """Requests of both protocols, by method and status, and how long calls take that are no streams."""

    def __init__(self, metrics: Metrics) -> None:
        self._total = metrics.counter(
            "requests",
            "Requests that have ended, by protocol (http, grpc), method and status; of a stream its end.",
            ("protocol", "method", "status"),
        )
        self._seconds = metrics.histogram(
            "request_seconds",
            "Time from a request to its answer; streams do not count.",
            ("protocol", "method"),
        )

    def ended(
        self,
        protocol: str,
        method: str,
        status: str,
        seconds: float | None = None,
        exemplar: dict[str, str] | None = None,
    ) -> None:
        """method: a route or a name of the contract, never what a client made up. seconds: None of a stream."""
        if log.isEnabledFor(logging.DEBUG):
            took = {} if seconds is None else {"seconds": round(seconds, 6)}
            fields = {"protocol": protocol, "method": method, "status": status, **took}
            log.debug("%s %s", method, status, extra={"fields": fields})
        self._total.labels(protocol, method, status).inc()
        if seconds is not None:
            self._seconds.labels(protocol, method).observe(seconds, exemplar)
