"""The options of `isthmus bench replicas`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import RequestError
from shared.files import refuse_foreign_folder
from train.commands.options import Force


def replicas(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle's folder; default: the shipped one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder of the results.")] = Path("runs/bench/replicas"),
    counts: Annotated[
        str, typer.Option(help="Replicas, comma-separated: one Ray after the other.")
    ] = "1,2,4",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of both servers.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="Of each load.")] = 5.0,
    task: Annotated[
        str | None, typer.Option(help="Task that is asked under load; default: the bundle's first.")
    ] = None,
    force: Force = False,
) -> None:
    """Measure what the engine ray costs on one machine: milliseconds a request, requests a second, equal answers."""
    refuse_foreign_folder(out, ("results.json",), force=force)
    from rich.console import Console

    from bench.replicas.replicas import ReplicasPlan, bench_replicas, sections
    from bench.report.report import show
    from shared.bundle import Bundle
    from shared.shipped import chosen_bundle

    numbers = tuple(int(one) if one.strip().isdecimal() else 0 for one in counts.split(","))
    if not all(1 <= number <= 64 for number in numbers):
        raise RequestError(f"{counts!r} is no list of 1 to 64 replicas, as 1,2,4", setting="counts")
    path = chosen_bundle(bundle)
    asked = task or Bundle.open(path).tasks[0].name
    plan = ReplicasPlan(path, out, numbers, rounds, seconds, asked)
    show(sections(bench_replicas(plan, shlex.join(["isthmus", *sys.argv[1:]]))), Console())
    typer.echo(f"\n{out}: results.md, results.json")
