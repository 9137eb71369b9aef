"""`isthmus task train`: a task for a bundle that is deployed already. `task add` and `remove` are the cloud's.

isthmus task train my-bundle --data data/rooms --network runs/segmentation --out runs/task
isthmus task add my-bundle runs/task/task
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

DEFAULTS = {"steps": 6000, "damaged": "refuse"}  # what the recipe itself leaves open

app = TrainTable(no_args_is_help=True)

Name = Annotated[
    str | None, typer.Option(help="the task's name; by default what its network was trained for")
]
Distortion = Annotated[
    str | None,
    typer.Option(
        help="task (labels), distill (the network's output; the default), feature, distill-hint or task-hint "
        "(with the feature)"
    ),
]


@app.command()
def train(
    ctx: typer.Context,
    out: Out,
    bundle: Annotated[
        Path | None, typer.Argument(help="the bundle from whose bitstreams the task is to be answered")
    ] = None,
    data: RecipeData = None,
    validation: Validation = None,
    network: Annotated[str | None, typer.Option(help=f"the new task's: {NETWORK}")] = None,
    split: Annotated[str | None, Split] = None,
    weights: Annotated[str | None, Weights] = None,
    name: Name = None,
    distortion: Distortion = None,
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
    """Teach a finished bundle a new task, without changing one byte that its edges send."""
    from train.codec.codec_recipe import LABELLED
    from train.loop.scores import to_json
    from train.networks.load import load_network_spec
    from train.tasks.task_recipe import TaskRecipe
    from train.tasks.train_task import train_task
    from train.tasks.trainable_head import FOLDER

    flags = {"data": data, "validation": validation, "network": network}
    flags["bundle"] = None if bundle is None else str(bundle)
    flags |= {"split": split, "weights": weights, "name": name, "distortion": distortion}
    settings = Settings.merge(
        ctx, read_recipe(recipe), sets, {**flags, "steps": steps, "batch": batch}, DEFAULTS
    )
    known, source = settings.pop("bundle", str), settings.pop("network", str)
    images = DataChoice.pop(settings)
    chosen = settings.recipe(
        TaskRecipe, data=images.data, validation=images.validation, bundle=known, network=source
    )
    run = RunOptions.checked(out, resume, device, precision, force, features)
    card = load_network_spec(chosen)[1]
    needed = [chosen.distortion in LABELLED]
    (train_data,), (held_out,) = images.open(
        [card.task], needed=needed, preprocess=card.preprocess, labels=[card.labels]
    )
    scores = train_task(
        chosen, train_data, held_out, run.out, run.resume, run.device, run.features, run.precision
    )
    for key, value in to_json(scores).items():
        echo_once(f"  {key:24} {value:.4g}")
    echo_once(f"{out / FOLDER}: add it with: isthmus task add {known} {out / FOLDER}")
