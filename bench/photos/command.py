"""The options of `isthmus bench photos`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import SPEC, Device, Force

QUICK, QUICK_FRAMES = 8, 10


def photos(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    data: Annotated[list[str], typer.Option(help=f"Photographs, repeatable: {SPEC}.")],
    network: Annotated[
        list[str], typer.Option(help="The uncompressed network of a task; one for each task.")
    ],
    out: Annotated[Path, typer.Option(help="Run folder of the results.")],
    clip: Annotated[list[Path], typer.Option(help="A clip of a fixed camera; repeatable.")] = [],  # noqa: B006
    count: Annotated[
        int | None, typer.Option(help="Measure only the first images of each set.", min=1, max=10**8)
    ] = None,
    frames: Annotated[int, typer.Option(min=2, max=10**5, help="Images of a clip, at most.")] = 150,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help=f"{QUICK} images, {QUICK_FRAMES} of a clip, few settings of each contender."
        ),
    ] = False,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Agreement with the uncompressed networks on photographs, against bytes: Isthmus, image codecs, coded features.

    Labels are measured besides, where a set has them. What has been measured before is not measured again.
    """
    refuse_foreign_folder(out, ("parts", "results.json"), force=force)
    import matplotlib  # noqa: F401  so that a missing one is reported before hours of measuring
    from rich.console import Console

    from bench.photos.photos import PhotosPlan, bench_photos
    from bench.photos.photos_report import write_photos
    from bench.report.report import show

    plan = PhotosPlan(
        bundle=bundle,
        networks=network,
        data=data,
        out=out,
        clips=clip,
        count=min(count or QUICK, QUICK) if quick else count,
        frames=min(frames, QUICK_FRAMES) if quick else frames,
        rounds=1 if quick else 5,
        quick=quick,
        device=device,
    )
    measured = bench_photos(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    show(write_photos(out, measured), Console())
    typer.echo(f"\n{out}: results.md, results.json, set0.png ...")
