"""The commands of `isthmus train` that train codecs and added tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import PositiveInt

from shared.errors import DataError
from train.commands.options import (
    DamagedFiles,
    Device,
    Holdout,
    Kind,
    Labels,
    Out,
    Precision,
    RecipeData,
    Resume,
    Size,
    Split,
    Validation,
    Weights,
)
from train.commands.recipe_file import RecipeFile, Told
from train.echo import echo_once, progress_bar

Steps = Annotated[int, typer.Option(min=1)]
Preset = Annotated[str, typer.Option(help="Sizes of the codec: small or reference.")]
PriorOf = Annotated[
    str,
    typer.Option(
        "--prior", help="Of the latent: codebook; to compare it with, [compressai-]factorised or -hyperprior."
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="Keeps the networks' features, for several runs on the same data; by default in --out."
    ),
]
Scales = Annotated[
    str,
    typer.Option(help="Of lambda, one a level, ascending, with commas; 1 is the default quality."),
]
Crop = Annotated[
    int, typer.Option(help="Feature cells of a map's piece that is compared; 0: the whole map.", min=0)
]
Flips = Annotated[bool, typer.Option(help="Mirror images too.")]
Init = Annotated[
    Path | None, typer.Option(help="A codec's run folder to start from; its scales may have been others.")
]
Share = Annotated[
    float,
    typer.Option(help="Of the steps: without any rate; then, until its weight is whole.", min=0, max=1),
]
Stride = Annotated[
    int | None,
    typer.Option(
        help="Feature cells to a cell of the latent, each way: 1, 2, 4 ...; by default as fits.", min=1
    ),
]
Width = Annotated[float, typer.Option(help="Of the codec's modules, in widths of the preset.")]
Hyper = Annotated[
    int, typer.Option(help="Hyperprior of the codebook: 2, or 1 as in trainings of before.", min=1, max=2)
]
Balance = Annotated[
    float, typer.Option(help="Power of 1 / scale with which low rates count more in the loss.", min=0, max=1)
]
NETWORK = "A folder of `isthmus train network` or `import`, torchvision:NAME or package.module:factory"
TrainAll = Annotated[bool, typer.Option("--train-all", help="Train the networks along.")]
MADE_OF = {"parts": ("network",), "qualities": ("scales",)}  # of which flags a key of the recipe is made


def single(
    ctx: typer.Context,
    out: Out,
    data: RecipeData = None,
    network: Annotated[str | None, typer.Option(help=f"{NETWORK}.")] = None,
    recipe: RecipeFile = None,
    split: Annotated[str | None, Split] = None,
    weights: Annotated[str | None, Weights] = None,
    kind: Annotated[str | None, Kind] = None,
    size: Annotated[str | None, Size] = None,
    labels: Annotated[str | None, Labels] = None,
    validation: Validation = None,
    damaged: DamagedFiles = "refuse",
    lambda_: Annotated[
        float | None, typer.Option("--lambda", help="Weight of the distortion, in bits; 10000 by default.")
    ] = None,
    scales: Scales = "1",
    steps: Steps = 6000,
    batch: Annotated[int, typer.Option(min=1)] = 64,
    learning_rate: float = 1e-3,
    preset: Preset = "small",
    stride: Stride = None,
    width: Width = 1.0,
    prior: PriorOf = "codebook",
    hyper: Hyper = 2,
    init: Init = None,
    balance: Balance = 0.0,
    distortion_first: Share = 0.1,
    rate_ramp: Share = 0.3,
    crop: Crop = 8,
    distortion: Annotated[
        str | None,
        typer.Option(
            help="task (labels), distill (the network; the default), feature, distill-hint or task-hint (feature too)."
        ),
    ] = None,
    form: Annotated[str, typer.Option(help="rd: H + lambda d;  dr: d + lambda H.")] = "rd",
    flips: Flips = True,
    train_all: TrainAll = False,
    holdout: Holdout = None,
    seed: int = 0,
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = "auto",
    features: Features = None,
) -> None:
    """Flow 1: train a codec on one network's feature."""
    if network is not None and lambda_ is None:
        lambda_ = 10000.0
    of = {"network": network, "lambda": lambda_, "distortion": distortion, "split": split}
    of |= {"weights": weights, "task": kind, "size": size, "labels": labels}
    told = Told.of(ctx, recipe, _of_recipe(ctx), MADE_OF)
    parts = _parts(told, {key: [] if value is None else [value] for key, value in of.items()})
    if len(parts) > 1:
        raise DataError(
            f"{told.name('parts')}: `train single` takes one network; `train multi` takes several"
        )
    _train(told, parts, Where(out, resume, device, precision, features))


