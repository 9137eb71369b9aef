"""The report of `isthmus bench latency`: tables, targets, a map of when to use what, a plot. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, isinf
from pathlib import Path

from bench.latency.edge_process import STAGES
from bench.latency.results import (
    CLOUD_STAGES,
    COLD,
    ISTHMUS,
    JPEG_75,
    LOCAL,
    MIDDLE,
    SLOW,
    Latency,
    LinkTimes,
    Spread,
    ms_text,
)
from bench.link import Shape
from bench.report.plots import finish_time_axes, new_figure, png_of
from bench.report.report import markdown, write_results
from bench.report.sections import NOISE, UNDETERMINED, Section, Target, judge, possible, text_of
from shared.files import write_atomically

RATE_MAX = (
    1.1  # measured over nominal rate of a link; the probe's own time is taken off and may be off by as much
)


def sections(latency: Latency) -> list[Section]:
    return [_stages(latency), _answers(latency), _choice(latency), _first(latency), _links(latency)]


def _stages(latency: Latency) -> Section:
    """Where the time goes, and the targets of the edge."""
    stages, process = latency.stages, latency.edge
    rows = [
        (name, "cloud" if name.endswith("decoding") or name in CLOUD_STAGES else "edge", *_pair(stages[name]))
        for name in (*STAGES, *CLOUD_STAGES)
    ]
    rows += [(name, "both", *_pair(spread)) for name, spread in stages.items() if name.endswith("service")]
    notes = [
        "One thread each. The transform is what edge.onnx takes more than the fronts alone, the range coder what "
        "encoding takes more than the exact path. In the service: over the loopback, one image at a time; the "
        "wire is gRPC, the edge's wait less the cloud's own times.",
        f"A fresh edge process has its first bitstream after {text_of('{:.2f}', process.start_s.median)} s "
        f"(p95 {process.start_s.p95:.2f}) with {process.start_memory_mb:.0f} MB resident; the edge's service "
        f"holds {process.served_memory_mb:.0f} MB after all requests.",
    ]
    if not all(possible(spread.median) for spread in stages.values()):
        notes.append(
            f"{NOISE}: a stage that is timed as a difference came out below zero, so what it takes is undetermined. "
            "Measure again on a quiet machine."
        )
    return Section(
        title="Where the time goes",
        columns=("stage", "on", "median ms", "p95 ms"),
        rows=tuple(rows),
        notes=tuple(notes),
        targets=tuple(_edge_targets(latency)),
    )


def _edge_targets(latency: Latency) -> Iterator[Target]:
    stages, process = latency.stages, latency.edge
    # A negative stage would make its sum look good: NaN has no verdict.
    coder = stages["range coder"].median
    encoding = stages["exact path"].median + (coder if possible(coder) else float("nan"))
    decoding = stages["exact path + coding, decoding"].median
    memory_mb = max(process.start_memory_mb, process.served_memory_mb)
    after = latency.after_front_ms / stages["fronts"].median
    limits = (
        ("edge: all after the fronts", after, 0.5, "at most 0.5 of the fronts' time", "{:.2f}"),
        ("exact path + coding, encoding", encoding, 10, "at most 10 ms", "{:.1f} ms"),
        ("exact path + coding, decoding", decoding, 10, "at most 10 ms", "{:.1f} ms"),
        ("edge: resident memory", memory_mb, 300, "under 300 MB", "{:.0f} MB"),
        ("edge: import to first encode", process.start_s.median, 2, "under 2 s", "{:.2f} s"),
    )
    for what, value, most, target, form in limits:
        yield judge(what, target, value, value <= most, form)


def _answers(latency: Latency) -> Section:
    """Each approach's time to answer on each link, and the targets against images."""
    names = [approach.name for approach in latency.approaches]
    rows = tuple((link.name, *(_answer(link, name) for name in names)) for link in latency.links)
    sizes = ", ".join(
        f"{name} {times.bytes:.0f}" for name, times in latency.loopback.answers.items() if times.bytes
    )
    notes = [
        "Median / 95th percentile in ms, and the median against Isthmus's. From the bytes of a PNG file to the "
        "answer read; connections open before; one image at a time, the approaches in turn.",
        f"Mean bytes per image: {sizes}.",
        "Images go by HTTP/1.1 keep-alive to a plain FastAPI server that runs the whole networks, on as many "
        "threads; local: the whole networks in ONNX Runtime on the edge.",
    ]
    if not all(link.believable(*names) for link in latency.links):
        notes.append(f"{NOISE}: an answer cannot come sooner than the link's delay there and back.")
    return Section(
        title="Time to answer",
        columns=("link", *names),
        rows=rows,
        notes=tuple(notes),
        targets=tuple(_against_images(latency)),
    )


