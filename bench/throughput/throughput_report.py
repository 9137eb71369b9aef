"""What `isthmus bench cloud` measured, as tables, targets and a plot. Computes, and measures nothing."""

from __future__ import annotations

import io
import json
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

import numpy as np

from bench.report.report import About, markdown, targets
from bench.report.sections import Section, Target
from shared.files import write_atomically
from shared.types import Frozen

TARGET_CONCURRENCY, TARGET_RATIO = 32, 0.85


class Round(Frozen):
    """The service and the bare forward, one after the other.

    rate: requests a second; batch: mean size. ms: of each request, as its client sees it. queue_ms, decode_ms,
    tails_ms: means of what the answers say; of a batch, not of a picture. cpu_ms: processor time of the cloud a
    request; load_share: cores that the load kept busy. bare_rate: pictures a second of the forward alone in batches of
    that size; bare_cpu_ms: processor time of it a picture.
    """

    rate: float
    batch: float
    ms: tuple[float, ...]
    queue_ms: float
    decode_ms: float
    tails_ms: float
    cpu_ms: float
    load_share: float
    bare_rate: float
    bare_cpu_ms: float


class Asked(Frozen):
    """One question at one concurrency."""

    question: str
    concurrency: int
    rounds: tuple[Round, ...]

    @cached_property
    def rate(self) -> float:
        return median(one.rate for one in self.rounds)

    @cached_property
    def bare_rate(self) -> float:
        return median(one.bare_rate for one in self.rounds)

    @cached_property
    def ratio(self) -> float:
        """Of each round's two, because the machine is not the same for all rounds."""
        return median(one.rate / one.bare_rate for one in self.rounds)

    @cached_property
    def cpu_ratio(self) -> float:
        """Of the processor time that the forward needs to that of the service."""
        return median(one.bare_cpu_ms / one.cpu_ms for one in self.rounds)

    @cached_property
    def batch(self) -> float:
        return fmean(one.batch for one in self.rounds)

    @cached_property
    def load_share(self) -> float:
        return fmean(one.load_share for one in self.rounds)

    def ms(self, percent: float) -> float:
        return float(np.percentile([value for one in self.rounds for value in one.ms], percent))


class Stages(Frozen):
    """Processor ms a picture of each stage, in batches of `batch` pictures and on one process."""

    question: str
    batch: int
    ms: dict[str, float]


class Cloud(Frozen):
    """threads: of torch, in the cloud and in the bare forward."""

    about: About
    threads: int
    asked: tuple[Asked, ...]
    stages: tuple[Stages, ...]

    @property
    def questions(self) -> list[str]:
        return list(dict.fromkeys(one.question for one in self.asked))

    def of(self, question: str) -> list[Asked]:
        return [one for one in self.asked if one.question == question]


def sections(cloud: Cloud) -> list[Section]:
    return [*(_rates(cloud, question) for question in cloud.questions), _stages(cloud)]


def _rates(cloud: Cloud, question: str) -> Section:
    asked = cloud.of(question)
    columns = ("at once", "requests a second", "p50 ms", "p99 ms", "mean batch", "bare forward", "ratio")
    columns += ("ratio of processor time", "cores that the load took")
    rows = tuple(
        (
            str(one.concurrency),
            f"{one.rate:.1f}",
            f"{one.ms(50):.0f}",
            f"{one.ms(99):.0f}",
            f"{one.batch:.1f}",
            f"{one.bare_rate:.1f}",
            f"{one.ratio:.0%}",
            f"{one.cpu_ratio:.0%}",
            f"{one.load_share:.2f}",
        )
        for one in asked
    )
    at = [one for one in asked if one.concurrency == TARGET_CONCURRENCY]
    told = tuple(
        Target(
            what=f"{question}: throughput at {TARGET_CONCURRENCY} at once, of the bare batched forward's",
            target=f">= {TARGET_RATIO:.0%}",
            reached=f"{one.ratio:.0%}",
            met=one.ratio >= TARGET_RATIO,
        )
        for one in at
    )
    notes = (
        f"One process, threads of torch: {cloud.threads}, also for the bare forward: reconstruction and tails of "
        "decoded latents, in batches as large as the service's mean, measured after each of its rounds. Ratios are "
        "medians of the rounds' own.",
    )
    return Section(
        title=f"Requests a second: {question}", columns=columns, rows=rows, notes=notes, targets=told
    )


def _stages(cloud: Cloud) -> Section:
    """Where the processor time of a request goes."""
    names = list(cloud.stages[0].ms)
    rows = []
    for one in cloud.stages:
        fullest = max(cloud.of(one.question), key=lambda asked: asked.concurrency)
        whole = median(each.cpu_ms for each in fullest.rounds)
        rest = whole - sum(one.ms.values())
        cells = [*(f"{one.ms[name]:.2f}" for name in names), f"{rest:.2f}", f"{whole:.2f}"]
        rows.append((one.question, str(one.batch), *cells))
    columns = ("question", "batch", *names, "rest: gRPC, queue, asyncio", "whole")
    notes = (
        "Processor ms a picture; the stages by themselves in one process, the whole from the cloud's own process at "
        "the highest concurrency. Waiting in the queue takes none.",
    )
    return Section(title="Where the time goes", columns=columns, rows=tuple(rows), notes=notes)


def plot(cloud: Cloud) -> bytes:
    """Requests a second against concurrency, dashed the bare forward; time to answer beside it; PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    rates, waits = figure.subplots(1, 2)
    for question in cloud.questions:
        asked = cloud.of(question)
        x = [one.concurrency for one in asked]
        (line,) = rates.plot(x, [one.rate for one in asked], marker="o", markersize=4, label=question)
        rates.plot(x, [one.bare_rate for one in asked], linestyle="--", color=line.get_color())
        for percent, dash in ((50, "-"), (99, ":")):
            waits.plot(x, [one.ms(percent) for one in asked], linestyle=dash, color=line.get_color())
    rates.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="a second; dashed: bare forward")
    waits.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="ms to the answer; dotted: p99")
    for axes in (rates, waits):
        axes.set_xticks(sorted({one.concurrency for one in cloud.asked}), minor=False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    rates.legend(fontsize="small")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def write_cloud(out: Path, cloud: Cloud) -> None:
    """results.json, results.md and cloud.png in `out`."""
    told = sections(cloud)
    results = {
        **cloud.model_dump(mode="json"),
        "targets": [target.model_dump(mode="json") for target in targets(told)],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "results.json", json.dumps(results, indent=1).encode())
    write_atomically(out / "results.md", markdown(told, cloud.about, "Throughput", "pictures").encode())
    write_atomically(out / "cloud.png", plot(cloud))
