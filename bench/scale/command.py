"""The options of `isthmus bench scale`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scale(
    set_: Annotated[
        list[str], typer.Option("--set", help="Another value of an input, as fps=5; repeatable.")
    ] = [],  # noqa: B006
    write: Annotated[
        Path | None, typer.Option(help="Put the tables into this page, in place of printing them.")
    ] = None,
) -> None:
    """Recompute the model of docs/scale.md: what fleets of 10 to a million cameras need and cost."""
    from bench.scale.inputs import inputs_with
    from bench.scale.page import rewritten, tables
    from shared.files import write_atomically

    inputs = inputs_with(dict(_pair(text) for text in set_))
    if write is not None:
        write_atomically(write, rewritten(write.read_text("utf-8"), inputs).encode())
        typer.echo(f"{write}: tables written")
        return
    for name, table in tables(inputs).items():
        typer.echo(f"{name}\n\n{table}")


def _pair(text: str) -> tuple[str, float]:
    from shared.errors import RequestError

    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise RequestError(f"{text!r} gives no input a value above 0; write it as fps=5", setting="set")
    return name, number
