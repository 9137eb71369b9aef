"""`isthmus task add|remove`: change the tasks of a bundle that is deployed. Needs no training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.process.commands import CommandTable

app = CommandTable(no_args_is_help=True)

BundleArgument = Annotated[Path, typer.Argument(help="the bundle's folder; it may be served meanwhile")]


@app.command()
def add(
    bundle: BundleArgument,
    task_dir: Annotated[Path, typer.Argument(help="task folder, as `isthmus task train` writes it")],
) -> None:
    """Add a task to a bundle. Its fingerprint stays, edges notice nothing, and a running server loads it by itself."""
    from cloud.task_folders import add_task

    task = add_task(bundle, task_dir).task
    typer.echo(f"{bundle}: task {task.name} ({task.kind}) added; edges and their bitstreams stay as they are")


@app.command()
def remove(bundle: BundleArgument, name: Annotated[str, typer.Argument(help="an added task")]) -> None:
    """Remove an added task from a bundle, also one that is damaged."""
    from cloud.task_folders import remove_task

    remove_task(bundle, name)
    typer.echo(f"{bundle}: task {name} removed")
