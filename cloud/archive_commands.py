"""`isthmus cloud archive ...`: what a server keeps, in the folder of `cloud serve --archive`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from shared.process.commands import CommandTable, print_error
from shared.times import parse_time

app = CommandTable(no_args_is_help=True, help="What a server has kept: delete records.")

ArchiveOption = Annotated[
    Path, typer.Option("--archive", envvar="ISTHMUS_ARCHIVE", help="folder that `cloud serve` writes")
]


@app.command()
def delete(
    archive: ArchiveOption,
    camera: Annotated[str, typer.Option(help="names of cameras, * for any characters")],
    from_: Annotated[
        str | None,
        typer.Option("--from", help="ISO 8601; UTC where it has no zone; included; the beginning if absent"),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="the same; not included; all that is there if absent")
    ] = None,
    by: Annotated[
        Literal["captured", "received"],
        typer.Option(help="what --from and --to mean; captured: received where the capture time is unknown"),
    ] = "captured",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and delete nothing")] = False,
) -> None:
    """Delete records so that the archive's files hold nothing of them. A server may run meanwhile."""
    from cloud.archive.deleting import delete_records
    from cloud.archive.deletion import Deletion, plan

    since = None if from_ is None else parse_time("from", from_)
    until = None if to is None else parse_time("to", to)
    deletion = Deletion.of(camera, since, until, by)
    taken, broken = plan(archive, deletion)
    if broken:
        print_error(f"{broken} records that stay refer to frames that go; a replay will report them")
    if dry_run:
        typer.echo(f"{archive}: {taken} records would be deleted")
        return
    delete_records(archive, deletion, print_error)
    typer.echo(f"{archive}: {taken} records deleted; no file of the archive holds their bytes")
