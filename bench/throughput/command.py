"""`isthmus bench cloud`, the command."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import RequestError

CONCURRENCY = "1,2,4,8,16,32,64"
QUICK = "8,32"


def cloud(
    bundle: Annotated[Path | None, typer.Argument(help="bundle; the shipped one by default")] = None,
    out: Annotated[Path, typer.Option(help="Run folder of the results.")] = Path("runs/bench/cloud"),
    concurrency: Annotated[
        str | None, typer.Option(help=f"Requests at once, with commas; {CONCURRENCY} by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Of torch; as many as there are cores by default.", min=1)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Every task without maps, briefly.")] = False,
) -> None:
    """Requests a second of one cloud process, and how they compare with the bare batched forward."""
    import matplotlib  # noqa: F401  so that a missing one is told before the measuring
    from rich.console import Console

    from bench.report.report import show
    from bench.throughput.throughput import Plan, bench_cloud
    from bench.throughput.throughput_report import sections
    from shared.bundle import default_bundle

    plan = Plan(
        bundle=bundle or default_bundle(),
        out=out,
        concurrency=_numbers(concurrency if concurrency is not None else QUICK if quick else CONCURRENCY),
        rounds=1 if quick else 5,
        seconds=1.0 if quick else 5.0,
        threads=threads or len(os.sched_getaffinity(0)),
        quick=quick,
    )
    measured = bench_cloud(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    show(sections(measured), Console())
    typer.echo(f"\n{out}: results.md, results.json, cloud.png")


def _numbers(text: str) -> tuple[int, ...]:
    """Raises RequestError."""
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or not 1 <= numbers[0] <= numbers[-1] <= 128:
        raise RequestError(f"--concurrency {text}: whole numbers from 1 to 128, with commas between them")
    return numbers
