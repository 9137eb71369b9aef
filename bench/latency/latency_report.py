"""What `isthmus bench latency` measured, told: tables, targets, a map of when to use what, a plot. Measures nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from bench.latency.edge_site import STAGES, Answered
from bench.link import Reached, Shape
from bench.report.report import About, markdown, targets
from bench.report.sections import Section, Target
from shared.files import write_atomically
from shared.types import Frozen

LOOPBACK = "loopback"
SLOW, MIDDLE = Shape(mbit=0.25, delay_ms=20), Shape(mbit=1, delay_ms=20)  # what the targets name
COLD = SLOW
JPEG_75 = "JPEG 75"
AFTER_FRONT = ("transform", "extractor", "exact path", "range coder", "container")
CLOUD_STAGES = ("reconstruction", "tails", "results")


class Way(Frozen):
    """How an answer is got. form: as of `latency_edge.Question`. equal: an image codec at Isthmus's task quality."""

    name: str
    form: Literal["isthmus", "local", "JPEG", "AVIF", "WEBP"]
    quality: int = 0
    equal: bool = False


class Spread(Frozen):
    """Of `count` values."""

    median: float
    p95: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median=float(np.median(values)), p95=float(np.percentile(values, 95)), count=len(values))

    def __str__(self) -> str:
        return f"{_ms(self.median)} / {_ms(self.p95)}"


class Asked(Frozen):
    """One way on one link. bytes: mean of a picture as it was sent. stages: ms, of Isthmus alone."""

    ms: Spread
    bytes: float
    stages: dict[str, Spread]

    @classmethod
    def of(cls, answers: Sequence[Answered]) -> Asked:
        stages: dict[str, list[float]] = {}
        for times in (answer.times for answer in answers if answer.times):
            at_cloud = sum(times[name] for name in ("queue_ms", "decode_ms", "tails_ms"))
            for name, ms in {**times, "wire": times["send_ms"] - at_cloud}.items():
                stages.setdefault(name, []).append(ms)
        return cls(
            ms=Spread.of([answer.ms for answer in answers]),
            bytes=float(np.mean([answer.bytes for answer in answers])),
            stages={name: Spread.of(values) for name, values in stages.items()},
        )


class OnLink(Frozen):
    """What each way took on a link. shape, reached: None for the loopback. lost: share of all packets."""

    name: str
    shape: Shape | None = None
    reached: Reached | None
    lost: float = 0.0
    answers: dict[str, Asked]

    def ms(self, way: str) -> float:
        return self.answers[way].ms.median


class EdgeProcess(Frozen):
    """start_s: a fresh process's time from its creation to its first bitstream; the memory is resident, in MB."""

    start_s: Spread
    start_memory_mb: float
    served_memory_mb: float


class Latency(Frozen):
    """Everything that was measured. links: the loopback first."""

    about: About
    link: str
    ways: tuple[Way, ...]
    stages: dict[str, Spread]
    links: tuple[OnLink, ...]
    cold: dict[str, Spread]
    edge: EdgeProcess

    def on(self, shape: Shape) -> OnLink | None:
        return next((link for link in self.links if link.shape == shape), None)

    @property
    def edge_ms(self) -> float:
        """What Isthmus takes on the edge."""
        return sum(self.stages[name].median for name in ("decode image", "fronts", *AFTER_FRONT))


def sections(latency: Latency) -> list[Section]:
    return [_stages(latency), _answers(latency), _choice(latency), _first(latency), _links(latency)]


