"""Options and steps that several commands of training share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import Field, PositiveInt
from typer.core import TyperCommand

from shared.errors import DataError
from shared.files import refuse_foreign_folder
from shared.process.commands import Command, CommandTable, Function
from train.commands.recipe_file import Settings
from train.echo import log_echoed, progress_bar

if TYPE_CHECKING:
    from shared.types import TaskKind
    from train.data.dataset import Dataset
    from train.data.views import Views

STEPS_MAX, BATCH_MAX, COUNT_MAX = 10**9, 1 << 16, 10**8

SPEC = "a folder, or FORMAT:PATH[#SPLIT] (docs/data.md); several with commas"
NETWORK = "a folder of `isthmus network train` or `import`, torchvision:NAME or package.module:factory"

Data = Annotated[str, typer.Option(help=f"images: {SPEC}")]
RecipeData = Annotated[str | None, typer.Option("--data", help=f"images: {SPEC}")]
Validation = Annotated[
    str | None, typer.Option(help="images to validate on, named as --data; by default the last ones of that")
]
DamagedFiles = Annotated[
    Literal["refuse", "skip"],
    typer.Option("--damaged", help="images and labels that cannot be read: refuse the set, or skip them"),
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="TOML file of settings; flags and --set override it")
]
Sets = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="one setting of the recipe, as in network.stride=8; repeatable"
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, max=STEPS_MAX, help="steps of the optimiser")]
Batch = Annotated[
    int | None, typer.Option(min=1, max=BATCH_MAX, help="images in a step, of all processes together")
]
Out = Annotated[Path, typer.Option(help="run folder: recipe, checkpoints, curves, result")]
Force = Annotated[
    bool, typer.Option("--force", help="write into the folder although it holds files of something else")
]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --out, or start it")]
Device = Annotated[str, typer.Option(help="torch's name of the device; auto takes a GPU if there is one")]
Precision = Annotated[
    Literal["auto", "32", "bf16-mixed"],
    typer.Option(help="bf16-mixed computes layers in bfloat16; auto does so on a GPU"),
]
Features = Annotated[
    Path | None,
    typer.Option(help="folder that caches the networks' features for several runs; in --out by default"),
]

# For a network that is not a folder of ours.
Weights = typer.Option("--weights", help="weights of a network that is no folder: a file, DEFAULT or none")
Split = typer.Option(
    "--split", help="layer that ends the front, by number or name: see `isthmus network layers`"
)
Size = typer.Option("--size", help="HEIGHTxWIDTH of the network's images, if not torchvision's own")


class TrainCommand(Command):
    """A command that prints what loaders and trainings log."""

    def invoke(self, ctx: Any) -> Any:
        with log_echoed():
            return super().invoke(ctx)


class TrainTable(CommandTable):
    """A table of `TrainCommand`."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = TrainCommand, **how: Any
    ) -> Callable[[Function], Function]:
        return super().command(name, cls=cls, **how)


@dataclass(frozen=True)
class RunOptions:
    """Where and how a training runs. Nothing in here changes what is learnt, but for rounding."""

    out: Path
    resume: bool
    device: str
    precision: Any
    features: Path | None = None

    @classmethod
    def checked(
        cls,
        out: Path,
        resume: bool,
        device: str,
        precision: Any,
        force: bool,
        features: Path | None = None,
    ) -> RunOptions:
        """Raises RequestError where `out` holds files that no training wrote."""
        # Of several processes the first one writes; the others may already see its files.
        if os.environ.get("RANK", "0") == "0":
            refuse_foreign_folder(out, ("recipe.json",), force=force)
        return cls(out, resume, device, precision, features)


@dataclass(frozen=True)
class DataChoice:
    """The images that a training sees.

    holdout: how many of the last images of `data` are for validation, if `validation` names no set of its own; None: a
    tenth, as `open_training_data` has it.
    views: how many random views of each image to train on in place of it, and their seed; None: the images.
    """

    data: str
    validation: str | None
    holdout: int | None
    damaged: Literal["refuse", "skip"]
    views: Views | None = None

    @classmethod
    def pop(cls, settings: Settings) -> DataChoice:
        """Takes the choice out of a command's settings. Raises DataError."""
        return cls(
            settings.pop("data", str),
            settings.pop("validation", str, optional=True),
            settings.pop("holdout", PositiveInt, optional=True),
            settings.pop("damaged", Literal["refuse", "skip"]),
            _popped_views(settings),
        )

    def open(self, kinds: Sequence[TaskKind], **how: Any) -> tuple[list[Dataset], list[Dataset]]:
        """The images to train on and to validate on, of one size, each once for every kind of labels.

        how: see `open_training_data`. Raises DataError.
        """
        from train.data.open_dataset import open_training_data

        return open_training_data(
            self.data,
            kinds,
            self.validation,
            self.holdout,
            damaged=self.damaged,
            views=self.views,
            progress=progress_bar,
            **how,
        )


def _popped_views(settings: Settings) -> Views | None:
    """The settings `views` and `view_seed`. Raises DataError."""
    from train.data.views import VIEWS_MAX, Views

    count = settings.pop("views", Annotated[int, Field(ge=1, le=VIEWS_MAX)], optional=True)
    seed = settings.pop("view_seed", Annotated[int, Field(ge=0, lt=2**32)], optional=True)
    if count is None and seed is not None:
        raise DataError("without views it has no meaning; give their number, too", setting="view_seed")
    return None if count is None else Views(count=count, seed=seed or 0)
