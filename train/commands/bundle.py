"""`isthmus bundle build|calibrate|evaluate`: make a bundle from a trained codec, and measure it.

isthmus bundle build runs/codec --data data/rooms --out my-bundle
isthmus bundle calibrate my-bundle --network runs/network --data data/rooms
isthmus bundle evaluate my-bundle --network runs/network --data data/rooms-test
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import DataError
from train.commands.options import COUNT_MAX, DamagedFiles, Data, TrainTable
from train.echo import progress_bar

if TYPE_CHECKING:
    from shared.bundle import Bundle
    from train.bundle.evaluate import Evaluation
    from train.bundle.size_report import Report

app = TrainTable(no_args_is_help=True)


@app.command()
def build(
    run: Annotated[Path, typer.Argument(help="a run folder of `isthmus codec train`")],
    data: Data,
    out: Annotated[Path, typer.Option(help="the bundle to make")],
    name: Annotated[str | None, typer.Option(help="the bundle's name; by default its folder's")] = None,
    images: Annotated[
        int,
        typer.Option(help="how many images to calibrate with, from the end of the set", min=1, max=COUNT_MAX),
    ] = 1000,
    default_quality: Annotated[
        int | None,
        typer.Option(
            help="quality used where a request names none; by default the level of scale 1", min=0, max=100
        ),
    ] = None,
    hold: Annotated[
        float | None,
        typer.Option(
            help="how far beyond half a step an element of z may lie from that of an earlier frame and be kept, unless "
            "an edge sets it; 0.3 by default. `isthmus bench video` measures it",
            min=0,
            max=4,
        ),
    ] = None,
    weight_bits: Annotated[int, typer.Option(help="bits of an integer weight", min=4, max=16)] = 12,
    activation_bits: Annotated[int, typer.Option(help="bits of an integer activation", min=4, max=16)] = 12,
    licence: Annotated[
        list[str],
        typer.Option(
            help="licence of the weights, for the manifest, or WHAT=LICENCE of what they were made of; repeatable. "
            "Rooms and what learns from them: Apache-2.0"
        ),
    ] = [],  # noqa: B006
    half: Annotated[
        bool, typer.Option("--half", help="round the networks' and transforms' weights to 16 bits")
    ] = False,
    eight_bit_tails: Annotated[
        bool,
        typer.Option(
            "--eight-bit-tails", help="round the tails' weights to 8 bits and a scale for each output"
        ),
    ] = False,
    stretch: Annotated[
        list[str],
        typer.Option(
            help="TASK=FACTOR: enlarge a decoded feature's contrast, which rounding takes; repeatable"
        ),
    ] = [],  # noqa: B006
    damaged: DamagedFiles = "refuse",
) -> None:
    """Make a bundle of a trained codec, and report what its integers cost on held-out images."""
    from shared.codec.exact import InexactError
    from train.bundle.build import build as make
    from train.codec.fixed_point import BitWidths
    from train.codec.split_networks import cards_of
    from train.data.open_dataset import open_datasets

    if out.exists():
        raise DataError(f"{out} exists already; delete it, or choose another", setting="out")
    card = cards_of(run)[0]
    (dataset,) = open_datasets(
        data,
        [card.task],
        -images,
        None,
        [False],
        preprocess=card.preprocess,
        damaged=damaged,
        progress=progress_bar,
    )
    try:
        report = make(
            run,
            out,
            name or out.name,
            dataset,
            default_quality=default_quality,
            hold=hold,
            precision=BitWidths(weight_bits, activation_bits),
            licences=_licences(licence),
            half=half,
            eight_bit_tails=eight_bit_tails,
            factors=_factors(stretch),
        )
    except InexactError as error:
        raise DataError(f"{error}; use fewer bits (--weight-bits, --activation-bits)") from None
    for line in _format_report(report, out):
        typer.echo(line)


def _licences(given: Sequence[str]) -> dict[str, str]:
    """Licences by what they are of; without "=" of the weights. Raises DataError."""
    out: dict[str, str] = {}
    for text in given:
        what, equals, licence = text.partition("=")
        what, licence = (what.strip(), licence.strip()) if equals else ("weights", text.strip())
        if not what or not licence:
            raise DataError(f"{text!r} is no licence; give it as WHAT=LICENCE", setting="licence")
        if what in out:
            raise DataError(f"two licences of {what} are given", setting="licence")
        out[what] = licence
    return {"weights": "not stated", **out}


def _factors(given: Sequence[str]) -> dict[str, float]:
    """Factors by task. Raises DataError."""
    out: dict[str, float] = {}
    for text in given:
        task, _, factor = text.partition("=")
        try:
            out[task] = float(factor)
        except ValueError:
            raise DataError(f"{text!r} is not TASK=FACTOR, as in normals=1.05", setting="stretch") from None
    return out


def _format_report(report: Report, out: Path) -> Iterator[str]:
    yield f"{out}: means over {report.pictures} images"
    for quality, level in report.levels.items():
        yield f" quality {quality}: {level.decoded} decoded to exactly their z"
        rows = [
            ("float model", level.float_bits_v / 8, level.float_bits_z / 8, ""),
            (
                "integer model",
                level.integer_bits_v / 8,
                level.integer_bits_z / 8,
                f"{level.integer_excess:+.2%}",
            ),
            ("written", level.bytes_v, level.bytes_z, f"{level.coded_excess:+.2%}"),
        ]
        for label, b_v, b_z, excess in rows:
            yield f"  {label:14} b_v {b_v:7.2f}  b_z {b_z:7.2f}  together {b_v + b_z:7.2f} bytes  {excess}"
        yield f"  with container {level.bytes_total:.2f} bytes"
    for layer, (bound, kind) in report.bounds.items():
        yield f"  {layer:12} partial sums <= {bound:>18,}  exact in {kind}"


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="the bundle")],
    data: Data,
    network: Annotated[
        list[Path],
        typer.Option(help="uncompressed network to compare with, for the task of its kind; repeatable"),
    ] = [],  # noqa: B006
    quality: Annotated[
        list[int],
        typer.Option(help="quality to measure, repeatable; by default the bundle's levels", min=0, max=100),
    ] = [],  # noqa: B006
    count: Annotated[
        int | None, typer.Option(help="only the first images of the set", min=1, max=COUNT_MAX)
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="put the figures into the bundle's manifest")
    ] = False,
    key: Annotated[
        str, typer.Option("--as", help="with --write: name of the figures there, one for each set of images")
    ] = "evaluation",
    damaged: DamagedFiles = "refuse",
) -> None:
    """Measure every task of a bundle and its true bytes, next to the uncompressed networks and their agreement."""
    from shared.bundle import Bundle
    from train.bundle.evaluate import evaluate_bundle
    from train.bundle.manifest import add_figures
    from train.data.open_dataset import open_datasets

    opened = Bundle.open(bundle)
    networks = _networks_by_task(opened, network)
    datasets = open_datasets(
        data,
        [task.kind for task in opened.tasks],
        0,
        count,
        [task.name not in networks for task in opened.tasks],
        preprocess=opened.manifest.preprocess,
        damaged=damaged,
        labels=[task.labels for task in opened.tasks],
        progress=progress_bar,
    )
    names = [task.name for task in opened.tasks]
    result = evaluate_bundle(opened, dict(zip(names, datasets, strict=True)), networks, quality or None)
    for line in _format_evaluation(result):
        typer.echo(line)
    if write:
        add_figures(bundle, {key: result.model_dump(mode="json")})


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="the bundle")],
    data: Data,
    network: Annotated[
        list[Path],
        typer.Option(help="uncompressed network to compare with, for the task of its kind; repeatable"),
    ],
    count: Annotated[
        int | None, typer.Option(help="only the first images of the set", min=1, max=COUNT_MAX)
    ] = None,
    damaged: DamagedFiles = "refuse",
) -> None:
    """Choose the temperature of a bundle's classes, so that their scores are probabilities; no labels are needed."""
    from shared.bundle import Bundle
    from train.bundle.calibrate import calibrate as choose
    from train.data.open_dataset import open_datasets

    opened = Bundle.open(bundle)
    networks = _networks_by_task(opened, network)
    tasks = [task for task in opened.tasks if task.name in networks]
    datasets = open_datasets(
        data,
        [task.kind for task in tasks],
        0,
        count,
        [False] * len(tasks),
        preprocess=opened.manifest.preprocess,
        damaged=damaged,
        progress=progress_bar,
    )
    named = {task.name: dataset for task, dataset in zip(tasks, datasets, strict=True)}
    for task, found in choose(opened, named, networks).items():
        typer.echo(
            f"{task}: temperature {found.temperature:.3f}; divergence from the uncompressed network "
            f"{found.before:.4f} -> {found.after:.4f} on {found.images} images"
        )