def multi(
    ctx: typer.Context,
    out: Out,
    data: RecipeData = None,
    network: Annotated[list[str], typer.Option(help=f"{NETWORK}; once for each network.")] = [],  # noqa: B006
    recipe: RecipeFile = None,
    split: Annotated[list[str], Split] = [],  # noqa: B006
    weights: Annotated[list[str], Weights] = [],  # noqa: B006
    kind: Annotated[list[str], Kind] = [],  # noqa: B006
    size: Annotated[list[str], Size] = [],  # noqa: B006
    labels: Annotated[list[str], Labels] = [],  # noqa: B006
    validation: Validation = None,
    damaged: DamagedFiles = "refuse",
    lambda_: Annotated[
        list[float],
        typer.Option(
            "--lambda", help="Weight of its distortion, in bits; once for all or once for each network."
        ),
    ] = [],  # noqa: B006
    distortion: Annotated[
        list[str],
        typer.Option(
            help="task, distill (the default), feature, distill-hint or task-hint; once for all or for each."
        ),
    ] = [],  # noqa: B006
    name: Annotated[
        list[str], typer.Option(help="Of its task, once for each; by default what it was trained for.")
    ] = [],  # noqa: B006
    scales: Scales = "0.02,0.1,0.32,1,3.2",
    steps: Steps = 8000,
    batch: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: float = 1e-3,
    preset: Preset = "small",
    stride: Stride = None,
    width: Width = 1.0,
    prior: PriorOf = "codebook",
    hyper: Hyper = 2,
    init: Init = None,
    balance: Balance = 0.0,
    distortion_first: Share = 0.1,
    rate_ramp: Share = 0.3,
    crop: Crop = 8,
    flips: Flips = True,
    train_all: TrainAll = False,
    holdout: Holdout = None,
    seed: int = 0,
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = "auto",
    features: Features = None,
) -> None:
    """Flow 2: train one codec on the features of several networks."""
    told = Told.of(ctx, recipe, _of_recipe(ctx), MADE_OF)
    of = {"network": network, "lambda": lambda_, "distortion": distortion, "name": name, "split": split}
    of |= {"weights": weights, "task": kind, "size": size, "labels": labels}
    _train(told, _parts(told, of), Where(out, resume, device, precision, features))


def _of_recipe(ctx: typer.Context) -> dict[str, Any]:
    """The flags of `single` or `multi` that are keys of a codec's recipe, or say which pictures it sees."""
    from train.codec.codec_recipe import CodecRecipe

    keys = {*CodecRecipe.model_fields, "holdout", "damaged"} - {"parts"}
    flags = {key: value for key, value in ctx.params.items() if key in keys}
    init = flags["init"]
    return {**flags, "scales": _numbers(flags["scales"]), "init": None if init is None else str(init)}