def _stages(latency: Latency) -> Section:
    """Where the time goes, and the targets of the edge."""
    stages = latency.stages
    fronts = stages["fronts"].median
    after = sum(stages[name].median for name in AFTER_FRONT)
    encoding = stages["exact path"].median + stages["range coder"].median
    decoding = stages["exact path + coding, decoding"].median
    rows = [
        (name, "cloud" if name.endswith("decoding") or name in CLOUD_STAGES else "edge", *_pair(stages[name]))
        for name in (*STAGES, *CLOUD_STAGES)
    ]
    rows += [(name, "both", *_pair(told)) for name, told in stages.items() if name.endswith("in the service")]
    process = latency.edge
    return Section(
        title="Where the time goes",
        columns=("stage", "on", "median ms", "p95 ms"),
        rows=tuple(rows),
        notes=(
            "One thread each. The transform is what edge.onnx takes more than the fronts alone, the range coder what "
            "encoding takes more than the exact path. In the service: over the loopback, one picture at a time; the "
            "wire is gRPC, the edge's wait less the cloud's own times.",
            f"A fresh edge process has its first bitstream after {process.start_s.median:.2f} s "
            f"(p95 {process.start_s.p95:.2f}) with {process.start_memory_mb:.0f} MB resident; the edge's service "
            f"holds {process.served_memory_mb:.0f} MB after the race.",
        ),
        targets=(
            _target(
                "edge: all after the fronts", after / fronts, 0.5, "at most 0.5 of the fronts' time", "{:.2f}"
            ),
            _target("exact path + coding, encoding", encoding, 10, "at most 10 ms", "{:.1f} ms"),
            _target("exact path + coding, decoding", decoding, 10, "at most 10 ms", "{:.1f} ms"),
            _target(
                "edge: resident memory",
                max(process.start_memory_mb, process.served_memory_mb),
                300,
                "under 300 MB",
                "{:.0f} MB",
            ),
            _target("edge: import to first encode", process.start_s.median, 2, "under 2 s", "{:.2f} s"),
        ),
    )


def _answers(latency: Latency) -> Section:
    """Each way's time to answer on each link, and the targets against images."""
    names = [way.name for way in latency.ways]
    rows = []
    for link in latency.links:
        own = link.ms("Isthmus")
        cells = [
            f"{link.answers[name].ms}" + (f" ({link.ms(name) / own:.2f}x)" if name != "Isthmus" else "")
            for name in names
        ]
        rows.append((link.name, *cells))
    sizes = ", ".join(
        f"{name} {asked.bytes:.0f}" for name, asked in latency.links[0].answers.items() if asked.bytes
    )
    return Section(
        title="Time to answer",
        columns=("link", *names),
        rows=tuple(rows),
        notes=(
            "Median / 95th percentile in ms, and the median against Isthmus's. From the bytes of a PNG file to the "
            "answer read; connections open before; one picture at a time, the ways in turn.",
            f"Bytes of a picture, mean: {sizes}.",
            "Images go by HTTP/1.1 keep-alive to a plain FastAPI server that runs the whole networks, on as many "
            "threads; local: the whole networks in ONNX Runtime on the edge.",
        ),
        targets=tuple(_against_images(latency)),
    )


def _against_images(latency: Latency) -> Iterator[Target]:
    equal = [way.name for way in latency.ways if way.equal]
    for shape, times, others, said in (
        (SLOW, 3.0, [JPEG_75], "JPEG 75"),
        (SLOW, 1.5, equal, "best image codec at equal task quality"),
        (MIDDLE, 1.5, [JPEG_75], "JPEG 75"),
    ):
        link = latency.on(shape)
        known = [name for name in others if name in latency.links[0].answers]
        if link is None or not known:
            reached, met = "not measured", None
        else:
            ratio = min(link.ms(name) for name in known) / link.ms("Isthmus")
            reached, met = f"{ratio:.2f}x", ratio >= times
        yield Target(
            what=f"{shape}: against {said}", target=f">= {times:g}x shorter", reached=reached, met=met
        )


