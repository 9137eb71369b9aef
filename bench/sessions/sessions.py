"""`isthmus bench sessions`: how many cameras' sessions one cloud holds, what each costs, and how fast it answers.

a frame, coded once -> a cloud's process with room for all -> sessions opened step by step, with a frame I each
    -> a frame "as before" of every camera, some rounds -> frames a second, p50, p99, memory a session
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.progress import Progress

from bench.report.report import About, markdown, write_results
from bench.report.sections import Section
from bench.sessions.cameras import Cameras, Footage
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.process.child_process import ISTHMUS, SAMPLES, server
from shared.types import Frozen

CONNECTIONS = 20
AT_ONCE = 16
READY_S = 600.0  # of a busy machine, on which a Ray starts
_CONFIG = """[grpc]
stream_idle_ms = 3600000
[sessions]
open_max = {cameras}
[pipeline]
queue_max = 1024
[ray]
replicas_min = {replicas}
replicas_max = {replicas}
cpus = 0.25
folder = "{folder}"
"""


@dataclass(frozen=True)
class SessionsPlan:
    """What is measured. rounds: of a frame "as before" of every camera. replicas: of the engine ray; 0: without it."""

    bundle: Path
    out: Path
    cameras: int
    rounds: int
    task: str | None = None
    replicas: int = 0


class Step(Frozen):
    """Some frames. open: sessions then. rss_mb: of the cloud then. cpu_ms: of the cloud a frame."""

    name: str
    open: int
    frames: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    rss_mb: float


class Sessions(Frozen):
    """All that was measured. idle_mb: memory of the cloud before the first session, once it was warm; with Ray that of
    the gateway."""

    about: About
    bundle: str
    task: str
    replicas: int = 0
    idle_mb: float
    steps: tuple[Step, ...]

    @property
    def kb_a_session(self) -> float:
        last = self.steps[-1]
        return 1024 * (last.rss_mb - self.idle_mb) / last.open


def bench_sessions(plan: SessionsPlan, command: str) -> Sessions:
    """Measures, and writes the report. Raises IsthmusError, also where a session is refused or ends."""
    bundle = Bundle.open(plan.bundle)
    task = plan.task or bundle.tasks[0].name
    footage = Footage.of(Encoder(bundle), str(min(SAMPLES.glob("*.png"))))
    # On Linux Ray would listen on the machine's own address. Sockets lie in the folder: its name is short.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "cloud.toml"
        replicas = max(plan.replicas, 1)
        config.write_text(_CONFIG.format(cameras=plan.cameras + 1, replicas=replicas, folder=folder))
        words = ["--config", config, "--bundle", plan.bundle.resolve(), "--grpc-port", 0, "--http-port", 0]
        engine = ["--engine", "ray" if plan.replicas else "local"]
        start = [*ISTHMUS, "cloud", "serve", "--insecure", "--threads", 1, *engine, *words]
        with server("cloud", [str(word) for word in start]) as cloud:
            address = cloud.wait_for("listening")["grpc"]
            cloud.wait_for("ready", READY_S)
            idle_mb, steps = asyncio.run(_measure(plan, address, task, footage, psutil.Process(cloud.pid)))
    measured = Sessions(
        about=About.now(command, plan.cameras),
        bundle=bundle.manifest.name,
        task=task,
        replicas=plan.replicas,
        idle_mb=idle_mb,
        steps=tuple(steps),
    )
    made = sections(measured)
    write_results(
        plan.out, measured, made, markdown(made, measured.about, "Sessions of one cloud", "cameras")
    )
    return measured


async def _measure(
    plan: SessionsPlan, address: str, task: str, footage: Footage, cloud: psutil.Process
) -> tuple[float, list[Step]]:
    cameras = Cameras(address, footage, task, CONNECTIONS, AT_ONCE)
    warm = Cameras(address, footage, task, 1, 1)
    await warm.open(1, lambda: None)
    await warm.close()
    idle_mb, steps = _mb(cloud), []
    parts = [len(part) for part in np.array_split(range(plan.cameras), min(4, plan.cameras))]
    with Progress() as progress:
        shown = progress.add_task("frames", total=plan.cameras * (1 + plan.rounds))
        for i, count in enumerate([*parts, *[0] * plan.rounds]):
            cpu = _cpu_s(cloud)
            if count:
                ms, seconds = await cameras.open(count, lambda: progress.advance(shown))
                name = "open, frame I"
            else:
                ms, seconds = await cameras.same(lambda: progress.advance(shown))
                name = f"as before, round {i - len(parts) + 1}"
            steps.append(
                Step(
                    name=name,
                    open=len(cameras.cameras),
                    frames=len(ms),
                    seconds=seconds,
                    p50_ms=float(np.percentile(ms, 50)),
                    p99_ms=float(np.percentile(ms, 99)),
                    cpu_ms=1e3 * (_cpu_s(cloud) - cpu) / len(ms),
                    rss_mb=_mb(cloud),
                )
            )
    await cameras.close()
    return idle_mb, steps


def sections(measured: Sessions) -> list[Section]:
    rows = tuple(
        (
            one.name,
            f"{one.open:,}",
            f"{one.frames / one.seconds:,.0f}",
            f"{one.p50_ms:.0f}",
            f"{one.p99_ms:.0f}",
            f"{one.cpu_ms:.2f}",
            f"{one.rss_mb:.0f}",
        )
        for one in measured.steps
    )
    return [
        Section(
            title=f"{measured.steps[-1].open:,} sessions, {measured.task} alone{_engine(measured)}",
            columns=(
                "frames",
                "sessions open",
                "frames/s",
                "p50 ms",
                "p99 ms",
                "cloud's CPU ms a frame",
                "cloud's MB",
            ),
            rows=rows,
            notes=(
                f"Memory a session: {measured.kb_a_session:.0f} KB above a warm cloud's {measured.idle_mb:.0f} MB.",
                f"The cameras share {CONNECTIONS} connections, and {AT_ONCE} frames wait for an answer at any time; "
                "cloud and cameras share the machine.",
                *(("CPU and MB are the gateway's alone.",) if measured.replicas else ()),
            ),
        )
    ]


def _engine(measured: Sessions) -> str:
    return f", engine ray, replicas: {measured.replicas}" if measured.replicas else ""


def _mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / (1 << 20)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
