"""`isthmus train ...`: a data set, a network, a codec, a bundle, its figures; in this order.

isthmus train rooms data/rooms --count 21000
isthmus train network --data data/rooms --out runs/network
isthmus train import torchvision:resnet18 --weights resnet18.pth --out runs/resnet18
isthmus train single --data data/rooms --network runs/network --out runs/codec
isthmus train multi --data data/rooms --network runs/network --network runs/normals --lambda 10000 --out runs/codec
isthmus train build runs/codec --data data/rooms --out my-bundle
isthmus train task my-bundle --data data/rooms --network runs/segmentation --out runs/task
isthmus train evaluate my-bundle --network runs/network --data data/rooms-test
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from pydantic import NonNegativeFloat, PositiveInt
from typer.core import TyperGroup

from shared.errors import DataError
from shared.image import size_of
from shared.process.commands import CommandTable
from train.commands.bundle_commands import build, evaluate, import_, recover
from train.commands.codec_commands import multi, single, task
from train.commands.options import (
    DamagedFiles,
    Device,
    Holdout,
    Out,
    Precision,
    RecipeData,
    Resume,
    Validation,
)
from train.commands.recipe_file import RecipeFile, Told
from train.echo import echo_once, log_echoed, progress_bar

if TYPE_CHECKING:
    from shared.types import TaskKind
    from train.data.dataset import Dataset


class OneLine(TyperGroup):
    """Tells what the file system refuses as a user's error, whichever command met it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with log_echoed():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise DataError(f"{where}{error.strerror or error}") from None


app = CommandTable(cls=OneLine, help="Train networks and codecs, and build bundles.", no_args_is_help=True)


