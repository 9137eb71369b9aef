"""The options of `isthmus bench latency`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

# At which the networks do as well on the shipped bundle's rooms as over its bitstreams, or a little less well.
JPEG_QUALITY, AVIF_QUALITY = 65, 50
QUICK_PICTURES, PICTURES = 2, 40


def latency(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    network: Annotated[
        list[str], typer.Option(help="An uncompressed network of each task, added ones included; repeatable.")
    ],
    data: Annotated[str, typer.Option(help="Pictures to send: any data set.")],
    out: Annotated[Path, typer.Option(help="Run folder: results.md, results.json, latency.png.")],
    count: Annotated[
        int, typer.Option(min=1, help="Pictures; each is sent every way over every link.")
    ] = PICTURES,
    jpeg_quality: Annotated[
        int, typer.Option(min=1, max=100, help="JPEG with which the networks do as well as over Isthmus.")
    ] = JPEG_QUALITY,
    avif_quality: Annotated[int, typer.Option(min=1, max=100, help="The same of AVIF.")] = AVIF_QUALITY,
    rate: Annotated[
        Path | None, typer.Option(help="results.json of `isthmus bench rate`, to take both qualities from.")
    ] = None,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="Emulate links by a TCP proxy: no loss, and no root needed.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{QUICK_PICTURES} pictures and two links: it runs, no more.")
    ] = False,
) -> None:
    """How long an answer takes, stage by stage and over slow links, beside sending images and running on the edge."""
    import matplotlib  # noqa: F401  so that a missing one is told before the measuring
    from rich.console import Console

    from bench.latency.latency import Plan, bench_latency, equal_quality
    from bench.latency.latency_report import JPEG_75, MIDDLE, SLOW, Way, sections
    from bench.link import Shape
    from bench.report.report import show

    if rate is not None:
        jpeg_quality, avif_quality = (equal_quality(rate, form) for form in ("JPEG", "AVIF"))
    ways = [Way(name="Isthmus", form="isthmus"), Way(name=JPEG_75, form="JPEG", quality=75)]
    for form, quality in (("JPEG", jpeg_quality), ("AVIF", avif_quality)):
        way = Way(name=f"{form} {quality}", form=form, quality=quality, equal=True)
        # At 75 both JPEGs are one way.
        ways = [*(one for one in ways if one.name != way.name), way]
    ways.append(Way(name="local", form="local"))
    links = [
        Shape(mbit=mbit, delay_ms=delay_ms, loss=loss)
        for loss in (0, 0.01)
        for delay_ms in (20, 100)
        for mbit in (0.25, 1, 10)
    ]
    plan = Plan(
        bundle=bundle,
        networks=tuple(network),
        data=data,
        out=out,
        count=QUICK_PICTURES if quick else count,
        links=(SLOW, MIDDLE) if quick else tuple(links),
        colds=1 if quick else 10,
        starts=1 if quick else 5,
        rounds=1 if quick else 5,
        ways=tuple(ways),
        proxy=proxy,
    )
    measured = bench_latency(plan, shlex.join(["isthmus", *sys.argv[1:]]))
    show(sections(measured), Console())
    typer.echo(f"\n{out}: results.md, results.json, latency.png")
