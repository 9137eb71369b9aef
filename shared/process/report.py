"""A list of named values, as a table for a person or as JSON for a program."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """name: dotted, as in the format's description; note: its unit or meaning."""

    name: str
    value: Any
    note: str = ""


@dataclass(frozen=True)
class Report:
    title: str
    fields: tuple[Field, ...]

    def as_json(self) -> str:
        return json.dumps({field.name: field.value for field in self.fields}, indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """A table, as wide as the terminal."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=self.title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0)
        )
        for style in ("cyan", "", "dim"):
            table.add_column(style=style, overflow="fold")
        for field in self.fields:
            # Text and not str: what stands in a file must not be read as rich's markup.
            table.add_row(Text(field.name), Text(_text(field.value)), Text(field.note))
        out = io.StringIO()
        Console(file=out, width=None if Console().is_terminal else 160).print(table)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return f"{len(value)}: {', '.join(value)}"
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