@app.command()
def rooms(
    out: Annotated[Path, typer.Argument(help="Folder of the set.")],
    count: Annotated[int, typer.Option(help="How many rooms.", min=1)] = 21000,
    first_seed: Annotated[int, typer.Option(help="Seeds run on from here.", min=0)] = 0,
    size: Annotated[int, typer.Option(help="Pixels, high and wide.", min=16, max=4096)] = 256,
    layers: Annotated[str, typer.Option(help="Of image,normals,semantic,depth,category.")] = "image,category",
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Render a set of rooms to disk; run again to finish one that was interrupted."""
    from rich.progress import Progress

    from train.rooms import write_rooms

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
    ctx: typer.Context,
    out: Out,
    data: RecipeData = None,
    task: Annotated[str, typer.Option(help="classification, normals or segmentation.")] = "classification",
    recipe: RecipeFile = None,
    steps: Annotated[int, typer.Option(min=1)] = 3200,
    batch: Annotated[int, typer.Option(min=1)] = 48,
    learning_rate: float = 2e-3,
    stride: Annotated[int, typer.Option(help="Pixels a feature cell is wide and high.")] = 16,
    feature_channels: int = 8,
    label_stride: Annotated[
        int, typer.Option(help="For maps; 2 computes the loss at a quarter of the pixels.", min=1, max=2)
    ] = 1,
    init: Annotated[
        Path | None, typer.Option(help="Another network's folder, whose tensors are taken where they fit.")
    ] = None,
    freeze: Annotated[
        int, typer.Option(help="So many layers, from the input on, stay as --init gives them.", min=0)
    ] = 0,
    appearance: Annotated[
        float,
        typer.Option(
            help="Weight of rebuilding the picture from the feature, so that it serves tasks that come later.",
            min=0,
        ),
    ] = 0.0,
    category: Annotated[
        float,
        typer.Option(
            help="For maps of rooms; weight of telling a room's category from the feature's cells.", min=0
        ),
    ] = 0.0,
    noise: Annotated[
        float, typer.Option(help="Noise on the feature in training, in standard deviations.", min=0)
    ] = 0.0,
    validation: Validation = None,
    holdout: Holdout = None,
    damaged: DamagedFiles = "refuse",
    size: Annotated[
        str | None,
        typer.Option(help="HEIGHTxWIDTH that pictures are fitted to; by default the first one's size."),
    ] = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Train on pictures at 0.75 to 1.5 of their size, cut anywhere.")
    ] = False,
    seed: int = 0,
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Train a reference network, uncompressed: a classifier, or one that makes a map."""
    from train.data.augment import SCALES
    from train.networks.network_recipe import DenseRecipe

    flags = {
        "data": data,
        "task": task,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "network": {"stride": stride, "feature_channels": feature_channels},
        "label_stride": label_stride,
        "init": None if init is None else str(init),
        "freeze": freeze,
        "appearance": appearance,
        "category": category,
        "noise": noise,
        "validation": validation,
        "holdout": holdout,
        "damaged": damaged,
        "size": size,
        "augment": SCALES if augment else None,
        "seed": seed,
    }
    told = Told.of(ctx, recipe, flags)
    data = NetworkData(
        told.take("data", str),
        told.take("validation", str, optional=True),
        told.take("holdout", PositiveInt, optional=True),
        told.take("damaged", Literal["refuse", "skip"]),
        told.take("size", str, optional=True),
    )
    asked = NetworkAsked(told, data, out, resume, device, precision)
    chosen = told.take("task", str)
    for_maps = {
        "label_stride": told.take("label_stride", Literal[1, 2]),
        "category": told.take("category", NonNegativeFloat),
    }
    if chosen == "classification":
        for key, value in for_maps.items():
            if value != DenseRecipe.model_fields[key].default:
                raise DataError(f"{told.name(key)}: only for --task normals or segmentation")
        _train_classifier(asked)
    else:
        _train_dense(asked, chosen, for_maps)


@dataclass(frozen=True)
class NetworkData:
    """Which pictures a network trains on, and which it is validated on. size: HEIGHTxWIDTH."""

    data: str
    validation: str | None
    holdout: int | None
    damaged: Literal["refuse", "skip"]
    size: str | None

    def open(self, *kinds: TaskKind) -> tuple[list[Dataset], list[Dataset]]:
        """The images to train on and those held out, of one size, once for each kind of labels. Raises DataError."""
        from shared.bundle import Preprocess
        from train.data.open_dataset import open_training_data

        size = None if self.size is None else size_of(self.size)
        training, held_out = open_training_data(
            self.data,
            kinds,
            self.validation,
            self.holdout,
            preprocess=None if size is None else Preprocess(height=size[0], width=size[1]),
            damaged=self.damaged,
            progress=progress_bar,
        )
        if held_out[0].names != training[0].names:
            raise DataError(f"{self.validation} has other classes than {self.data}")
        return training, held_out


@dataclass(frozen=True)
class NetworkAsked:
    """What `train network` is asked for, whatever the task. told: what is left for the recipe."""

    told: Told
    data: NetworkData
    out: Path
    resume: bool
    device: str
    precision: Any


def _train_classifier(asked: NetworkAsked) -> None:
    from train.networks.network_recipe import NetworkRecipe
    from train.networks.train_network import train_network

    (training,), (validation,) = asked.data.open("classification")
    height, width = training.size
    recipe = asked.told.recipe(
        NetworkRecipe,
        data=asked.data.data,
        validation=asked.data.validation,
        height=height,
        width=width,
        network={"classes": len(training.names)},
    )
    card = train_network(recipe, training, validation, asked.out, asked.resume, asked.device, asked.precision)
    echo_once(f"{asked.out}: top-1 {card.figures['top1']:.1%} on {len(validation)} pictures held out")


def _train_dense(asked: NetworkAsked, chosen: str, for_maps: dict[str, Any]) -> None:
    from train.data.dataset import DenseTask
    from train.networks.network_recipe import DenseRecipe
    from train.networks.train_maps import train_dense

    known = get_args(DenseTask)
    if chosen not in known:
        where = asked.told.name("task")
        raise DataError(f"{where}: {chosen!r} is not one of classification, {', '.join(known)}")
    kinds = (chosen, *(("classification",) if for_maps["category"] else ()))
    (training, *categories), (validation, *_) = asked.data.open(*kinds)
    height, width = training.size
    recipe = asked.told.recipe(
        DenseRecipe,
        data=asked.data.data,
        validation=asked.data.validation,
        task=chosen,
        **for_maps,
        height=height,
        width=width,
        network={"outputs": len(training.names)},
    )
    figures = train_dense(
        recipe, training, validation, asked.out, asked.resume, asked.device, asked.precision, *categories
    ).figures
    if chosen == "normals":
        told = f"mean angular error {figures['mean_deg']:.2f} degrees, median {figures['median_deg']:.2f}"
    else:
        told = f"mIoU {figures['miou']:.3f}, pixel accuracy {figures['pixel_accuracy']:.1%}"
    echo_once(f"{asked.out}: {told} on {len(validation)} pictures held out")


for command in (single, multi, task, build, evaluate, recover):
    app.command()(command)
app.command(name="import")(import_)
