"""The options of `isthmus bench wire`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import Force

SKIPPED, COUNTED, QUICK, QUICK_FPS = 5, 50, 10, 25.0
BOX_S = 60.0  # at least the time from one frame I to the next


def wire(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle's folder; default: the shipped one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder of the results.")] = Path("runs/bench/wire"),
    frames: Annotated[
        int, typer.Option(min=1, max=900, help=f"Frames of each scene and way, after the first {SKIPPED}.")
    ] = COUNTED,
    quality: Annotated[int | None, typer.Option(min=0, max=100, help="Default: the bundle's own.")] = None,
    hold: Annotated[
        float | None, typer.Option(min=0, max=4, help="Sticky rounding; default: the bundle's own.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls/--no-tls", help="Measure over TLS as well.")] = True,
    box_s: Annotated[
        float,
        typer.Option(min=0, max=3600, help="Seconds of each scene through a camera box; 0 leaves it out."),
    ] = BOX_S,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{QUICK} frames, faster, without TLS and box.")
    ] = False,
    force: Force = False,
) -> None:
    """Measure what a frame costs on the link, both directions: unary calls, sessions, a camera box; plain and TLS."""
    refuse_foreign_folder(out, ("results.json",), force=force)
    from rich.console import Console

    from bench.report.report import show
    from bench.wire.scenes import FPS
    from bench.wire.wire import WirePlan, bench_wire
    from bench.wire.wire_report import sections
    from shared.shipped import chosen_bundle

    plan = WirePlan(
        bundle=chosen_bundle(bundle),
        out=out,
        skipped=SKIPPED,
        counted=QUICK if quick else frames,
        quality=quality,
        hold=hold,
        fps=QUICK_FPS if quick else FPS,
        tls=tls and not quick,
        box_s=0 if quick else box_s,
    )
    measured = bench_wire(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    show(sections(measured), Console())
    typer.echo(f"\n{out}: results.md, results.json")
