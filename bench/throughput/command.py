"""The options of `isthmus bench cloud`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import RequestError
from shared.files import refuse_foreign_folder
from train.commands.options import Force

CONCURRENCY = "1,2,4,8,16,32,64"
QUICK = "8,32"


def cloud(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle's folder; default: the shipped one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder of the results.")] = Path("runs/bench/cloud"),
    concurrency: Annotated[
        str | None, typer.Option(help=f"Requests at once, comma-separated; default: {CONCURRENCY}.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch; default: one for each core.", min=1, max=256)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="All tasks without maps only, and briefly.")] = False,
    force: Force = False,
) -> None:
    """Measure requests a second of one cloud process, and compare them with the bare batched forward."""
    refuse_foreign_folder(out, ("results.json",), force=force)
    import matplotlib  # noqa: F401  so that a missing one is reported before the measuring
    from rich.console import Console

    from bench.report.report import show
    from bench.throughput.throughput import ThroughputPlan, bench_throughput
    from bench.throughput.throughput_report import sections
    from shared.shipped import chosen_bundle

    plan = ThroughputPlan(
        bundle=chosen_bundle(bundle),
        out=out,
        concurrency=_numbers(concurrency if concurrency is not None else QUICK if quick else CONCURRENCY),
        rounds=1 if quick else 5,
        seconds=1.0 if quick else 5.0,
        threads=threads or len(os.sched_getaffinity(0)),
        quick=quick,
    )
    measured = bench_throughput(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    show(sections(measured), Console())
    typer.echo(f"\n{out}: results.md, results.json, cloud.png")


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of a comma-separated list, ascending. Raises RequestError."""
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or not 1 <= numbers[0] <= numbers[-1] <= 128:
        raise RequestError(
            f"{text!r}: give whole numbers from 1 to 128, comma-separated", setting="concurrency"
        )
    return numbers