def _choice(latency: Latency) -> Section:
    """Who wins where, in words made from the numbers."""
    far = latency.links[1:]
    sending = [way.name for way in latency.ways if way.form != "local"]
    rows, notes = [], []
    for link in far:
        best = min(sending, key=link.ms)
        shortest = min(link.answers, key=link.ms)
        rows.append((link.name, shortest, best, _told_factor(_break_even(latency, link))))
    alone = [link.name for link in far if min(link.answers, key=link.ms) == "local"]
    if "local" in latency.links[0].answers:
        ms = _ms(latency.links[0].ms("local"))
        where = f"shorter than sending on {_of(alone, far)}" if alone else "longer than sending on every link"
        notes.append(f"The whole networks on this machine as the edge take {ms} ms: {where}.")
        factors = [factor for factor in (_break_even(latency, link) for link in far) if factor is not None]
        if factors:
            notes.append(
                "On a slower edge processor, local stays the shortest until the edge is "
                f"{min(factors):.1f} ({far[_least(latency, far)].name}) to {max(factors):.1f} times slower than this "
                "one; beyond, or where the networks do not fit the box or change after it was installed, send."
            )
    for name in sending:
        won = [link.name for link in far if min(sending, key=link.ms) == name]
        if won:
            notes.append(f"Of the ways that send, {name} is the shortest on {_of(won, far)}.")
    near = latency.links[0]
    best = min(sending, key=near.ms)
    if best != "Isthmus":
        ratio = near.ms(best) / near.ms("Isthmus")
        notes.append(
            f"Where the link costs nothing (the loopback), {best} is: {ratio:.2f} of Isthmus's time. Isthmus pays "
            "where bytes or lost packets cost time."
        )
    return Section(
        title="When to use what",
        columns=(
            "link",
            "shortest",
            "shortest that sends",
            "local wins while the edge is slower by less than",
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _of(names: Sequence[str], links: Sequence[OnLink]) -> str:
    if len(names) == len(links):
        return f"all {len(links)} links" if len(links) > 1 else f"the link measured ({names[0]})"
    return f"{len(names)} of {len(links)} links ({'; '.join(names)})"


def _break_even(latency: Latency, link: OnLink) -> float | None:
    """How many times slower an edge is on which Isthmus and local take as long; None: local never takes longer.

    Both sides' work on the edge is taken to slow down alike.
    """
    if "local" not in link.answers or link.ms("local") <= latency.edge_ms:
        return None
    return max(0.0, link.ms("Isthmus") - latency.edge_ms) / (link.ms("local") - latency.edge_ms)


def _least(latency: Latency, links: Sequence[OnLink]) -> int:
    return min(range(len(links)), key=lambda i: _break_even(latency, links[i]) or float("inf"))


def _told_factor(factor: float | None) -> str:
    return "always" if factor is None else f"{factor:.1f}x" if factor > 1 else "never"


def _first(latency: Latency) -> Section:
    own = latency.cold["Isthmus"].median
    return Section(
        title=f"First request over a new connection, {COLD}",
        columns=("way", "median / p95 ms", "against Isthmus"),
        rows=tuple(
            (name, str(told), "" if name == "Isthmus" else f"{told.median / own:.2f}x")
            for name, told in latency.cold.items()
        ),
        notes=(
            f"{latency.cold['Isthmus'].count} a way. Isthmus: an edge's service that has started and not yet spoken to "
            "its cloud. Images: a connection made for the request.",
        ),
    )


def _links(latency: Latency) -> Section:
    return Section(
        title="The links as measured",
        columns=("link", "Mbit/s of payload", "round trip ms", "packets lost"),
        rows=tuple(
            (link.name, f"{link.reached.mbit:.2f}", f"{link.reached.round_trip_ms:.1f}", f"{link.lost:.2%}")
            for link in latency.links
            if link.reached is not None
        ),
        notes=(
            f"Emulated: {latency.link}; rate, delay and loss hold in both directions, delays are one way.",
            "The rate is that of one TCP transfer of about a second or 64 KiB: on long, fast or lossy links TCP's own "
            "window bounds it, as it does for whoever sends images.",
        ),
    )


def _target(what: str, value: float, most: float, target: str, form: str) -> Target:
    return Target(what=what, target=target, reached=form.format(value), met=value <= most)


def _pair(spread: Spread) -> tuple[str, str]:
    return f"{spread.median:.2f}", f"{spread.p95:.2f}"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def plot(latency: Latency) -> bytes:
    """Time to answer against the link's rate, a field for each delay and loss; PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    far = [link for link in latency.links if link.shape is not None]
    fields = sorted({(link.shape.delay_ms, link.shape.loss) for link in far if link.shape})
    figure = Figure(figsize=(4.5 * max(1, len(fields)), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (delay_ms, loss) in zip(
        figure.subplots(1, max(1, len(fields)), squeeze=False)[0], fields, strict=False
    ):
        here = [one for one in far if one.shape and (one.shape.delay_ms, one.shape.loss) == (delay_ms, loss)]
        for way in latency.ways:
            points = sorted((one.shape.mbit, one.ms(way.name)) for one in here if one.shape)
            dash = ":" if way.form == "local" else "-"
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linestyle=dash, label=way.name)
        axes.set(
            xscale="log", yscale="log", xlabel="Mbit/s", title=f"{delay_ms:g} ms one way, {loss:.0%} loss"
        )
        axes.set_ylabel("ms from picture to answer, median")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def write_latency(out: Path, latency: Latency) -> None:
    """results.json, results.md and latency.png in `out`."""
    told = sections(latency)
    results = {
        **latency.model_dump(mode="json"),
        "targets": [target.model_dump(mode="json") for target in targets(told)],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "results.json", json.dumps(results, indent=1).encode())
    write_atomically(out / "results.md", markdown(told, latency.about, "Time to answer", "pictures").encode())
    write_atomically(out / "latency.png", plot(latency))
