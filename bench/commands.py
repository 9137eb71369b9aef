"""`isthmus bench ...`: measure, compare, report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.latency.command import latency
from bench.rate.command import rate
from bench.throughput.command import cloud
from shared.process.commands import CommandTable
from train.commands.commands import OneLine
from train.commands.options import Device

QUICK = 100  # rooms

app = CommandTable(cls=OneLine, help="Measure against targets and peers.", no_args_is_help=True)


@app.callback()
def _group() -> None: ...


app.command()(latency)


app.command()(rate)


app.command()(cloud)


@app.command()
def rooms(
    work: Annotated[Path, typer.Argument(help="The folder that deploy/train-rooms.sh filled.")],
    out: Annotated[Path | None, typer.Option(help="Run folder of the results; WORK/bench if absent.")] = None,
    count: Annotated[int | None, typer.Option(help="Only the first test rooms.", min=1)] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"Only {QUICK} test rooms.")] = False,
    device: Device = "auto",
) -> None:
    """The bundle `rooms` and its method on the test rooms: bytes, every task's figures, targets, peers.

    What was measured for the same weights and rooms is not measured again.
    """
    import matplotlib  # noqa: F401  so that a missing one is told before hours of measuring
    from rich.console import Console

    from bench.report.report import show
    from bench.rooms.rooms import bench_rooms

    out = out or work / "bench"
    command = shlex.join(["isthmus", *sys.argv[1:]])
    sections = bench_rooms(work, out, count or (QUICK if quick else None), command, device)
    show(sections, Console())
    typer.echo(f"\n{out}: results.md, results.json, curves.csv, curves.png")
