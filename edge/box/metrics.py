"""What a camera box adds to an edge's /metrics: sources, spool, link, sinks. Read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from edge.box.status import BoxStatus
from shared.process.metrics import Metrics

# Name without prefix, labels, what it is. Those that end in _total are counters.
SERIES: dict[str, tuple[tuple[str, ...], str]] = {
    "source_up": (("source",), "1 while a source delivers."),
    "source_starts_total": (("source",), "Starts of a source's process."),
    "source_images_total": (
        ("source", "outcome"),
        "Images of a source: accepted into the spool, or the reason why they were not.",
    ),
    "source_frames_total": (
        ("source", "type"),
        "Frames that the cloud acknowledged, by how they were sent: I, P or S in a session, or alone.",
    ),
    "spool_frames": ((), "Frames that the cloud has not acknowledged."),
    "spool_bytes": ((), "Their size."),
    "spool_oldest_seconds": ((), "Age of the oldest of them."),
    "spool_drops_total": (("reason",), "Accepted frames that were given up, by reason."),
    "spool_damaged_files_total": ((), "Files of the spool that were set aside."),
    "link_up": ((), "1 while frames go through to the cloud, or would."),
    "link_frames_total": ((), "Frames that the cloud acknowledged."),
    "link_bytes_total": ((), "What was sent of them, without what protocols add."),
    "answers_total": (("sink", "outcome"), "Answers by sink: delivered or dropped."),
}
Values = dict[str, list[tuple[tuple[str, ...], float]]]


def add_box_metrics(metrics: Metrics, status: Callable[[], Awaitable[BoxStatus | None]]) -> None:
    """status: None while there is no box yet."""
    now: BoxStatus | None = None

    async def ask() -> None:
        nonlocal now
        now = await status()

    def read(prefix: str) -> Iterable[Metric]:
        values = {} if now is None else values_of(now)
        for name, (labels, text) in SERIES.items():
            yield _family(prefix + name, labels, text, values.get(name, []))

    metrics.before(ask)
    names = {name.removesuffix("_total"): labels for name, (labels, _) in SERIES.items()}
    metrics.collect(names, read)


def values_of(status: BoxStatus) -> Values:
    """Every series' values by its labels."""
    spool, link = status.spool, status.link
    values: Values = {
        "spool_frames": [((), spool.depth)],
        "spool_bytes": [((), spool.bytes)],
        "spool_oldest_seconds": [((), spool.oldest_s)],
        "spool_drops_total": [((reason,), count) for reason, count in spool.drops.items()],
        "spool_damaged_files_total": [((), len(spool.damaged_files))],
        "link_up": [((), not link.trouble)],
        "link_frames_total": [((), link.sent)],
        "link_bytes_total": [((), link.sent_bytes)],
        "answers_total": [],
    }
    for name in ("source_up", "source_starts_total", "source_images_total", "source_frames_total"):
        values[name] = []
    for name, source in status.sources.items():
        values["source_up"].append(((name,), source.status == "running"))
        values["source_starts_total"].append(((name,), source.starts))
        counts = {"accepted": source.accepted, **source.drops}
        values["source_frames_total"] += [((name, kind), count) for kind, count in source.sent.items()]
        values["source_images_total"] += [((name, outcome), count) for outcome, count in counts.items()]
    for sink in status.sinks:
        values["answers_total"] += [
            ((sink.name, "delivered"), sink.delivered),
            ((sink.name, "dropped"), sink.dropped),
        ]
    return values


def _family(
    name: str, labels: Sequence[str], text: str, values: Sequence[tuple[tuple[str, ...], float]]
) -> Metric:
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(name, text, labels=labels)
    for own, value in values:
        family.add_metric(own, float(value))
    return family
