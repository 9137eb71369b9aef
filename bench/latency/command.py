"""The options of `isthmus bench latency`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.files import refuse_foreign_folder
from train.commands.options import Force

if TYPE_CHECKING:
    from bench.latency.results import Approach
    from bench.link import Shape

# Qualities at which the networks do as well on the shipped bundle's rooms as over its bitstreams, or slightly worse.
JPEG_QUALITY, AVIF_QUALITY = 65, 50
QUICK_IMAGES, IMAGES = 2, 40


def latency(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    network: Annotated[
        list[str], typer.Option(help="An uncompressed network of each task, added ones included; repeatable.")
    ],
    data: Annotated[str, typer.Option(help="Images to send: any data set.")],
    out: Annotated[Path, typer.Option(help="Run folder: results.md, results.json, latency.png.")],
    count: Annotated[
        int, typer.Option(min=1, max=10**6, help="Images; each is sent by every approach over every link.")
    ] = IMAGES,
    jpeg_quality: Annotated[
        int, typer.Option(min=1, max=100, help="JPEG at which the networks do as well as over Isthmus.")
    ] = JPEG_QUALITY,
    avif_quality: Annotated[int, typer.Option(min=1, max=100, help="The same for AVIF.")] = AVIF_QUALITY,
    rate: Annotated[
        Path | None, typer.Option(help="results.json of `isthmus bench rate`, to take both qualities from.")
    ] = None,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="Emulate links by a TCP proxy: no loss, and no root needed.")
    ] = False,
    force: Force = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"{QUICK_IMAGES} images and two links: shows that it runs, no more."),
    ] = False,
) -> None:
    """Measure the time to an answer, stage by stage and over slow links, against images and running on the edge."""
    refuse_foreign_folder(out, ("results.json",), force=force)
    import matplotlib  # noqa: F401  so that a missing one is reported before the measuring
    from rich.console import Console

    from bench.latency.equal_quality import equal_quality
    from bench.latency.latency import LatencyPlan, bench_latency
    from bench.latency.latency_report import sections
    from bench.latency.results import MIDDLE, SLOW
    from bench.report.report import show

    if rate is not None:
        jpeg_quality, avif_quality = (equal_quality(rate, form) for form in ("JPEG", "AVIF"))
    plan = LatencyPlan(
        bundle=bundle,
        networks=tuple(network),
        data=data,
        out=out,
        count=QUICK_IMAGES if quick else count,
        links=(SLOW, MIDDLE) if quick else _links(),
        colds=1 if quick else 10,
        starts=1 if quick else 5,
        rounds=1 if quick else 5,
        approaches=_approaches(jpeg_quality, avif_quality),
        proxy=proxy,
    )
    measured = bench_latency(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    show(sections(measured), Console())
    typer.echo(f"\n{out}: results.md, results.json, latency.png")


def _links() -> tuple[Shape, ...]:
    from bench.link import Shape

    return tuple(
        Shape(mbit=mbit, delay_ms=delay_ms, loss=loss)
        for loss in (0, 0.01)
        for delay_ms in (20, 100)
        for mbit in (0.25, 1, 10)
    )


def _approaches(jpeg_quality: int, avif_quality: int) -> tuple[Approach, ...]:
    from bench.latency.results import ISTHMUS, JPEG_75, LOCAL, Approach

    approaches = {
        ISTHMUS: Approach(name=ISTHMUS, form="isthmus"),
        JPEG_75: Approach(name=JPEG_75, form="JPEG", quality=75),
        # At 75 the two JPEGs are one approach, which is then the one at equal quality.
        f"JPEG {jpeg_quality}": Approach(
            name=f"JPEG {jpeg_quality}", form="JPEG", quality=jpeg_quality, equal=True
        ),
        f"AVIF {avif_quality}": Approach(
            name=f"AVIF {avif_quality}", form="AVIF", quality=avif_quality, equal=True
        ),
        LOCAL: Approach(name=LOCAL, form="local"),
    }
    return tuple(approaches.values())
