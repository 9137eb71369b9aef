"""The options of `isthmus bench archive`."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import Force

TOTAL, CAMERAS, QUICK = 1_000_000, 100, 20_000


def archive(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle's folder; default: the shipped one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder of the results.")] = Path("runs/bench/archive"),
    total: Annotated[int, typer.Option(min=1000, max=10**9, help="Frames in the archive.")] = TOTAL,
    cameras: Annotated[int, typer.Option(min=2, max=10**6, help="Cameras that sent them.")] = CAMERAS,
    task: Annotated[
        str | None, typer.Option(help="Task that a camera's frames are asked; default: the bundle's first.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} frames.")] = False,
    force: Force = False,
) -> None:
    """Measure an archive of many frames: seal, verify, export, replay, expire; with a kill and a flipped bit.

    Needs about 1.5 KB of temporary disk space a frame.
    """
    refuse_foreign_folder(out, ("results.json",), force=force)
    from rich.console import Console

    from bench.archive.archive import ArchivePlan, bench_archive
    from bench.archive.archive_report import sections
    from bench.report.report import show
    from shared.shipped import chosen_bundle

    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        total = QUICK if quick else total
        plan = ArchivePlan(chosen_bundle(bundle), out, Path(folder), total, cameras, task)
        measured = bench_archive(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    show(sections(measured), Console())
    typer.echo(f"\n{out}: results.md, results.json")