def _parts(told: Told, flags: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """The codec's networks: those of --network or else of the file, with what the other flags say of them.

    flags: by the keys of a part, given once for all networks or once for each, or not at all.
    """
    if flags["network"]:
        parts: list[dict[str, Any]] = [{} for _ in flags["network"]]
    else:
        parts = told.take("parts", list[dict[str, Any]], "--network")
    for key, values in flags.items():
        if values and len(values) not in (1, len(parts)):
            times = f"--{key} is given {len(values)} times, for {len(parts)} networks"
            raise DataError(f"{times}; give it once or {len(parts)} times")
        for i, part in enumerate(parts if values else ()):
            part[key] = values[i % len(values)]
    return parts


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise DataError(f"--scales: {text!r} is not a list of numbers with commas between them") from None


@dataclass(frozen=True)
class Where:
    """What a training is told besides its recipe."""

    out: Path
    resume: bool
    device: str
    precision: Any
    features: Path | None


def _train(told: Told, parts: list[dict[str, Any]], where: Where) -> None:
    from train.codec.codec_recipe import LABELLED, CodecRecipe, spread
    from train.codec.evaluate_codec import format_metrics
    from train.codec.split_networks import load_networks
    from train.codec.train_codec import train_codec
    from train.data.open_dataset import open_training_data

    data, holdout, damaged = _data(told)
    scales = told.take("scales", tuple[float, ...])
    told.default("qualities", spread(len(scales)))
    recipe = told.recipe(CodecRecipe, data=data, parts=parts, scales=scales)
    cards = [network.card for network in load_networks(recipe.parts)]
    training, validation = open_training_data(
        data,
        [card.task for card in cards],
        recipe.validation,
        holdout,
        [part.distortion in LABELLED for part in recipe.parts],
        preprocess=cards[0].preprocess,
        damaged=damaged,
        labels=[card.labels for card in cards],
        progress=progress_bar,
    )
    scores = train_codec(
        recipe, training, validation, where.out, where.resume, where.device, where.features, where.precision
    )
    for quality in recipe.qualities:
        echo_once(f"{where.out}: quality {quality}: {format_metrics(scores, quality)}")
    echo_once(f"  on {len(validation[0])} pictures held out")


def _data(told: Told) -> tuple[str, int | None, Any]:
    """The set, how many of its last pictures are held out, and what is done with damaged ones."""
    holdout, damaged = (
        told.take("holdout", PositiveInt, optional=True),
        told.take("damaged", Literal["refuse", "skip"]),
    )
    return told.take("data", str), holdout, damaged


def task(
    ctx: typer.Context,
    out: Out,
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle whose bytes the task shall be answered from.")
    ] = None,
    data: RecipeData = None,
    network: Annotated[str | None, typer.Option(help=f"The new task's. {NETWORK}.")] = None,
    recipe: RecipeFile = None,
    split: Annotated[str | None, Split] = None,
    weights: Annotated[str | None, Weights] = None,
    kind: Annotated[str | None, Kind] = None,
    size: Annotated[str | None, Size] = None,
    labels: Annotated[str | None, Labels] = None,
    validation: Validation = None,
    damaged: DamagedFiles = "refuse",
    name: Annotated[str, typer.Option(help="Of the task; by default what its network was trained for.")] = "",
    distortion: Annotated[
        str,
        typer.Option(
            help="task (labels), distill (the network), feature, distill-hint or task-hint (feature too)."
        ),
    ] = "distill",
    width: Annotated[float, typer.Option(help="Of the reconstruction, in widths of the bundle's own.")] = 1.0,
    init: Annotated[
        Path | None, typer.Option(help="A task folder for the same bundle to start from, of the same width.")
    ] = None,
    steps: Steps = 6000,
    batch: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: float = 1e-3,
    crop: Crop = 8,
    flips: Flips = True,
    holdout: Holdout = None,
    seed: int = 0,
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = "auto",
    features: Features = None,
) -> None:
    """Flow 3: teach a finished bundle a new task, without a change to one byte that its edges send."""
    from train.codec.codec_recipe import LABELLED
    from train.data.open_dataset import open_training_data
    from train.loop.scores import to_json
    from train.networks.load import load_network_spec
    from train.tasks.task_recipe import TaskRecipe
    from train.tasks.train_task import train_task
    from train.tasks.trainable_head import FOLDER

    flags = {
        "data": data,
        "validation": validation,
        "damaged": damaged,
        "bundle": bundle,
        "network": network,
        "name": name,
        "split": split,
        "weights": weights,
        "task": kind,
        "size": size,
        "labels": labels,
        "distortion": distortion,
        "width": width,
        "init": None if init is None else str(init),
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "crop": crop,
        "flips": flips,
        "holdout": holdout,
        "seed": seed,
    }
    told = Told.of(ctx, recipe, flags, {"task": ("kind",)})
    of_bundle, source = told.take("bundle", Path, "BUNDLE"), told.take("network", str)
    rooms, held, skip = _data(told)
    chosen = told.recipe(TaskRecipe, data=rooms, bundle=str(of_bundle), network=source)
    card = load_network_spec(chosen)[1]
    (training,), (checked,) = open_training_data(
        rooms,
        [card.task],
        chosen.validation,
        held,
        [chosen.distortion in LABELLED],
        preprocess=card.preprocess,
        damaged=skip,
        labels=[card.labels],
        progress=progress_bar,
    )
    scores = train_task(chosen, training, checked, out, resume, device, features, precision)
    for key, value in to_json(scores).items():
        echo_once(f"  {key:24} {value:.4g}")
    echo_once(f"{out / FOLDER}: add it with: isthmus cloud add-task {of_bundle} {out / FOLDER}")
