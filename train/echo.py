"""Prints for a person, once, however many processes train together."""

from __future__ import annotations

import os

import typer


def echo_once(text: str) -> None:
    """Prints a line; of torchrun's processes only the first does."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text)
