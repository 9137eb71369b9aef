"""What the commands of `isthmus train` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SPEC = "a folder, or FORMAT:PATH[#SPLIT] (docs/data.md); several with commas"
Data = Annotated[str, typer.Option(help=f"Pictures: {SPEC}.")]
RecipeData = Annotated[str | None, typer.Option("--data", help=f"Pictures: {SPEC}.")]
Validation = Annotated[
    str | None, typer.Option(help="Pictures to validate on, named as --data; by default the held-out ones.")
]
DamagedFiles = Annotated[
    Literal["refuse", "skip"],
    typer.Option("--damaged", help="Pictures and labels that cannot be read: refuse the set, or skip them."),
]
Out = Annotated[Path, typer.Option(help="Run folder: recipe, checkpoints, curves, result.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")]
Device = Annotated[str, typer.Option(help="torch's name of it; auto takes a GPU where there is one.")]
Precision = Annotated[
    Literal["auto", "32", "bf16-mixed"],
    typer.Option(help="bf16-mixed computes layers in bfloat16; auto does so on a GPU."),
]
Holdout = Annotated[
    int | None,
    typer.Option(
        help="How many images, the last of the set, are for validation; by default a tenth, at most 1000.",
        min=1,
    ),
]

# Of a network that is not a folder of ours; `sources.Source` says what each means.
Weights = typer.Option("--weights", help="Of a network that is no folder: a file, DEFAULT or none.")
Kind = typer.Option("--task", help="Its task: classification (a vector's default), segmentation, normals.")
Size = typer.Option("--size", help="HEIGHTxWIDTH of its pictures, where not torchvision's own.")
Labels = typer.Option("--labels", help="A file with the name of each of its classes, one a line.")
Split = typer.Option("--split", help="Layer that ends its front, by number or name: see `isthmus split`.")
