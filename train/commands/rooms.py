"""`isthmus rooms`: render labelled indoor scenes.

isthmus rooms render data/rooms --count 21000
isthmus rooms render data/clips --count 2000 --frames 8 --fps 5 --motion mixed
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import DataError, RequestError
from shared.files import refuse_foreign_folder
from train.commands.options import Force, TrainTable

app = TrainTable(no_args_is_help=True)
Fps = Annotated[
    float | None, typer.Option(help="of sequences: frames a second, 0.1 to 120", show_default="5")
]
Motion = Annotated[
    str | None,
    typer.Option(
        help="what happens in sequences: static, moving, person, dark, knocked or mixed", show_default="mixed"
    ),
]


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
    frames: Annotated[
        int, typer.Option(help="frames of each room's sequence; 1: single rooms", min=1, max=1000)
    ] = 1,
    fps: Fps = None,
    motion: Motion = None,
    force: Force = False,
) -> None:
    """Render a set of rooms to disk; run again to finish one that was interrupted."""
    from rich.progress import Progress

    from train.rooms import write_rooms
    from train.rooms.dataset import INDEX_NAME

    if frames == 1 and (fps is not None or motion is not None):
        raise RequestError("--fps and --motion are for sequences: give --frames 2 or more", setting="frames")
    refuse_foreign_folder(out, (INDEX_NAME,), force=force)
    bar = Progress()
    task = bar.add_task("rooms" if frames == 1 else "frames", total=count * frames)
    with ExitStack() as shown:

        def progress(done: int, total: int) -> None:
            if not bar.live.is_started:  # only now, so that a refusal is one line
                shown.enter_context(bar)
            bar.update(task, completed=done)

        try:
            write_rooms(
                out,
                range(first_seed, first_seed + count),
                height=size,
                width=size,
                layers=tuple(layers.split(",")),
                shard_size=max(1, 250 // frames),
                workers=workers,
                frames=frames,
                fps=5.0 if fps is None else fps,
                motion="mixed" if motion is None else motion,
                progress=progress,
            )
        except ValueError as error:
            raise DataError(str(error)) from None