def _answer(link: LinkTimes, name: str) -> str:
    spread = f"{link.answers[name].ms}"
    if not link.believable(name):
        return f"{NOISE} ({spread})"
    if name == ISTHMUS or not link.believable(ISTHMUS):
        return spread
    return f"{spread} ({link.ms(name) / link.ms(ISTHMUS):.2f}x)"


def _against_images(latency: Latency) -> Iterator[Target]:
    equal = [approach.name for approach in latency.approaches if approach.equal]
    for shape, times, others, label in (
        (SLOW, 3.0, [JPEG_75], "JPEG 75"),
        (SLOW, 1.5, equal, "best image codec at equal task quality"),
        (MIDDLE, 1.5, [JPEG_75], "JPEG 75"),
    ):
        yield _against(latency, shape, times, others, label)


def _against(latency: Latency, shape: Shape, times: float, others: Sequence[str], label: str) -> Target:
    """How many times shorter Isthmus's answer is than the best of the others'."""
    what, target = f"{shape}: against {label}", f">= {times:g}x shorter"
    link = latency.on(shape)
    known = [name for name in others if name in latency.loopback.answers]
    if link is None or not known:
        return Target(what=what, target=target, reached="not measured", met=None)
    ratio = min(link.ms(name) for name in known) / link.ms(ISTHMUS)
    high = inf if link.believable(ISTHMUS, *known) else -inf  # nothing follows from times that cannot be
    return judge(what, target, ratio, ratio >= times, "{:.2f}x", high=high)


def _choice(latency: Latency) -> Section:
    """Which approach is the shortest on which link, in a table and in words."""
    rows = [
        (
            link.name,
            link.shortest(link.answers) or UNDETERMINED,
            link.shortest(latency.sending) or UNDETERMINED,
            _factor_text(latency.break_even(link)),
        )
        for link in latency.far
    ]
    notes = [*_about_local(latency), *_about_sending(latency)]
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


def _about_local(latency: Latency) -> Iterator[str]:
    if LOCAL not in latency.loopback.answers:
        return
    shortest = [link.name for link in latency.far if link.shortest(link.answers) == LOCAL]
    where = f"on {_links_text(shortest, latency.far)}" if shortest else ""
    verdict = f"shorter than sending {where}" if shortest else "longer than sending on every link"
    yield (
        f"The whole networks on this machine as the edge take {ms_text(latency.loopback.ms(LOCAL))} ms: {verdict}."
    )
    factors = {
        link.name: factor
        for link in latency.far
        if (factor := latency.break_even(link)) is not None and not isinf(factor)
    }
    if factors:
        least = min(factors, key=lambda name: factors[name])
        yield (
            "On a slower edge processor, local stays the shortest until the edge is "
            f"{factors[least]:.1f} ({least}) to {max(factors.values()):.1f} times slower than this one; beyond, or "
            "where the networks do not fit the box or change after it was installed, send."
        )


