"""`isthmus bench replicas`: what a gateway and its Ray cost on one machine, and whether the answers stay the same.

bitstreams -> one process, and for each number of replicas a gateway with a Ray of its own
           -> the answers of both: equal or not
           -> in turns on both: one request after the other, then many at once
           -> what a request takes longer, and what share of the requests a second is left

Both run on the same cores, so this shows no speed-up; on machines of their own replicas add up.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.progress import Progress

from bench.link import module
from bench.report.report import About, markdown, write_results
from bench.report.sections import Section
from bench.throughput.load_client import LoadRequest, LoadResult
from shared.bundle import Bundle
from shared.codec.bitstream import MEDIA_TYPE
from shared.encoder import Encoder
from shared.process.child_process import ISTHMUS, ROOT, SAMPLES, Server, server
from shared.types import Frozen

AT_ONCE = 24
READY_S = 600.0  # of a busy machine, on which a Ray starts
WARM_S = 1.0
# Replicas are given little of a processor: so four of them fit on the machine.
RAY = """
[ray]
replicas_min = {replicas}
replicas_max = {replicas}
cpus = 0.25
machine_cpus = {cores}
folder = "{folder}"
"""


@dataclass(frozen=True)
class ReplicasPlan:
    """What is measured. seconds: of each load. rounds: of both servers in turn."""

    bundle: Path
    out: Path
    replicas: tuple[int, ...]
    rounds: int
    seconds: float
    task: str


class Turn(Frozen):
    """One server for a while. ms: the median of a request after the other. rate: requests a second, many at once."""

    ms: float
    rate: float


class Compared(Frozen):
    """Some replicas against one process. equal: answers that are the same to the last digit, of `answers`."""

    replicas: int
    answers: int
    equal: int
    local: tuple[Turn, ...]
    ray: tuple[Turn, ...]

    @property
    def more_ms(self) -> float:
        """By how much a request takes longer; the median over the rounds, as other load comes and goes."""
        return statistics.median(b.ms - a.ms for a, b in zip(self.local, self.ray, strict=True))

    @property
    def share(self) -> float:
        """Requests a second, as a part of the one process's; the median over the rounds."""
        return statistics.median(b.rate / a.rate for a, b in zip(self.local, self.ray, strict=True))


class Replicas(Frozen):
    """All that was measured."""

    about: About
    bundle: str
    task: str
    compared: tuple[Compared, ...]


def bench_replicas(plan: ReplicasPlan, command: str) -> Replicas:
    """Measures, and writes the report. Raises IsthmusError, also where a server does not start."""
    bundle = Bundle.open(plan.bundle)
    encoder = Encoder(bundle)
    streams = [encoder.encode(path).data for path in sorted(SAMPLES.glob("*.png"))]
    with ExitStack() as stack, Progress() as progress:
        bar = progress.add_task("bench replicas", total=len(plan.replicas) * plan.rounds)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for i, data in enumerate(streams):
            (folder / f"{i:04}").write_bytes(data)
        local = stack.enter_context(_running(plan, folder, 0))
        compared = []
        for replicas in plan.replicas:
            with _running(plan, folder, replicas) as ray:
                mine, other = local.answers(streams), ray.answers(streams)
                turns: list[tuple[Turn, Turn]] = []
                for _ in range(plan.rounds):
                    turns.append((local.turn(plan), ray.turn(plan)))
                    progress.advance(bar)
            compared.append(
                Compared(
                    replicas=replicas,
                    answers=len(streams),
                    equal=sum(a == b for a, b in zip(mine, other, strict=True)),
                    local=tuple(one for one, _ in turns),
                    ray=tuple(one for _, one in turns),
                )
            )
    measured = Replicas(
        about=About.now(command, len(streams)),
        bundle=bundle.manifest.name,
        task=plan.task,
        compared=tuple(compared),
    )
    made = sections(measured)
    write_results(
        plan.out, measured, made, markdown(made, measured.about, "Replicas of the engine ray", "sample rooms")
    )
    return measured


