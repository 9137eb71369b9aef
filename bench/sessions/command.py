"""The options of `isthmus bench sessions`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import Force

CAMERAS = 10_000


def sessions(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle's folder; default: the shipped one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder of the results.")] = Path("runs/bench/sessions"),
    cameras: Annotated[int, typer.Option(min=1, max=10**6, help="Sessions, one each.")] = CAMERAS,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Frames of each camera after the first.")] = 2,
    task: Annotated[
        str | None, typer.Option(help="Task that each frame is asked; default: the bundle's first.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="What runs tails: the server's process, or replicas of Ray."),
    ] = "local",
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Of the engine ray.")] = 1,
    force: Force = False,
) -> None:
    """Measure a cloud with many cameras: sessions open, frames a second, p99, memory a session."""
    refuse_foreign_folder(out, ("results.json",), force=force)
    from rich.console import Console

    from bench.report.report import show
    from bench.sessions.sessions import SessionsPlan, bench_sessions, sections
    from shared.shipped import chosen_bundle

    plan = SessionsPlan(chosen_bundle(bundle), out, cameras, rounds, task, replicas if engine == "ray" else 0)
    show(sections(bench_sessions(plan, shlex.join(["isthmus", *sys.argv[1:]]))), Console())
    typer.echo(f"\n{out}: results.md, results.json")
