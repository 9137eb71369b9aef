"""The options of `isthmus bench privacy`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import SPEC, Force

STEPS = 1500


def privacy(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    data: Annotated[str, typer.Option(help=f"Images that the attackers learn from: {SPEC}.")],
    test: Annotated[str, typer.Option(help="Images that they have not seen, named as --data.")],
    out: Annotated[Path, typer.Option(help="Run folder of the results.")],
    network: Annotated[
        list[str],
        typer.Option(help="The uncompressed network of a task, one for each: says what is still recognised."),
    ] = [],  # noqa: B006
    quality: Annotated[
        list[int], typer.Option(min=0, max=100, help="Default: the bundle's levels; repeatable.")
    ] = [],  # noqa: B006
    count: Annotated[int | None, typer.Option(min=20, max=10**7, help="Only the first of --data.")] = None,
    test_count: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Only the first of --test.")
    ] = None,
    side: Annotated[int, typer.Option(min=8, max=512, help="Pixels of a drawing's side.")] = 64,
    steps: Annotated[
        int, typer.Option(min=0, max=10**6, help="Training of the convolutional attacker; 0 leaves it out.")
    ] = STEPS,
    force: Force = False,
) -> None:
    """How much of the scene somebody gets back who learns to draw it from the bytes.

    A linear and a small convolutional attacker, for each quality and for the latent before it is rounded.
    """
    refuse_foreign_folder(out, ("results.json",), force=force)
    from rich.console import Console

    from bench.privacy.privacy import PrivacyPlan, bench_privacy
    from bench.report.report import show

    plan = PrivacyPlan(bundle, data, test, network, out, quality, count, test_count, side, steps)
    show(bench_privacy(plan, shlex.join(["isthmus", *sys.argv[1:]])), Console())
    typer.echo(f"\n{out}: results.md, results.json, sheet.png")
