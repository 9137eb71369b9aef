"""`isthmus rooms`: render labelled indoor scenes.

isthmus rooms render data/rooms --count 21000
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import DataError
from shared.files import refuse_foreign_folder
from train.commands.options import Force, TrainTable

app = TrainTable(no_args_is_help=True)


@app.command()
def render(
    out: Annotated[Path, typer.Argument(help="folder of the set")],
    count: Annotated[int, typer.Option(help="how many rooms", min=1, max=10**8)] = 21000,
    first_seed: Annotated[
        int, typer.Option(help="seed of the first room; the next ones follow", min=0, max=2**63 - 1)
    ] = 0,
    size: Annotated[int, typer.Option(help="height and width, pixels", min=16, max=4096)] = 256,
    layers: Annotated[
        str, typer.Option(help="of image,normals,semantic,depth,category; comma-separated")
    ] = "image,category",
    workers: Annotated[int, typer.Option(help="processes that render", min=1, max=256)] = os.cpu_count() or 1,
    force: Force = False,
) -> None:
    """Render a set of rooms to disk; run again to finish one that was interrupted."""
    from rich.progress import Progress

    from train.rooms import write_rooms
    from train.rooms.dataset import INDEX_NAME

    refuse_foreign_folder(out, (INDEX_NAME,), force=force)
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
