"""What the commands of `isthmus train` have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

Data = Annotated[Path, typer.Option(help="A set that `isthmus train rooms` wrote.")]
RecipeData = Annotated[Path | None, typer.Option("--data", help="A set that `isthmus train rooms` wrote.")]
Out = Annotated[Path, typer.Option(help="Run folder: recipe, checkpoints, curves, result.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")]
Device = Annotated[str, typer.Option(help="torch's name of it; auto takes a GPU where there is one.")]
Precision = Annotated[
    Literal["auto", "32", "bf16-mixed"],
    typer.Option(help="bf16-mixed computes layers in bfloat16; auto does so on a GPU."),
]
Holdout = Annotated[int, typer.Option(help="The last rooms of the set are for validation.", min=1)]


def tell(text: str) -> None:
    """Print; of torchrun's processes the first does."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text)
