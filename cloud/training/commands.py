"""`isthmus train ...`: a data set, a network, a codec, a bundle, its figures; in this order.

isthmus train rooms data/rooms --count 21000
isthmus train network --data data/rooms --out runs/network
isthmus train single --data data/rooms --network runs/network --out runs/codec
isthmus train build runs/codec --data data/rooms --out my-bundle
isthmus train evaluate my-bundle --network runs/network --data data/rooms-test
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from shared.errors import DataError
from shared.types import Frozen


class OneLine(TyperGroup):
    """Tells what the file system refuses as a user's error, whichever command met it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise DataError(f"{where}{error.strerror or error}") from None


app = typer.Typer(cls=OneLine, help="Train networks and codecs, and build bundles.", no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="A set that `isthmus train rooms` wrote.")]
Out = Annotated[Path, typer.Option(help="Run folder: recipe, checkpoints, curves, result.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")]
Device = Annotated[str, typer.Option(help="torch's name of it; auto takes a GPU where there is one.")]
Holdout = Annotated[int, typer.Option(help="The last rooms of the set are for validation.", min=1)]

Recipe = TypeVar("Recipe", bound=Frozen)


@app.command()
def rooms(
    out: Annotated[Path, typer.Argument(help="Folder of the set.")],
    count: Annotated[int, typer.Option(help="How many rooms.", min=1)] = 21000,
    first_seed: Annotated[int, typer.Option(help="Seeds run on from here.", min=0)] = 0,
    size: Annotated[int, typer.Option(help="Pixels, high and wide.", min=16, max=4096)] = 256,
    layers: Annotated[str, typer.Option(help="Of image,normals,semantic,depth,category.")] = "image,category",
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Render a set of rooms to disk; run again to finish what was killed."""
    from rich.progress import Progress

    from cloud.training.rooms import write_rooms

    with Progress() as bar:
        task = bar.add_task("rooms", total=count)
        try:
            write_rooms(
                out,
                range(first_seed, first_seed + count),
                height=size,
                width=size,
                layers=tuple(layers.split(",")),
                shard_size=250,
                workers=workers,
                progress=lambda done, total: bar.update(task, completed=done),
            )
        except ValueError as error:
            raise DataError(str(error)) from None


@app.command()
def network(
    data: Data,
    out: Out,
    task: Annotated[str, typer.Option(help="classification, normals or segmentation.")] = "classification",
    steps: Annotated[int, typer.Option(min=1)] = 3200,
    batch: Annotated[int, typer.Option(min=1)] = 48,
    learning_rate: float = 2e-3,
    stride: Annotated[int, typer.Option(help="Pixels a feature cell is wide and high.")] = 16,
    feature_channels: int = 8,
    label_stride: Annotated[
        int, typer.Option(help="For maps; 2 computes the loss at a quarter of the pixels.", min=1, max=2)
    ] = 1,
    holdout: Holdout = 1000,
    seed: int = 0,
    resume: Resume = False,
    device: Device = "auto",
) -> None:
    """Train a reference network, uncompressed: a classifier, or one that makes a map."""
    values: dict[str, Any] = {
        "data": str(data),
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    asked = NetworkAsked(
        values, {"stride": stride, "feature_channels": feature_channels}, data, holdout, out, resume, device
    )
    if task == "classification":
        if label_stride != 1:
            raise DataError("--label-stride: only for --task normals or segmentation")
        _train_classifier(asked)
    else:
        _train_dense(asked, task, label_stride)


@dataclass(frozen=True)
class NetworkAsked:
    """What `train network` is asked for, whatever the task. values: of the recipe; front: of the network."""

    values: dict[str, Any]
    front: dict[str, int]
    data: Path
    holdout: int
    out: Path
    resume: bool
    device: str


def _train_classifier(asked: NetworkAsked) -> None:
    from cloud.models.networks import ClassifierConfig
    from cloud.training.data import Rooms
    from cloud.training.network import NetworkRecipe, train_network

    training, validation = Rooms(asked.data, 0, -asked.holdout), Rooms(asked.data, -asked.holdout)
    height, width = training.size
    config = _recipe(ClassifierConfig, classes=len(training.names), **asked.front)
    recipe = _recipe(NetworkRecipe, **asked.values, height=height, width=width, network=config)
    card = train_network(recipe, training, validation, asked.out, asked.resume, asked.device)
    typer.echo(f"{asked.out}: top-1 {card.figures['top1']:.1%} on {len(validation)} rooms held out")


def _train_dense(asked: NetworkAsked, task: str, label_stride: int) -> None:
    from cloud.models.networks import DenseConfig
    from cloud.training.data import DenseRooms, DenseTask
    from cloud.training.dense import DenseRecipe, train_dense

    known = get_args(DenseTask)
    if task not in known:
        raise DataError(f"--task: {task!r} is not one of classification, {', '.join(known)}")
    training = DenseRooms(asked.data, task, 0, -asked.holdout)
    validation = DenseRooms(asked.data, task, -asked.holdout)
    height, width = training.size
    config = _recipe(DenseConfig, outputs=len(training.names), **asked.front)
    recipe = _recipe(
        DenseRecipe,
        **asked.values,
        task=task,
        label_stride=label_stride,
        height=height,
        width=width,
        network=config,
    )
    figures = train_dense(recipe, training, validation, asked.out, asked.resume, asked.device).figures
    if task == "normals":
        told = f"mean angular error {figures['mean_deg']:.2f} degrees, median {figures['median_deg']:.2f}"
    else:
        told = f"mIoU {figures['miou']:.3f}, pixel accuracy {figures['pixel_accuracy']:.1%}"
    typer.echo(f"{asked.out}: {told} on {len(validation)} rooms held out")


@app.command()
def single(
    data: Data,
    network: Annotated[Path, typer.Option(help="A folder that `isthmus train network` made.")],
    out: Out,
    lambda_: Annotated[float, typer.Option("--lambda", help="Weight of the distortion, in bits.")] = 10000.0,
    steps: Annotated[int, typer.Option(min=1)] = 6000,
    batch: Annotated[int, typer.Option(min=1)] = 64,
    learning_rate: float = 1e-3,
    preset: Annotated[str, typer.Option(help="Sizes of the codec: small or reference.")] = "small",
    distortion: Annotated[
        str, typer.Option(help="task (labels), distill (the network) or feature.")
    ] = "distill",
    form: Annotated[str, typer.Option(help="rd: H + lambda d;  dr: d + lambda H.")] = "rd",
    split: Annotated[
        int | None, typer.Option(help="Layers in the front; the network's own if absent.")
    ] = None,
    flips: Annotated[bool, typer.Option(help="Mirror images too.")] = True,
    train_all: Annotated[bool, typer.Option("--train-all", help="Train the network along.")] = False,
    holdout: Holdout = 1000,
    seed: int = 0,
    resume: Resume = False,
    device: Device = "auto",
) -> None:
    """Flow 1: train a codec on one network's feature."""
    from cloud.training.data import Rooms
    from cloud.training.single import SingleRecipe, train_single

    recipe = _recipe(
        SingleRecipe,
        data=str(data),
        network=str(network),
        split=split,
        preset=preset,
        distortion=distortion,
        form=form,
        lambda_=lambda_,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        flips=flips,
        train_all=train_all,
        seed=seed,
    )
    figures = train_single(recipe, Rooms(data, 0, -holdout), Rooms(data, -holdout), out, resume, device)
    typer.echo(
        f"{out}: top-1 {figures['top1']:.1%} ({figures['top1_uncompressed']:.1%} uncompressed) at "
        f"{figures['bytes_v'] + figures['bytes_z']:.0f} bytes a picture, on {holdout} rooms held out"
    )


@app.command()
def build(
    run: Annotated[Path, typer.Argument(help="A run folder of `isthmus train single`.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The bundle to make.")],
    name: Annotated[str | None, typer.Option(help="Its name; that of the folder if absent.")] = None,
    pictures: Annotated[int, typer.Option(help="Held-out rooms to calibrate and report on.", min=1)] = 1000,
    quality: Annotated[int, typer.Option(help="The level that bitstreams will name.", min=0, max=100)] = 50,
    weight_bits: Annotated[int, typer.Option(min=4, max=16)] = 12,
    activation_bits: Annotated[int, typer.Option(min=4, max=16)] = 12,
) -> None:
    """Make a bundle of a trained codec, and report what its integers cost."""
    from cloud.training.build import build as make
    from cloud.training.data import Rooms
    from cloud.training.quantise import Precision
    from shared.codec.exact import InexactError

    precision = Precision(weight_bits, activation_bits)
    licences = {"weights": "Apache-2.0", "training data": "rooms, rendered by this project, Apache-2.0"}
    try:
        report = make(
            run,
            out,
            name or out.name,
            Rooms(data, -pictures),
            quality=quality,
            precision=precision,
            licences=licences,
        )
    except InexactError as error:
        raise DataError(f"{error} (--weight-bits, --activation-bits)") from None
    typer.echo(f"{out}: means over {report.pictures} pictures; {report.decoded} decoded to exactly their z")
    rows = [
        ("float model", report.float_bits_v / 8, report.float_bits_z / 8, ""),
        (
            "integer model",
            report.integer_bits_v / 8,
            report.integer_bits_z / 8,
            f"{report.integer_excess:+.2%}",
        ),
        ("written", report.bytes_v, report.bytes_z, f"{report.coded_excess:+.2%}"),
    ]
    for label, b_v, b_z, excess in rows:
        typer.echo(f"  {label:14} b_v {b_v:7.2f}  b_z {b_z:7.2f}  together {b_v + b_z:7.2f} bytes  {excess}")
    typer.echo(f"  with container {report.bytes_total:.2f} bytes")
    for layer, (bound, kind) in report.bounds.items():
        typer.echo(f"  {layer:12} partial sums <= {bound:>18,}  exact in {kind}")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    network: Annotated[Path, typer.Option(help="The uncompressed network to compare with.")],
    data: Data,
    count: Annotated[int | None, typer.Option(help="Only the first rooms of the set.", min=1)] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put the figures into the bundle's manifest.")
    ] = False,
) -> None:
    """Top-1 and true bytes of a bundle, beside the uncompressed network."""
    from cloud.training.build import add_figures
    from cloud.training.data import Rooms
    from cloud.training.evaluate import evaluate_bundle
    from shared.bundle import Bundle

    result = evaluate_bundle(Bundle.open(bundle), network, Rooms(data, 0, count))
    for name, value in result.model_dump().items():
        typer.echo(f"  {name:18} {value:.4g}" if isinstance(value, float) else f"  {name:18} {value}")
    if write:
        add_figures(bundle, {"evaluation": result.model_dump(mode="json")})


def _recipe(kind: type[Recipe], **values: Any) -> Recipe:
    """A recipe from flags; an error names the flag."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        flag = str(first["loc"][0] if first["loc"] else "value").strip("_").replace("_", "-")
        raise DataError(f"--{flag}: {first['msg']}") from None
