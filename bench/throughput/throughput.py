"""`isthmus bench cloud`: requests a second of one cloud process against the bare forward of what it runs.

pictures -> bitstreams -> a cloud's process, a process that loads it, and here the same networks without a service
         -> for every question and concurrency, in turn: the service, then the bare forward in batches as large as
            the service's were; again and again, so that whatever else runs slows both
         -> the stages of one batch, here -> `cloud_report`
"""

from __future__ import annotations

import datetime
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.progress import Progress

from bench.link import module
from bench.report.report import About, this_machine
from bench.throughput.load import Load, Loaded
from bench.throughput.throughput_report import Asked, Cloud, Round, Stages, write_cloud
from cloud.engine.bundle_model import CloudModel
from cloud.engine.kinds import POSTPROCESS
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.encoder import Encoder, count_bytes
from shared.errors import RequestError
from shared.kinds import KINDS
from shared.process.child_process import ISTHMUS, ROOT, SAMPLES, Server, server
from shared.types import Analysis, Maps, Times, Wanted, new_request_id
from shared.wire import convert

BATCH_MAX = 16


@dataclass(frozen=True)
class Plan:
    """rounds: of service and bare forward, for each question and concurrency; seconds: of each of the two."""

    bundle: Path
    out: Path
    concurrency: tuple[int, ...]
    rounds: int
    seconds: float
    threads: int
    quick: bool = False


@dataclass(frozen=True)
class Question:
    """What every request asks. tasks: by name."""

    name: str
    tasks: tuple[str, ...]
    maps: Maps = "none"


def bench_cloud(plan: Plan, command: str) -> Cloud:
    """Measure, and write the report to `plan.out`. Raises IsthmusError."""
    bundle = Bundle.open(plan.bundle)
    encoder = Encoder(bundle)
    pictures = sorted(SAMPLES.glob("*.png"))
    if not pictures:
        raise RequestError(f"there are no sample rooms in {SAMPLES}")
    streams = [encoder.encode(path).data for path in pictures]
    bare = Bare(bundle, [Bitstream.unpack(data) for data in streams], plan.threads)
    asked = questions(bundle, plan.quick)
    with running(plan, streams) as service, Progress() as progress:
        bar = progress.add_task("bench cloud", total=len(asked) * len(plan.concurrency) * plan.rounds)
        found = tuple(
            Asked(
                question=question.name,
                concurrency=many,
                rounds=tuple(
                    one_round(service, bare, question, many, plan.seconds, lambda: progress.advance(bar))
                    for _ in range(plan.rounds)
                ),
            )
            for question in asked
            for many in plan.concurrency
        )
    stages = tuple(bare.stages(question, _batch(found, question.name)) for question in asked)
    measured = Cloud(
        about=About(
            command=command,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            pictures=len(pictures),
            machine=this_machine(),
        ),
        threads=plan.threads,
        asked=found,
        stages=stages,
    )
    write_cloud(plan.out, measured)
    return measured


def questions(bundle: Bundle, quick: bool) -> list[Question]:
    """Every task without maps; where they have maps, with them; and one without maps alone."""
    names = tuple(task.name for task in bundle.tasks)
    asked = [Question("all tasks", names)]
    if quick:
        return asked
    if any(KINDS[task.kind].mapped for task in bundle.tasks):
        asked.append(Question("all tasks, PNG maps", names, "png"))
    alone = [task.name for task in bundle.tasks if not KINDS[task.kind].mapped]
    if alone and len(names) > 1:
        asked.append(Question(f"{alone[0]} alone", (alone[0],)))
    return asked


@dataclass(frozen=True)
class Service:
    load: Server
    cloud: psutil.Process

    def measure(self, load: Load) -> tuple[Loaded, float]:
        """What the load took, and the processor seconds of the cloud meanwhile."""
        before = _cpu_s(self.cloud)
        told = self.load.tell(load.model_dump(), "loaded")
        told.pop("event")
        return Loaded.model_validate(told), _cpu_s(self.cloud) - before


@contextmanager
def running(plan: Plan, streams: Sequence[bytes]) -> Iterator[Service]:
    """A cloud and its load, both ready and warm. Raises IsthmusError where one does not start."""
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
        cloud = stack.enter_context(server("cloud", [*ISTHMUS, "cloud", "serve", *arguments]))
        address = cloud.wait_for("listening")["grpc"]
        command = module("bench.throughput.load", address, str(folder))
        load = stack.enter_context(server("load", command, cwd=ROOT))
        load.wait_for("ready")
        cloud.wait_for("ready")
        service = Service(load, psutil.Process(cloud.pid))
        service.measure(Load(concurrency=min(most, 2 * BATCH_MAX), seconds=0.5))
        yield service


def one_round(
    service: Service,
    bare: Bare,
    question: Question,
    concurrency: int,
    seconds: float,
    done: Callable[[], None],
) -> Round:
    load = Load(concurrency=concurrency, seconds=seconds, tasks=question.tasks, maps=question.maps)
    loaded, cpu_s = service.measure(load)
    count = len(loaded.replies)
    rate, batch = throughput(loaded)
    bare_rate, bare_cpu_ms = bare.forward(question.tasks, max(1, round(batch)), seconds / 2)
    done()
    return Round(
        rate=rate,
        batch=batch,
        ms=tuple(1e3 * (reply.done_s - reply.sent_s) for reply in loaded.replies),
        queue_ms=statistics.fmean(reply.queue_ms for reply in loaded.replies),
        decode_ms=statistics.fmean(reply.decode_ms for reply in loaded.replies),
        tails_ms=statistics.fmean(reply.tails_ms for reply in loaded.replies),
        cpu_ms=1e3 * cpu_s / count,
        load_share=loaded.cpu_s / loaded.seconds,
        bare_rate=bare_rate,
        bare_cpu_ms=bare_cpu_ms,
    )


