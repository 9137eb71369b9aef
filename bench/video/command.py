"""The options of `isthmus bench video`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import RequestError
from shared.files import refuse_foreign_folder
from train.commands.options import Device, Force

QUICK_SEQUENCES, QUICK_FRAMES = 2, 10
FRAMES = 150


def video(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="A folder of `isthmus rooms render --frames`, a clip, or photographs (images:FOLDER), from which "
            "sequences are made; repeatable."
        ),
    ],
    network: Annotated[
        list[str], typer.Option(help="The uncompressed network of a task; one for each task.")
    ],
    out: Annotated[Path, typer.Option(help="Run folder of the results.")],
    quality: Annotated[
        list[int], typer.Option(min=0, max=100, help="Measured besides the default quality; repeatable.")
    ] = [],  # noqa: B006
    hold: Annotated[
        str, typer.Option(help="Sticky rounding, beyond half a step: numbers, comma-separated.")
    ] = "0,0.15,0.3",
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**6,
            help="Only the first sequences of each folder, or so many made from photographs.",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=2, max=10**5, help="Images of a clip, at most.")] = FRAMES,
    fps: Annotated[float, typer.Option(min=0.1, max=120, help="Images a second of a clip.")] = 5.0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help=f"{QUICK_SEQUENCES} sequences, {QUICK_FRAMES} images of a clip, few settings of each contender.",
        ),
    ] = False,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Bytes a second against task quality, for sequences and clips: sessions, x265 with low delay, JPEG.

    What has been measured before for the same weights and images is not measured again.
    """
    refuse_foreign_folder(out, ("parts", "results.json"), force=force)
    import matplotlib  # noqa: F401  so that a missing one is reported before hours of measuring
    from rich.console import Console

    from bench.report.report import show
    from bench.video.video import VideoPlan, bench_video
    from bench.video.video_report import sections

    plan = VideoPlan(
        bundle=bundle,
        networks=network,
        data=data,
        out=out,
        qualities=tuple(quality),
        holds=_holds(hold),
        count=min(count or QUICK_SEQUENCES, QUICK_SEQUENCES) if quick else count,
        frames=min(frames, QUICK_FRAMES) if quick else frames,
        fps=fps,
        quick=quick,
        device=device,
    )
    measured = bench_video(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    show(sections(measured), Console())
    typer.echo(f"\n{out}: results.md, results.json, video.png")


def _holds(text: str) -> tuple[float, ...]:
    """The numbers of a comma-separated list, ascending. Raises RequestError."""
    try:
        holds = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        holds = ()
    if not holds or not 0 <= holds[0] <= holds[-1] <= 4:
        raise RequestError(f"{text!r}: give numbers from 0 to 4, comma-separated", setting="hold")
    return holds
