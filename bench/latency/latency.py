"""`isthmus bench latency`: how long an answer takes, where the time goes, and when another approach is shorter.

    images -> stages of the edge, in a process without torch, and of the cloud, in this one (`stages`)
           -> a link (`bench.link`), the servers on one side of it, the edge's service and the client on the other
              (`testbed`)
           -> every approach on every link, image by image in turn, over connections that are open
           -> first requests over new connections; memory and start of an edge's process
           -> `latency_report`

Everything runs on one thread. An approach's time is from the bytes of a PNG file to the answer read, coding included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

from bench.latency.edge_process import EdgeReply
from bench.latency.inputs import Inputs
from bench.latency.latency_report import write_latency
from bench.latency.results import (
    COLD,
    ISTHMUS,
    LOOPBACK,
    Approach,
    ApproachTimes,
    EdgeProcess,
    Latency,
    LinkTimes,
    Spread,
)
from bench.latency.stages import cloud_stages, edge_stages
from bench.latency.testbed import EdgeSite, Testbed
from bench.latency.whole_network_server import load
from bench.link import Reached, Shape, module, open_link
from bench.report.report import About
from shared.bundle import Bundle
from shared.process.child_process import ROOT, server

WARM_UP = 1  # images asked for each approach and link before counting begins

# Stages that only a running service has, by their names in the report.
SERVED = {"wire": "wire", "queue": "queue_ms", "decode": "decode_ms", "reconstruction to results": "tails_ms"}


@dataclass(frozen=True)
class LatencyPlan:
    """What is measured. count: images, each sent once for each approach and link. colds: first requests an approach.

    starts: fresh edge processes. rounds: how often the stages of each image are timed.
    """

    bundle: Path
    networks: tuple[str, ...]
    data: str
    out: Path
    count: int
    links: tuple[Shape, ...]
    colds: int
    starts: int
    rounds: int
    approaches: tuple[Approach, ...]
    proxy: bool = False


@dataclass(frozen=True)
class _Compared:
    """What comparing the approaches gave. memory_mb: of the edge's service. kind: of the link."""

    links: list[LinkTimes]
    cold: dict[str, Spread]
    memory_mb: float
    kind: str


def bench_latency(plan: LatencyPlan, command: str) -> Latency:
    """Measures, and writes the report to `plan.out`. Raises IsthmusError."""
    bundle = Bundle.open(plan.bundle)
    networks = load(plan.networks)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        inputs = Inputs(Path(folder), bundle, networks, plan.data, plan.count)
        task = progress.add_task("stages of the edge", total=1)
        stages = edge_stages(bundle, inputs.fronts, plan.rounds, inputs.images)
        progress.advance(task)
        images = progress.track(inputs.images * plan.rounds, description="stages of the cloud")
        stages |= cloud_stages(bundle, iter(images))
        starts = _starts(plan, inputs.images[0], progress)
        compared = compare(plan, inputs, progress)
    served = compared.links[0].answers[ISTHMUS]
    stages |= {f"{name}, in the service": served.stages[key] for name, key in SERVED.items()}
    latency = Latency(
        about=About.now(command, len(inputs.images)),
        link=compared.kind,
        approaches=plan.approaches,
        stages=stages,
        links=tuple(compared.links),
        cold=compared.cold,
        edge=EdgeProcess(
            start_s=Spread.of([s for s, _ in starts]),
            start_memory_mb=max(mb for _, mb in starts),
            served_memory_mb=compared.memory_mb,
        ),
    )
    write_latency(plan.out, latency)
    return latency


def _starts(plan: LatencyPlan, image: str, progress: Progress) -> list[tuple[float, float]]:
    """Seconds to the first bitstream and MB of memory, of fresh edge processes."""
    command = module("bench.latency.edge_process", "start", str(plan.bundle.resolve()), image)
    starts = []
    for _ in progress.track(range(plan.starts), description="edge processes"):
        with server("edge", command, ROOT) as process:
            event = process.wait_for("started")
        starts.append((event["s"], event["memory_mb"]))
    return starts


def compare(plan: LatencyPlan, inputs: Inputs, progress: Progress) -> _Compared:
    """Every approach on every link, the loopback first; then first requests over new connections."""
    with ExitStack() as stack:
        link = stack.enter_context(open_link(plan.proxy))
        shapes = [shape for shape in plan.links if link.lossy or not shape.loss]
        testbed = Testbed(stack, link, plan.bundle, plan.networks, inputs.whole)
        task = progress.add_task("comparing", total=(1 + len(shapes)) * len(inputs.images))

        def on(site: EdgeSite, name: str, reached: Reached | None) -> LinkTimes:
            return _on_link(plan, inputs, site, name, reached, lambda: progress.advance(task))

        links = [on(testbed.near, LOOPBACK, None)]
        for seed, shape in enumerate(shapes):
            link.shape(shape, seed)
            times = on(testbed.far, str(shape), testbed.far.probe(shape))
            packets, lost = link.shape(shape, seed)
            links.append(times.model_copy(update={"shape": shape, "lost": lost / max(1, packets)}))
        memory_mb = testbed.far.service.memory_mb
        link.shape(COLD)
        return _Compared(links, _cold(plan, inputs, testbed.far, progress), memory_mb, link.kind)


def _on_link(
    plan: LatencyPlan,
    inputs: Inputs,
    site: EdgeSite,
    name: str,
    reached: Reached | None,
    done: Callable[[], None],
) -> LinkTimes:
    """All images by all approaches. The approaches take turns, so that a busy moment meets all of them."""
    replies: dict[str, list[EdgeReply]] = {approach.name: [] for approach in plan.approaches}
    for image in inputs.images[:WARM_UP]:
        for approach in plan.approaches:
            site.ask(approach, image)
    for image in inputs.images:
        for approach in plan.approaches:
            replies[approach.name].append(site.ask(approach, image))
        done()
    answers = {approach: ApproachTimes.of(each) for approach, each in replies.items()}
    return LinkTimes(name=name, reached=reached, answers=answers)


def _cold(plan: LatencyPlan, inputs: Inputs, site: EdgeSite, progress: Progress) -> dict[str, Spread]:
    """First requests over a connection, on the link COLD."""
    sending = [approach for approach in plan.approaches if approach.form != "local"]
    ms: dict[str, list[float]] = {approach.name: [] for approach in sending}
    for i in progress.track(range(plan.colds), description="first requests"):
        image = inputs.images[i % len(inputs.images)]
        for approach in sending:
            with ExitStack() as stack:
                if approach.form == "isthmus":
                    stack.enter_context(site.fresh_service())
                ms[approach.name].append(site.ask(approach, image, cold=True).ms)
    return {name: Spread.of(values) for name, values in ms.items()}
