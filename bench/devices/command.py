"""The options of `isthmus bench devices`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import Force

COUNT = 64


def devices(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    images: Annotated[Path, typer.Argument(help="A folder of images.")],
    device: Annotated[list[str], typer.Option(help="torch's names.")] = ["cpu", "cuda"],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Run folder of the results.")] = Path("runs/bench/devices"),
    count: Annotated[int, typer.Option(min=1, max=10**6, help="At most so many images.")] = COUNT,
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="Of each measurement.")] = 2.0,
    force: Force = False,
) -> None:
    """Check that devices decode the same integers, and measure decoding and tails on each."""
    refuse_foreign_folder(out, ("results.json",), force=force)
    from rich.console import Console

    from bench.devices.devices import DevicesPlan, bench_devices, sections
    from bench.report.report import markdown, show, write_results

    plan = DevicesPlan(
        bundle=bundle,
        images=images,
        devices=tuple(device),
        count=count,
        batches=(1, 8, 32, 128),
        seconds=seconds,
    )
    measured = bench_devices(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    found = sections(measured)
    write_results(out, measured, found, markdown(found, measured.about, "Devices", "images"))
    show(found, Console())
    typer.echo(f"\n{out}: results.md, results.json")
