"""The options of `isthmus bench rooms`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import Device, Force

QUICK = 100  # rooms


def rooms(
    work: Annotated[Path, typer.Argument(help="The folder that deploy/train-rooms.sh filled.")],
    out: Annotated[Path | None, typer.Option(help="Run folder of the results; default: WORK/bench.")] = None,
    count: Annotated[
        int | None, typer.Option(help="Measure only the first test rooms.", min=1, max=10**8)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"Measure only {QUICK} test rooms.")] = False,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Measure the bundle `rooms` and its method on the test rooms: bytes, metrics of every task, targets, peers.

    What has been measured before for the same weights and rooms is not measured again.
    """
    import matplotlib  # noqa: F401  so that a missing one is reported before hours of measuring
    from rich.console import Console

    from bench.report.report import show
    from bench.rooms.rooms import bench_rooms

    out = out or work / "bench"
    refuse_foreign_folder(out, ("parts", "results.json"), force=force)
    command = shlex.join(["isthmus", *sys.argv[1:]])
    sections = bench_rooms(work, out, count or (QUICK if quick else None), command, device)
    show(sections, Console())
    typer.echo(f"\n{out}: results.md, results.json, curves.csv, curves.png")
