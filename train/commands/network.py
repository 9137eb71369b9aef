"""`isthmus network`: train a reference network, or take one from elsewhere.

isthmus network train --data data/rooms --task normals --out runs/normals
isthmus network import torchvision:resnet18 --weights resnet18.pth --out runs/resnet18
isthmus network layers runs/resnet18
isthmus network recover deploy/bundles/rooms --out runs/recovered
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import NonNegativeFloat

from shared.errors import DataError
from shared.files import new_folder, refuse_existing, refuse_foreign_folder
from train.commands.options import (
    Batch,
    DataChoice,
    Device,
    Force,
    Out,
    Precision,
    RecipeData,
    RecipeFile,
    Resume,
    RunOptions,
    Sets,
    Size,
    Split,
    Steps,
    TrainTable,
    Validation,
    Weights,
)
from train.commands.recipe_file import Settings, read_recipe
from train.echo import echo_once

# What the recipe itself leaves open. docs/network.toml lists every key.
DEFAULTS = {"task": "classification", "steps": 3200, "damaged": "refuse"}
MAPS_ONLY = ("label_stride", "category")  # keys that a classifier's recipe lacks

app = TrainTable(no_args_is_help=True)


@dataclass(frozen=True)
class TrainRequest:
    """One training of a network. settings: what is left for its recipe."""

    settings: Settings
    images: DataChoice
    run: RunOptions


@app.command()
def train(
    ctx: typer.Context,
    out: Out,
    data: RecipeData = None,
    validation: Validation = None,
    task: Annotated[
        str | None,
        typer.Option(help="classification (the default), normals, segmentation, depth or multilabel"),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="folder of a network whose tensors are the start, where they fit")
    ] = None,
    steps: Steps = None,
    batch: Batch = None,
    recipe: RecipeFile = None,
    sets: Sets = [],  # noqa: B006
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = "auto",
    force: Force = False,
) -> None:
    """Train a reference network, uncompressed: a classifier, or one that makes a map.

    docs/network.toml lists every setting with its default.
    """
    flags = {
        "data": data,
        "validation": validation,
        "task": task,
        "init": init,
        "steps": steps,
        "batch": batch,
    }
    settings = Settings.merge(ctx, read_recipe(recipe), sets, flags, DEFAULTS)
    images, chosen = DataChoice.pop(settings), settings.pop("task", str)
    run = RunOptions.checked(out, resume, device, precision, force)
    request = TrainRequest(settings, images, run)
    from shared.kinds import KINDS
    from train.kinds import TRAINING_KINDS

    known = [kind for kind, its in TRAINING_KINDS.items() if its.form is not None]
    if chosen not in known:
        raise DataError(f"{settings.name('task')}: {chosen!r} is not one of {', '.join(known)}")
    if KINDS[chosen].mapped:
        _train_maps(request, chosen)
    else:
        _train_classifier(request, chosen)


def _train_classifier(request: TrainRequest, chosen: str) -> None:
    from train.networks.network_recipe import NetworkRecipe
    from train.networks.train_network import train_network

    for key in MAPS_ONLY:
        if key in request.settings:
            raise DataError(f"{request.settings.name(key)}: only for tasks that make a map")
    (training,), (validation,), fixed = _open(request, [chosen])
    recipe = request.settings.recipe(
        NetworkRecipe, **fixed, task=chosen, network={"classes": len(training.names)}
    )
    run = request.run
    card = train_network(recipe, training, validation, run.out, run.resume, run.device, run.precision)
    _echo_result(run.out, card, len(validation))


def _train_maps(request: TrainRequest, chosen: str) -> None:
    from train.networks.network_recipe import DenseRecipe
    from train.networks.train_maps import train_dense

    category = request.settings.pop("category", NonNegativeFloat, optional=True) or 0.0
    kinds = [chosen, "classification"] if category else [chosen]
    (training, *categories), (validation, *_), fixed = _open(request, kinds)
    recipe = request.settings.recipe(
        DenseRecipe, **fixed, task=chosen, category=category, network={"outputs": len(training.names)}
    )
    run = request.run
    card = train_dense(
        recipe, training, validation, run.out, run.resume, run.device, run.precision, *categories
    )
    _echo_result(run.out, card, len(validation))


def _echo_result(out: Path, card: Any, images: int) -> None:
    from train.kinds import TRAINING_KINDS

    metric = TRAINING_KINDS[card.task].main
    echo_once(f"{out}: {metric.name} {metric.text(card.figures[metric.key])} on {images} held-out images")


def _open(request: TrainRequest, kinds: Sequence[Any]) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """The images to train on and to validate on, and what the recipe takes from them. Raises DataError."""
    from shared.bundle import Preprocess
    from shared.image import size_of

    images, size = request.images, request.settings.pop("size", str, optional=True)
    height, width = size_of(size) if size else (None, None)
    fitted = Preprocess(height=height, width=width) if height and width else None
    training, validation = images.open(kinds, preprocess=fitted)
    if validation[0].names != training[0].names:
        raise DataError(f"{images.validation} has other classes than {images.data}")
    height, width = training[0].size
    fixed = {"data": images.data, "validation": images.validation, "height": height, "width": width}
    return training, validation, fixed


@app.command(name="import")
def import_(
    network: Annotated[
        str,
        typer.Argument(help="torchvision:NAME, package.module:factory, or a classifier's folder"),
    ],
    out: Annotated[Path, typer.Option(help="the folder to make")],
    weights: Annotated[str | None, Weights] = None,
    split: Annotated[str | None, Split] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="what the output is; by default classification for a vector; embedding: a folder's last vector"
        ),
    ] = None,
    size: Annotated[str | None, Size] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="how images of other shapes become that size: crop, stretch or letterbox"),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="file with the name of each class, one a line")] = None,
    force: Force = False,
) -> None:
    """Put any trained network into a folder, as `isthmus network train` leaves its own."""
    from pydantic import ValidationError

    from train.networks.external_networks import is_external
    from train.networks.load import NetworkSpec, cut, learns_without_labels, load_network_spec
    from train.networks.network_folder import CARD, save_network

    if not is_external(network) and not learns_without_labels(task):
        raise DataError(f"{network!r} is neither torchvision:NAME nor package.module:factory")
    given = {"split": split, "weights": weights, "task": task, "size": size, "fit": fit, "labels": labels}
    try:
        spec = NetworkSpec.model_validate({"network": network, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(first["msg"], setting=str(first["loc"][0])) from None
    refuse_foreign_folder(out, (CARD,), force=force)
    module, card = load_network_spec(spec)
    if split is not None:
        cut(module, card)
    out.mkdir(parents=True, exist_ok=True)
    save_network(module, card, out)
    size_of = card.preprocess
    echo_once(f"{out}: {card.task}, {len(card.labels)} outputs, images of {size_of.width} x {size_of.height}")


@app.command()
def layers(
    network: Annotated[
        str, typer.Argument(help="a trained network's folder, torchvision:NAME or package.module:factory")
    ],
    size: Annotated[str | None, Size] = None,
    every: Annotated[bool, typer.Option("--all", help="also the layers at which it cannot be cut")] = False,
) -> None:
    """List a network's layers, and where it can be cut into an edge's and a cloud's half."""
    from train.commands.list_layers import show

    show(network, size, every)


@app.command()
def recover(
    bundle: Annotated[Path, typer.Argument(help="the bundle")],
    out: Annotated[Path, typer.Option(help="folder that gets a network's folder for each task")],
    force: Force = False,
) -> None:
    """Take the uncompressed networks out of a bundle's files: to measure it, or to train for its cameras."""
    from shared.bundle import Bundle
    from train.networks.from_bundle import NotRecovered, Recovered, recovered_networks
    from train.networks.network_folder import save_network

    found = list(recovered_networks(Bundle.open(bundle)))
    recovered = [one for one in found if isinstance(one, Recovered)]
    for one in recovered:  # before the first is written
        refuse_existing(out / one.name)
    refuse_foreign_folder(out, (), force=force)
    for one in recovered:
        with new_folder(out / one.name) as folder:
            save_network(one.network, one.card, folder)
        card = one.card
        echo_once(f"{out / one.name}: {card.task}, {len(card.labels)} outputs, cut after layer {card.split}")
    for missing in found:
        if isinstance(missing, NotRecovered):
            echo_once(f"{missing.name}: {missing.why}")