@dataclass(frozen=True)
class _Running:
    """A server, and a process that loads it."""

    http: str
    client: Server

    def answers(self, streams: Sequence[bytes]) -> list[Any]:
        """Of every task, one request after the other: in a batch of its own each."""
        with httpx.Client(base_url=self.http, timeout=120, headers={"Content-Type": MEDIA_TYPE}) as http:
            return [_results(http.post("/analyze", content=data)) for data in streams]

    def turn(self, plan: ReplicasPlan) -> Turn:
        alone, many = self._load(plan, 1), self._load(plan, AT_ONCE)
        return Turn(
            ms=1e3 * statistics.median(one.done_s - one.sent_s for one in alone.replies),
            rate=len(many.replies) / many.seconds,
        )

    def _load(self, plan: ReplicasPlan, at_once: int) -> LoadResult:
        load = LoadRequest(concurrency=at_once, seconds=plan.seconds, tasks=(plan.task,))
        event = self.client.send(load.model_dump(), "loaded")
        event.pop("event")
        return LoadResult.model_validate(event)

    def warm_up(self, plan: ReplicasPlan) -> None:
        for at_once in (1, AT_ONCE):
            load = LoadRequest(concurrency=at_once, seconds=WARM_S, tasks=(plan.task,))
            self.client.send(load.model_dump(), "loaded")


def _results(answer: httpx.Response) -> Any:
    answer.raise_for_status()
    return json.loads(answer.content)["results"]


@contextmanager
def _running(plan: ReplicasPlan, streams: Path, replicas: int) -> Iterator[_Running]:
    """A server of one thread a process, ready and warm. replicas: 0 for one process without Ray. Raises IsthmusError
    if it does not start."""
    # On Linux Ray would listen on the machine's own address.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    with ExitStack() as stack:
        # Short: sockets lie in it. Its processes may still write as they end.
        place = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(place))
        config = "[pipeline]\nqueue_max = 256\n"
        config += RAY.format(replicas=replicas, cores=os.cpu_count() or 1, folder=folder) if replicas else ""
        (folder / "cloud.toml").write_text(config)
        options = ("--config", folder / "cloud.toml", "--bundle", plan.bundle.resolve(), "--threads", 1)
        ports = ("--grpc-port", 0, "--http-port", 0, "--insecure")
        engine = ("--engine", "ray" if replicas else "local")
        command = [*ISTHMUS, "cloud", "serve", *map(str, (*options, *ports, *engine))]
        cloud = stack.enter_context(server("cloud", command))
        ports_of = cloud.wait_for("listening")
        client = stack.enter_context(
            server("load", module("bench.throughput.load_client", ports_of["grpc"], str(streams)), cwd=ROOT)
        )
        client.wait_for("ready")
        cloud.wait_for("ready", READY_S)
        running = _Running(f"http://{ports_of['http']}", client)
        running.warm_up(plan)
        yield running


def sections(measured: Replicas) -> list[Section]:
    rows = tuple(
        (
            str(one.replicas),
            f"{one.equal} of {one.answers}",
            f"{statistics.median(turn.ms for turn in one.local):.1f}",
            f"{statistics.median(turn.ms for turn in one.ray):.1f}",
            f"{one.more_ms:+.1f}",
            f"{statistics.median(turn.rate for turn in one.local):.1f}",
            f"{statistics.median(turn.rate for turn in one.ray):.1f}",
            f"{one.share:.2f}",
        )
        for one in measured.compared
    )
    columns = (
        "replicas",
        "same answers",
        "one process, ms",
        "ray, ms",
        "more, ms",
        "one process, requests/s",
        "ray, requests/s",
        "share",
    )
    return [
        Section(
            title=f"Replicas on the cores of one process, {measured.task} alone",
            columns=columns,
            rows=rows,
            notes=(
                "Same answers: of all tasks, equal to the last digit, each asked alone.",
                f"ms: the median of one request after the other. requests/s: {AT_ONCE} at once. All run on the same "
                "cores, with a thread in each process; both servers in turn, medians over the rounds.",
            ),
        )
    ]