def _networks_by_task(bundle: Bundle, folders: Sequence[Path]) -> Mapping[str, Path]:
    """The folder of each task's network. Raises DataError where one does not fit the bundle, or two do one task."""
    from shared.kinds import KINDS
    from train.networks.network_folder import load_network

    found: dict[str, Path] = {}
    for folder in folders:
        card = load_network(folder)[1]
        if card.preprocess != bundle.manifest.preprocess:
            raise DataError(
                f"{folder} prepares images in another way than {bundle.path} (size or crop)",
                setting="network",
            )
        alike = [task for task in bundle.tasks if task.kind == card.task]
        fitting = [task for task in alike if not KINDS[task.kind].named or task.labels == card.labels]
        if alike and not fitting:
            names = ", ".join(task.name for task in alike)
            raise DataError(f"{folder} has other classes than the bundle's task {names}", setting="network")
        for task in fitting:
            if task.name in found:
                raise DataError(
                    f"{folder}: {found[task.name]} is a network for {task.name} already", setting="network"
                )
            found[task.name] = folder
    return found


def _format_evaluation(result: Evaluation) -> Iterator[str]:
    yield f"{result.pictures} images"
    rows = [("uncompressed", "", result.uncompressed)]
    rows += [(f"quality {q}", f"{rate.bytes_mean:.1f} bytes", rate.tasks) for q, rate in result.rates.items()]
    for label, size, tasks in rows:
        metrics = "; ".join(
            f"{task} " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            for task, figures in tasks.items()
        )
        yield f"  {label:13} {size:12} {metrics}"
