"""The report of `isthmus bench cloud`: tables, targets and a plot. Computes, and measures nothing."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from bench.report.plots import finish_load_axes, new_figure, png_of
from bench.report.report import markdown, write_results
from bench.report.sections import NOISE, Section, Target, judge, possible, text_of
from bench.throughput.results import LoadPoint, Stages, Throughput
from shared.files import write_atomically

TARGET_CONCURRENCY, TARGET_RATIO, TARGET_PNG, TARGET_ALONE = 32, 0.85, 0.75, 0.70
# A service cannot outrun the forward that it contains. The two are timed one after the other, so they may differ by a
# few percent; what lies beyond is noise.
RATIO_MAX = 1.05
RATE_COLUMNS = (
    "at once",
    "requests a second",
    "p50 ms",
    "p99 ms",
    "mean batch",
    "bare forward",
    "in pieces",
    "ratio",
    "ratio of processor time",
    "cores that the load took",
)


def sections(throughput: Throughput) -> list[Section]:
    return [*(_rates(throughput, workload) for workload in throughput.workloads), _stages(throughput)]


def _rates(throughput: Throughput, workload: str) -> Section:
    loads = throughput.of(workload)
    notes = [
        f"One process, threads of torch: {throughput.threads}, also for the bare forward: reconstruction and tails of "
        "decoded latents, in batches as large as the service's mean, measured after each of its rounds. Ratios are "
        "medians of the rounds' own. In pieces: the bare forward where threads share each batch, as in the service."
    ]
    if not all(
        possible(ratio, high=_ratio_max(load)) for load in loads for ratio in (load.ratio, load.cpu_ratio)
    ):
        notes.append(
            f"{NOISE}: a service cannot be faster than the forward it contains, so other work on the machine slowed "
            "the one and not the other. Measure again on a quiet machine, or without --quick."
        )
    if not all(load.steady for load in loads):
        notes.append(
            "At least: the time was too short for a steady rate, so that of the whole run is given, the first and the "
            "last batch included."
        )
    if workload.endswith("streams"):
        notes.append("One AnalyzeStream for each eight requests at once, instead of a call for each request.")
    return Section(
        title=f"Requests a second: {workload}",
        columns=RATE_COLUMNS,
        rows=tuple(_rate_row(load) for load in loads),
        notes=tuple(notes),
        targets=tuple(_target(load) for load in loads if load.concurrency == TARGET_CONCURRENCY),
    )


def _ratio_max(load: LoadPoint) -> float:
    return RATIO_MAX * load.ratio_bound


def _wanted(workload: str) -> float:
    """The target for a workload of `bench.throughput.workloads`."""
    if workload.endswith("maps"):
        return TARGET_PNG
    return TARGET_ALONE if " alone" in workload else TARGET_RATIO


def _target(load: LoadPoint) -> Target:
    wanted = _wanted(load.workload)
    judged = judge(
        f"{load.workload}: throughput at {TARGET_CONCURRENCY} at once, of the bare batched forward's",
        f">= {wanted:.0%}",
        load.ratio,
        load.ratio >= wanted,
        _ratio_form(load),
        high=_ratio_max(load),
    )
    # A lower bound can show that a target is met, not that it is missed.
    return judged if load.steady or judged.met else judged.model_copy(update={"met": None})


def _ratio_form(load: LoadPoint) -> str:
    return "{:.0%}" if load.steady else "at least {:.0%}"


def _rate_row(load: LoadPoint) -> tuple[str, ...]:
    return (
        str(load.concurrency),
        f"{load.rate:.1f}",
        f"{load.ms(50):.0f}",
        f"{load.ms(99):.0f}",
        f"{load.batch:.1f}",
        f"{load.bare_rate:.1f}",
        f"{load.pieces_rate:.1f}",
        text_of(_ratio_form(load), load.ratio, high=_ratio_max(load)),
        text_of("{:.0%}", load.cpu_ratio, high=_ratio_max(load)),
        f"{load.load_share:.2f}",
    )


def _stages(throughput: Throughput) -> Section:
    """Where the processor time of a request goes."""
    names = list(throughput.stages[0].ms)
    rests = [_whole_ms(throughput, one) - sum(one.ms.values()) for one in throughput.stages]
    rows = tuple(
        (
            one.workload,
            str(one.batch),
            *(f"{one.ms[name]:.2f}" for name in names),
            text_of("{:.2f}", rest),
            f"{_whole_ms(throughput, one):.2f}",
        )
        for one, rest in zip(throughput.stages, rests, strict=True)
    )
    notes = [
        "Processor ms per image; the stages by themselves in one process, the whole from the cloud's own process at "
        "the highest concurrency. Waiting in the queue takes none."
    ]
    if not all(map(possible, rests)):
        notes.append(
            f"{NOISE}: the stages, timed by themselves, took longer than the whole, so what is left for the rest is "
            "undetermined."
        )
    columns = ("workload", "batch", *names, "rest: gRPC, queue, asyncio", "whole")
    return Section(title="Where the time goes", columns=columns, rows=rows, notes=tuple(notes))


def _whole_ms(throughput: Throughput, stages: Stages) -> float:
    """Processor ms of the cloud per request, at the highest concurrency."""
    fullest = max(throughput.of(stages.workload), key=lambda load: load.concurrency)
    return median(one.cpu_ms for one in fullest.rounds)


def plot(throughput: Throughput) -> bytes:
    """PNG: requests a second against concurrency, dashed the bare forward; and time to answer, dotted p99."""
    figure = new_figure(11, 4.5)
    rates, waits = figure.subplots(1, 2)
    for workload in throughput.workloads:
        loads = throughput.of(workload)
        x = [load.concurrency for load in loads]
        (line,) = rates.plot(x, [load.rate for load in loads], marker="o", markersize=4, label=workload)
        rates.plot(x, [load.bare_rate for load in loads], linestyle="--", color=line.get_color())
        for percent, dash in ((50, "-"), (99, ":")):
            waits.plot(x, [load.ms(percent) for load in loads], linestyle=dash, color=line.get_color())
    ticks = sorted({load.concurrency for load in throughput.loads})
    finish_load_axes(rates, "requests at once", "a second; dashed: bare forward", ticks)
    finish_load_axes(waits, "requests at once", "ms to the answer; dotted: p99", ticks)
    rates.legend(fontsize="small")
    return png_of(figure)


def write_throughput(out: Path, throughput: Throughput) -> None:
    """Writes results.json, results.md and cloud.png to `out`."""
    made = sections(throughput)
    write_results(out, throughput, made, markdown(made, throughput.about, "Throughput", "images"))
    write_atomically(out / "cloud.png", plot(throughput))
