"""The options of `isthmus bench rate`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import SPEC, Device, Force

QUICK = 8  # images


def rate(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    data: Annotated[str, typer.Option(help=f"Images: {SPEC}.")],
    network: Annotated[
        list[str], typer.Option(help="The uncompressed network of a task; one for each task.")
    ],
    out: Annotated[Path, typer.Option(help="Run folder of the results.")],
    peer: Annotated[
        list[str], typer.Option(help="NAME=RUN: another codec, by the run folder of its training.")
    ] = [],  # noqa: B006
    count: Annotated[
        int | None, typer.Option(help="Measure only the first images of the set.", min=1, max=10**8)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Measure only {QUICK} images and few settings of each contender.")
    ] = False,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement", help="Compare with the uncompressed networks, even where there are labels."
        ),
    ] = False,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Bytes against task quality: Isthmus, image codecs, coded features and learned codecs on one data set.

    What has been measured before for the same weights and images is not measured again.
    """
    refuse_foreign_folder(out, ("parts", "results.json"), force=force)
    import matplotlib  # noqa: F401  so that a missing one is reported before hours of measuring
    from rich.console import Console

    from bench.rate.rate import RatePlan, bench_rate
    from bench.report.report import show

    count = min(count or QUICK, QUICK) if quick else count
    plan = RatePlan(bundle, network, data, out, peer, count, quick, agreement, device)
    show(bench_rate(plan, shlex.join(["isthmus", *sys.argv[1:]])), Console())
    typer.echo(f"\n{out}: rate.html, results.md, results.json, rate.csv, rate.png")
