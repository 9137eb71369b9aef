"""`isthmus codec`: train a codec for the features of one or several networks.

isthmus codec train --data data/rooms --network runs/network --network runs/normals --lambda 10000 --out runs/codec
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.errors import DataError
from train.commands.options import (
    NETWORK,
    Batch,
    DataChoice,
    Device,
    Features,
    Force,
    Out,
    Precision,
    RecipeData,
    RecipeFile,
    Resume,
    RunOptions,
    Sets,
    Split,
    Steps,
    TrainTable,
    Validation,
    Weights,
)
from train.commands.recipe_file import Settings, read_recipe
from train.echo import echo_once

# What the recipe itself leaves open, or has another default for because older runs lack the key. docs/codec.toml lists
# every key.
DEFAULTS: dict[str, Any] = {
    "scales": [0.02, 0.1, 0.32, 1.0, 3.2],
    "steps": 8000,
    "batch": 32,
    "hyper": 2,
    "damaged": "refuse",
}
LAMBDA = 10_000.0  # of a network for which none is given

app = TrainTable(no_args_is_help=True)


@app.command()
def train(
    ctx: typer.Context,
    out: Out,
    data: RecipeData = None,
    validation: Validation = None,
    network: Annotated[list[str], typer.Option(help=f"{NETWORK}; once for each network")] = [],  # noqa: B006
    split: Annotated[list[str], Split] = [],  # noqa: B006
    weights: Annotated[list[str], Weights] = [],  # noqa: B006
    lambda_: Annotated[
        list[float],
        typer.Option(
            "--lambda",
            help="weight of the distortion, in bits (10000); once for all networks or once for each",
        ),
    ] = [],  # noqa: B006
    distortion: Annotated[
        list[str],
        typer.Option(
            help="task (labels), distill (the network's output; the default), feature, distill-hint or task-hint "
            "(with the feature); once for all networks or once for each"
        ),
    ] = [],  # noqa: B006
    context: Annotated[
        str | None,
        typer.Option(help="what predicts the latent besides the codebook: slices (the default) or none"),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="a task that the first bytes, the hyperprior's, answer by themselves")
    ] = None,
    steps: Steps = None,
    batch: Batch = None,
    recipe: RecipeFile = None,
    sets: Sets = [],  # noqa: B006
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = "auto",
    features: Features = None,
    force: Force = False,
) -> None:
    """Train one codec for the features of one or several networks.

    docs/codec.toml lists every setting with its default.
    """
    from train.codec.codec_recipe import CodecRecipe, spread

    text, defaults = read_recipe(recipe), dict(DEFAULTS)
    if network:
        text, defaults["parts"] = text.without("parts"), [{} for _ in network]
    count = len(network or text.values.get("parts", ()))
    if not count:
        raise DataError("no network is named; give --network, or [[parts]] in a recipe file")
    each = {"network": network, "split": split, "weights": weights}
    parts = _parts({**each, "lambda": lambda_, "distortion": distortion}, count)
    flags = {"data": data, "validation": validation, "steps": steps, "batch": batch, "parts": parts}
    flags |= {"context": context, "base": base}
    settings = Settings.merge(ctx, text, sets, flags, defaults)
    images, scales = DataChoice.pop(settings), settings.pop("scales", tuple[float, ...])
    settings.default("qualities", spread(len(scales)))
    settings.default("context", "slices" if settings.peek("prior", "codebook") == "codebook" else "none")
    chosen = settings.recipe(
        CodecRecipe,
        data=images.data,
        validation=images.validation,
        scales=scales,
        parts=[{"lambda": LAMBDA, **part} for part in settings.pop("parts", list[dict[str, Any]])],
    )
    _train(chosen, images, RunOptions.checked(out, resume, device, precision, force, features))


@app.command()
def frames(
    ctx: typer.Context,
    codec: Annotated[Path, typer.Argument(help="run folder of a codec with a context")],
    data: Annotated[
        str,
        typer.Option(
            help="sequences of rooms (isthmus rooms render --frames), a folder of videos, or photographs "
            "(images:FOLDER), from which sequences with moving things are made"
        ),
    ],
    out: Out,
    steps: Steps = None,
    batch: Batch = None,
    sets: Sets = [],  # noqa: B006
    resume: Resume = False,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Teach a codec to code frames of a video given other frames.

    Frames by themselves are coded as before. The codec with it is OUT/codec.
    """
    from train.codec.train_frames import CODEC, FramesRecipe, train_frames

    flags = {"steps": steps, "batch": batch}
    settings = Settings.merge(ctx, read_recipe(None), sets, flags, {})
    recipe = settings.recipe(FramesRecipe, codec=str(codec), data=data)
    run = RunOptions.checked(out, resume, device, "auto", force, None)
    scores = train_frames(recipe, run.out, run.resume, run.device)
    for score in scores:
        if score.quality is not None:
            echo_once(
                f"{out}: quality {score.quality}: {score.value:.1f} bytes a frame given the one before it"
            )
    echo_once(f"{out / CODEC}: the codec")


@app.command()
def recover(
    bundle: Annotated[Path, typer.Argument(help="the bundle")],
    out: Annotated[Path, typer.Option(help="run folder to make; a codec training can start from it (init)")],
) -> None:
    """Recover a bundle's codec as a run, to train it further.

    Without a context its entropy model starts anew.
    """
    from shared.bundle import Bundle
    from train.codec.from_bundle import recover_codec

    known = recover_codec(Bundle.open(bundle), out)
    model = "with its entropy model" if known else "its entropy model untrained"
    typer.echo(f"{out}: the codec of {bundle}, {model} (--set init={out})")


def _parts(flags: Mapping[str, list[Any]], count: int) -> list[dict[str, Any]]:
    """What flags say of each network: each is given once for all of them, once for each, or not at all."""
    parts: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, values in flags.items():
        if values and len(values) not in (1, count):
            times = f"--{key} is given {len(values)} times, for {count} networks"
            raise DataError(f"{times}; give it once or {count} times")
        for i, part in enumerate(parts if values else ()):
            part[key] = values[i % len(values)]
    return parts


def _train(recipe: Any, images: DataChoice, run: RunOptions) -> None:
    from train.codec.codec_recipe import LABELLED
    from train.codec.evaluate_codec import format_metrics
    from train.codec.split_networks import load_networks
    from train.codec.train_codec import train_codec

    cards = [network.card for network in load_networks(recipe.parts)]
    training, validation = images.open(
        [card.task for card in cards],
        needed=[part.distortion in LABELLED for part in recipe.parts],
        preprocess=cards[0].preprocess,
        labels=[card.labels for card in cards],
    )
    scores = train_codec(
        recipe, training, validation, run.out, run.resume, run.device, run.features, run.precision
    )
    for quality in recipe.qualities:
        echo_once(f"{run.out}: quality {quality}: {format_metrics(scores, quality)}")
    echo_once(f"  on {len(validation[0])} held-out images")