def throughput(loaded: Loaded) -> tuple[float, float]:
    """Requests a second, from the end of the first batch to that of the last one that was full of load, and the mean
    size of a batch.

    Answers of one batch bring the same time of its tails: a float, which no other batch has. What is sent no longer
    because the time is over leaves the last batches small; they count as the time that they took.
    """
    replies = sorted(loaded.replies, key=lambda reply: reply.done_s)
    batches = [list(group) for _, group in groupby(replies, key=lambda reply: reply.tails_ms)]
    ends = [max(reply.done_s for reply in batch) for batch in batches]
    sizes = [len(batch) for batch in batches]
    last_sent = max(reply.sent_s for reply in replies)
    full = max(2, sum(end <= last_sent for end in ends))  # the load was whole until the last request was sent
    if len(batches) < 2:
        return len(replies) / loaded.seconds, statistics.fmean(sizes)
    sizes, ends = sizes[:full], ends[:full]
    return sum(sizes[1:]) / (ends[-1] - ends[0]), statistics.fmean(sizes[1:])


class Bare:
    """The same networks in this process, with no service around them."""

    def __init__(self, bundle: Bundle, streams: Sequence[Bitstream], threads: int) -> None:
        self._bundle, self._streams = bundle, streams
        self._model = CloudModel(bundle, threads=threads)

    def forward(self, tasks: Sequence[str], batch: int, seconds: float) -> tuple[float, float]:
        """Pictures a second of reconstruction and tails alone, and processor ms a picture."""
        streams, z = self._latents(batch)
        qualities, wanted = [one.quality for one in streams], {name: range(batch) for name in tasks}

        def run() -> None:
            self._model.outputs(z, wanted, qualities)

        run()
        times, cpu = 0, time.process_time()
        began = time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds or times < 2:
            run()
            times += 1
        return batch * times / taken, 1e3 * (time.process_time() - cpu) / (batch * times)

    def stages(self, question: Question, batch: int) -> Stages:
        """Medians of each stage of one batch here, on the service's number of threads, in ms a picture."""
        streams, z = self._latents(batch)
        h, w = z.shape[2:]
        data = [one.pack() for one in streams]
        qualities = [one.quality for one in streams]
        payloads = [(one.b_v, one.b_z) for one in streams]
        wanted = Wanted.same(question.tasks, top_k=5, maps=question.maps)
        requests = [convert.request_message(new_request_id(), one, wanted) for one in data]
        queries = [wanted.tasks] * batch
        model = self._model
        outputs = model.outputs(z, {name: range(batch) for name in question.tasks}, qualities)
        analyses = [
            self._analysis(one, results)
            for one, results in zip(streams, model.answer(z, queries, qualities), strict=True)
        ]

        def parse() -> None:
            for request, one in zip(requests, data, strict=True):
                convert.wanted_of(request)
                Bitstream.unpack(one)

        def reduce() -> None:
            for query in wanted.tasks:
                task = self._bundle.task(query.name)
                with torch.inference_mode():
                    answers = POSTPROCESS[task.kind]
                    answers.results(outputs[query.name], task.labels, [query] * batch, task.options)

        return Stages(
            question=question.name,
            batch=batch,
            ms={
                "parse": _median_ms(parse) / batch,
                "b_v, b_z to z": _median_ms(lambda: model.codec.decode_batch(payloads, h, w, qualities))
                / batch,
                "forward": _median_ms(
                    lambda: model.outputs(z, {n: range(batch) for n in question.tasks}, qualities)
                )
                / batch,
                "results": _median_ms(reduce) / batch,
                "reply": _median_ms(
                    lambda: [convert.response_message(a).SerializeToString() for a in analyses]
                )
                / batch,
            },
        )

    def _latents(self, batch: int) -> tuple[list[Bitstream], np.ndarray[Any, Any]]:
        streams = list(islice(cycle(self._streams), batch))
        payloads = [(one.b_v, one.b_z) for one in streams]
        qualities = [one.quality for one in streams]
        return streams, self._model.codec.decode_batch(payloads, streams[0].h, streams[0].w, qualities)

    def _analysis(self, stream: Bitstream, results: dict[str, Any]) -> Analysis:
        return Analysis(
            request_id=new_request_id(),
            bundle=self._bundle.manifest.name,
            fingerprint=self._bundle.fingerprint.hex(),
            quality=stream.quality,
            results=results,
            bytes=count_bytes(stream, len(stream.pack()), self._bundle),
            times=Times(queue_ms=0, decode_ms=0, tails_ms=0),
        )


def _batch(found: Sequence[Asked], question: str) -> int:
    """The largest mean batch that the service reached."""
    return max(1, *(round(one.batch) for one in found if one.question == question))


def _median_ms(run: Callable[[], object], times: int = 5) -> float:
    """Of processor time: what else runs on the machine does not count."""
    run()
    taken = []
    for _ in range(times):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return 1e3 * statistics.median(taken)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