def _about_sending(latency: Latency) -> Iterator[str]:
    for name in latency.sending:
        won = [link.name for link in latency.far if link.shortest(latency.sending) == name]
        if won:
            yield f"Of the approaches that send, {name} is the shortest on {_links_text(won, latency.far)}."
    near = latency.loopback
    best = min(latency.sending, key=near.ms)
    if best != ISTHMUS:
        ratio = near.ms(best) / near.ms(ISTHMUS)
        yield (
            f"Where the link costs nothing (the loopback), {best} is: {ratio:.2f} of Isthmus's time. Isthmus pays "
            "where bytes or lost packets cost time."
        )


def _links_text(names: Sequence[str], links: Sequence[LinkTimes]) -> str:
    if len(names) == len(links):
        return f"all {len(links)} links" if len(links) > 1 else f"the link measured ({names[0]})"
    return f"{len(names)} of {len(links)} links ({'; '.join(names)})"


def _factor_text(factor: float | None) -> str:
    if factor is None:
        return UNDETERMINED
    return "always" if isinf(factor) else f"{factor:.1f}x" if factor > 1 else "never"


def _first(latency: Latency) -> Section:
    own = latency.cold[ISTHMUS].median
    return Section(
        title=f"First request over a new connection, {COLD}",
        columns=("approach", "median / p95 ms", "against Isthmus"),
        rows=tuple(
            (name, str(spread), "" if name == ISTHMUS else f"{spread.median / own:.2f}x")
            for name, spread in latency.cold.items()
        ),
        notes=(
            f"{latency.cold[ISTHMUS].count} an approach. Isthmus: an edge's service that has started and has not yet "
            "connected to its cloud. Images: a connection made for the request.",
        ),
    )


def _links(latency: Latency) -> Section:
    return Section(
        title="The links as measured",
        columns=("link", "Mbit/s of payload", "round trip ms", "packets lost"),
        rows=tuple(
            (
                link.name,
                _rate_text(link),
                f"{link.reached.round_trip_ms:.1f}",
                f"{link.lost:.2%}",
            )
            for link in latency.links
            if link.reached is not None
        ),
        notes=(
            f"Emulated: {latency.link}; rate, delay and loss hold in both directions, delays are one way.",
            "The rate is that of one TCP transfer of about a second or 64 KiB: on long, fast or lossy links TCP's own "
            "window bounds it, as it does for whoever sends images.",
        ),
    )


def _rate_text(link: LinkTimes) -> str:
    if link.reached is None or link.reached.mbit is None:
        return UNDETERMINED
    return text_of("{:.2f}", link.reached.mbit, high=RATE_MAX * link.shape.mbit if link.shape else inf)


def _pair(spread: Spread) -> tuple[str, str]:
    return text_of("{:.2f}", spread.median), f"{spread.p95:.2f}"


def plot(latency: Latency) -> bytes:
    """PNG: time to answer against the link's rate, a plot for each delay and loss."""
    shaped = [(link.shape, link) for link in latency.links if link.shape is not None]
    conditions = sorted({(shape.delay_ms, shape.loss) for shape, _ in shaped})
    figure = new_figure(4.5 * max(1, len(conditions)), 4.5)
    grid = figure.subplots(1, max(1, len(conditions)), squeeze=False)[0]
    for axes, (delay_ms, loss) in zip(grid, conditions, strict=False):
        here = [(shape, link) for shape, link in shaped if (shape.delay_ms, shape.loss) == (delay_ms, loss)]
        for approach in latency.approaches:
            points = sorted((shape.mbit, link.ms(approach.name)) for shape, link in here)
            dash = ":" if approach.form == "local" else "-"
            axes.plot(
                *zip(*points, strict=True), marker="o", markersize=4, linestyle=dash, label=approach.name
            )
        title = f"{delay_ms:g} ms one way, {loss:.0%} loss"
        finish_time_axes(axes, "Mbit/s", "ms from image to answer, median", title)
    return png_of(figure)


def write_latency(out: Path, latency: Latency) -> None:
    """Writes results.json, results.md and latency.png to `out`."""
    made = sections(latency)
    write_results(out, latency, made, markdown(made, latency.about, "Time to answer", "images"))
    write_atomically(out / "latency.png", plot(latency))
