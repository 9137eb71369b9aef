"""`isthmus bench cloud`: requests a second of one cloud process, against the bare forward of what it runs.

images -> bitstreams -> a cloud's process, a process that loads it, and in this one the same networks without a service
       -> for every workload and concurrency, in turn: the service, then the bare forward in batches as large as the
          service's were; repeated, so that whatever else runs slows both
       -> the stages of one batch, in this process -> `throughput_report`
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import psutil
from rich.progress import Progress

from bench.link import module
from bench.report.report import About
from bench.throughput.bare import BareModel
from bench.throughput.load_client import LoadRequest, LoadResult
from bench.throughput.results import LoadPoint, Round, Throughput
from bench.throughput.throughput_report import write_throughput
from bench.throughput.workloads import Workload, workloads
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.process.child_process import ISTHMUS, ROOT, SAMPLES, Server, server

BATCH_MAX = 16
STREAM_REQUESTS = 8  # under way in each stream of a load over streams
FULL_BATCHES = 3  # fewer give a rate that is decided by when two batches happen to end


@dataclass(frozen=True)
class ThroughputPlan:
    """What is measured. rounds: of service and bare forward, for each workload and concurrency.

    seconds: of the service in each round; the bare forward gets half of it.
    """

    bundle: Path
    out: Path
    concurrency: tuple[int, ...]
    rounds: int
    seconds: float
    threads: int
    quick: bool = False


def bench_throughput(plan: ThroughputPlan, command: str) -> Throughput:
    """Measures, and writes the report to `plan.out`. Raises IsthmusError."""
    bundle = Bundle.open(plan.bundle)
    encoder = Encoder(bundle)
    images = sorted(SAMPLES.glob("*.png"))
    if not images:
        raise RequestError(f"there are no sample rooms in {SAMPLES}")
    encoded = [encoder.encode(path) for path in images]
    streams = [one.data for one in encoded]
    bare = BareModel(bundle, encoded, plan.threads)
    wanted = workloads(bundle, plan.quick)
    loads = _loads(plan, streams, bare, wanted)
    measured = Throughput(
        about=About.now(command, len(images)),
        threads=plan.threads,
        loads=loads,
        stages=tuple(bare.stages(one, _largest_batch(loads, one.name)) for one in wanted),
    )
    write_throughput(plan.out, measured)
    return measured


def _loads(
    plan: ThroughputPlan,
    streams: Sequence[bytes],
    bare: BareModel,
    wanted: Sequence[Workload],
) -> tuple[LoadPoint, ...]:
    """Every workload at every concurrency."""
    with running(plan, streams) as service, Progress() as progress:
        bar = progress.add_task("bench cloud", total=len(wanted) * len(plan.concurrency) * plan.rounds)

        def one(workload: Workload, concurrency: int) -> Round:
            measured = one_round(service, bare, workload, concurrency, plan.seconds)
            progress.advance(bar)
            return measured

        return tuple(
            LoadPoint(
                workload=workload.name,
                concurrency=concurrency,
                rounds=tuple(one(workload, concurrency) for _ in range(plan.rounds)),
            )
            for workload in wanted
            for concurrency in plan.concurrency
        )


def _largest_batch(loads: Sequence[LoadPoint], workload: str) -> int:
    """The largest mean batch that the service reached."""
    return max(1, *(round(load.batch) for load in loads if load.workload == workload))


@dataclass(frozen=True)
class Service:
    """A cloud's process and the process that loads it."""

    client: Server
    cloud: psutil.Process

    def measure(self, load: LoadRequest) -> tuple[LoadResult, float]:
        """What the clients saw, and the processor seconds of the cloud meanwhile."""
        before = _cpu_s(self.cloud)
        event = self.client.send(load.model_dump(), "loaded")
        event.pop("event")
        return LoadResult.model_validate(event), _cpu_s(self.cloud) - before


@contextmanager
def running(plan: ThroughputPlan, streams: Sequence[bytes]) -> Iterator[Service]:
    """A cloud and its load, both ready and warm. Raises IsthmusError if one does not start."""
    most = max(plan.concurrency)
    options = {
        "bundle": plan.bundle.resolve(),
        "grpc-port": 0,
        "http-port": 0,
        "threads": plan.threads,
        "batch-max": BATCH_MAX,
        "queue-max": max(64, most),
    }
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for i, data in enumerate(streams):
            (folder / f"{i:04}").write_bytes(data)
        cloud = stack.enter_context(server("cloud", [*ISTHMUS, "cloud", "serve", "--insecure", *arguments]))
        address = cloud.wait_for("listening")["grpc"]
        command = module("bench.throughput.load_client", address, str(folder))
        client = stack.enter_context(server("load", command, cwd=ROOT))
        client.wait_for("ready")
        cloud.wait_for("ready")
        service = Service(client, psutil.Process(cloud.pid))
        service.measure(LoadRequest(concurrency=min(most, 2 * BATCH_MAX), seconds=0.5))
        yield service


def one_round(
    service: Service,
    bare: BareModel,
    workload: Workload,
    concurrency: int,
    seconds: float,
) -> Round:
    """The service under load, then the bare forward in batches of the same size."""
    load = LoadRequest(
        concurrency=concurrency,
        seconds=seconds,
        tasks=workload.tasks,
        maps=workload.maps,
        streams=-(-concurrency // STREAM_REQUESTS) if workload.streams else 0,
    )
    result, cpu_s = service.measure(load)
    replies = result.replies
    rate, steady, batch = rate_and_batch(result)
    size = max(1, round(batch))
    bare_rate, bare_cpu_ms = bare.forward(workload.tasks, size, seconds / 2)
    pieces_rate, _ = bare.forward(workload.tasks, size, seconds / 2, pieces=True)
    return Round(
        rate=rate,
        steady=steady,
        batch=batch,
        ms=tuple(1e3 * (reply.done_s - reply.sent_s) for reply in replies),
        queue_ms=statistics.fmean(reply.queue_ms for reply in replies),
        decode_ms=statistics.fmean(reply.decode_ms for reply in replies),
        tails_ms=statistics.fmean(reply.tails_ms for reply in replies),
        cpu_ms=1e3 * cpu_s / len(replies),
        load_share=result.cpu_s / result.seconds,
        bare_rate=bare_rate,
        bare_cpu_ms=bare_cpu_ms,
        pieces_rate=pieces_rate,
    )


def rate_and_batch(result: LoadResult) -> tuple[float, bool, float]:
    """Requests a second under full load, whether the run was long enough for that, and the mean size of a batch.

    From the end of the first batch to the end of the last one that was formed under full load. Where there are fewer
    than FULL_BATCHES of those, over the whole run instead, which is a lower bound: between two batches that happen to
    end together any rate at all can be found.
    """
    replies = sorted(result.replies, key=lambda reply: reply.done_s)
    # Answers of one batch report the same tails_ms: a float, which no other batch has.
    batches = [list(group) for _, group in groupby(replies, key=lambda reply: reply.tails_ms)]
    ends = [max(reply.done_s for reply in batch) for batch in batches]
    sizes = [len(batch) for batch in batches]
    last_sent = max(reply.sent_s for reply in replies)
    full = sum(end <= last_sent for end in ends)  # after the last request was sent, batches shrink
    if full < FULL_BATCHES:
        return len(replies) / result.seconds, False, statistics.fmean(sizes)
    sizes, ends = sizes[:full], ends[:full]
    return sum(sizes[1:]) / (ends[-1] - ends[0]), True, statistics.fmean(sizes[1:])


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
