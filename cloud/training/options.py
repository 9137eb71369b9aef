"""What the commands of `isthmus train` have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import ValidationError

from shared.errors import DataError
from shared.types import Frozen

Data = Annotated[Path, typer.Option(help="A set that `isthmus train rooms` wrote.")]
Out = Annotated[Path, typer.Option(help="Run folder: recipe, checkpoints, curves, result.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")]
Device = Annotated[str, typer.Option(help="torch's name of it; auto takes a GPU where there is one.")]
Precision = Annotated[
    Literal["auto", "32", "bf16-mixed"],
    typer.Option(help="bf16-mixed computes layers in bfloat16; auto does so on a GPU."),
]
Holdout = Annotated[int, typer.Option(help="The last rooms of the set are for validation.", min=1)]

Recipe = TypeVar("Recipe", bound=Frozen)


def recipe_of(kind: type[Recipe], **values: Any) -> Recipe:
    """A recipe from flags; an error names the flag. Raises DataError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part).strip("_").replace("_", "-") for part in first["loc"] if isinstance(part, str)]
        told = first["msg"].removeprefix("Value error, ")
        raise DataError(f"--{where[-1]}: {told}" if where else told) from None


def tell(text: str) -> None:
    """Print; of torchrun's processes the first does."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text)
