"""Prints for a person, once, however many processes train together."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import track


class _Echo(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        echo_once(record.getMessage())


@contextmanager
def log_echoed() -> Iterator[None]:
    """Prints what loaders and trainings meanwhile log as `isthmus.train`, a line each."""
    logger, handler = logging.getLogger("isthmus.train"), _Echo()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def echo_once(text: str) -> None:
    """Prints a line; of torchrun's processes only the first does."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text)


def progress_bar(steps: Iterable[Any], name: str, total: int) -> Iterable[Any]:
    """A bar on stderr while `steps` pass (`train.data.progress.Progress`)."""
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    return track(steps, name, total, console=console, transient=True)
