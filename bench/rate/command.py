"""`isthmus bench rate`: bytes against every task's quality, Isthmus beside what people would use instead.

BUNDLE, its uncompressed networks and a data set -> ways -> measure -> findings -> report, all in one run. Each way's
figures are kept in RUN/parts, so that an interrupted run goes on with the next way.
"""

from __future__ import annotations

import datetime
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from shared.errors import DataError
from train.commands.options import SPEC, Device

if TYPE_CHECKING:
    from bench.rate.contenders import Networks, Way
    from bench.report.sections import Section
    from shared.bundle import Bundle

QUICK = 8  # pictures

T = TypeVar("T")


def rate(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    data: Annotated[str, typer.Option(help=f"Pictures: {SPEC}.")],
    network: Annotated[list[str], typer.Option(help="The uncompressed network of a task; one for each.")],
    out: Annotated[Path, typer.Option(help="Run folder of the results.")],
    peer: Annotated[
        list[str], typer.Option(help="NAME=RUN: another codec, a run of `isthmus train single` or `multi`.")
    ] = [],  # noqa: B006
    count: Annotated[int | None, typer.Option(help="Only the first pictures of the set.", min=1)] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Only {QUICK} pictures and a few settings of each way.")
    ] = False,
    agreement: Annotated[
        bool,
        typer.Option("--agreement", help="With the uncompressed networks, also where the set has labels."),
    ] = False,
    device: Device = "auto",
) -> None:
    """Bytes against task quality: Isthmus, image codecs, coded features and learned codecs on one data set.

    What was measured for the same weights and pictures is not measured again.
    """
    import matplotlib  # noqa: F401  so that a missing one is told before hours of measuring
    from rich.console import Console

    from bench.report.report import show

    command = shlex.join(["isthmus", *sys.argv[1:]])
    sections = bench_rate(bundle, network, data, out, peer, count, quick, command, device, agreement)
    show(sections, Console())
    typer.echo(f"\n{out}: rate.html, results.md, results.json, rate.csv, rate.png")


def bench_rate(
    folder: Path,
    networks: Sequence[str],
    data: str,
    out: Path,
    peers: Sequence[str],
    count: int | None,
    quick: bool,
    command: str,
    device: str,
    agreement: bool = False,
) -> list[Section]:
    """Measure, and write the report to `out`. Raises IsthmusError."""
    from bench.rate.contenders import MeasuredWay, Networks, measure_way
    from bench.rate.findings import Race, findings
    from bench.rate.rate_report import write_report
    from bench.report.report import About, this_machine
    from bench.rooms.measure import kept
    from shared.bundle import Bundle
    from train.data.dataset import Dataset, Unlabelled, identity, labels_digest
    from train.data.open_dataset import open_datasets
    from train.loop.run import training_device
    from train.loop.scoring import labelled

    bundle = Bundle.open(folder)
    uncompressed = Networks(bundle, networks, training_device(device))
    kinds = uncompressed.kinds
    count = min(count or QUICK, QUICK) if quick else count
    opened = open_datasets(
        data,
        list(kinds.values()),
        0,
        count,
        [False] * len(kinds),
        preprocess=uncompressed.preprocess,
        labels=[bundle.task(name).labels for name in kinds],
    )
    views: dict[str, Dataset] = dict(zip(kinds, opened, strict=True))
    if agreement:
        views = {name: Unlabelled(view) for name, view in views.items()}
    with_labels = {name for name, view in views.items() if labelled(view)}
    labels = {name: labels_digest(views[name]) for name in sorted(with_labels)}
    on = {"networks": uncompressed.of(), "labels": labels, **identity(opened[0])}
    measured = [
        kept(
            out / "parts" / f"{re.sub(r'[^A-Za-z0-9]+', '-', way.name)}.json",
            {**on, "name": way.name, "way": way.of()},
            MeasuredWay,
            lambda way=way: measure_way(way, uncompressed, views),  # type: ignore[misc]
        )
        for way in list(_ways(bundle, uncompressed, peers, device, quick))
    ]
    race = Race(measured, kinds, with_labels, f"quality {bundle.quality(None)}")
    sections = findings(race)
    about = About(
        command=command,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        pictures=len(opened[0]),
        machine=this_machine(),
    )
    write_report(out, race, sections, about)
    return sections


def _ways(
    bundle: Bundle, networks: Networks, peers: Sequence[str], device: str, quick: bool
) -> Iterator[Way]:
    """In the order in which they are measured. Raises DataError, for all peers before anything is measured."""
    from bench.rate.contenders import BITS, QPS, ImageWay, IsthmusWay, LearnedWay, hybrid_way, raw_way
    from bench.rate.image_codecs import IMAGE_CODECS, LOSSLESS
    from train.loop.run import training_device

    place = training_device(device)
    learned = [LearnedWay(name, run, bundle, place) for name, run in map(_peer, peers)]
    taken = {"Isthmus", *(codec.name for codec in IMAGE_CODECS)}
    for one in learned:
        if one.name in taken:
            raise DataError(f"--peer {one.name}: the name is taken; choose another")
        taken.add(one.name)
    yield ImageWay(LOSSLESS, networks, family="uncompressed")
    yield IsthmusWay(bundle, str(place))
    yield from learned
    yield raw_way(networks)
    yield hybrid_way(networks, *map(_few, (BITS, QPS))) if quick else hybrid_way(networks)
    for codec in IMAGE_CODECS:
        yield ImageWay(replace(codec, ladder=_few(codec.ladder)) if quick else codec, networks)


def _peer(given: str) -> tuple[str, Path]:
    """Raises DataError."""
    name, equals, run = given.partition("=")
    if not (name and equals and run):
        raise DataError(f"--peer {given!r} is not NAME=RUN, as in hyperprior=runs/hyperprior")
    return name, Path(run)


def _few(ladder: Sequence[T]) -> tuple[T, ...]:
    """The first, middle and last of it."""
    return ladder[0], ladder[len(ladder) // 2], ladder[-1]
