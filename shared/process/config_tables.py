"""Tables of a settings file that hold sections by name, [TABLE.NAME], and where its mistakes are. Knows no server."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from shared.errors import RequestError

C = TypeVar("C", bound=BaseModel)


def read_tables(file: Path, table: str, kind: type[C]) -> tuple[dict[str, C], str]:
    """The sections [TABLE.NAME] of a file, by name, and its text. Raises RequestError, which begins with the place.

    table: "sources", or "pipeline.bundles" for a table in a section.
    """
    try:
        text = file.read_text("utf-8")
        found: Any = tomllib.loads(text)
    except OSError as error:
        raise RequestError(f"cannot read {file}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{file} is not TOML: {error}") from None
    for part in table.split("."):
        found = found.get(part, {})
        if not isinstance(found, dict):
            raise RequestError(f"{file}:{line_of(text, table)}: {table} is a table; write [{table}.NAME]")
    sections = {
        name: _read_table(kind, file, text, f"{table}.{name}", values) for name, values in found.items()
    }
    return sections, text


def _read_table(kind: type[C], file: Path, text: str, head: str, values: Any) -> C:
    """Raises RequestError."""
    if not isinstance(values, dict):
        raise RequestError(
            f"{file}:{line_of(text, head)}: {head} is a section; its keys follow a line [{head}]"
        )
    for key in values:
        if key not in kind.model_fields:
            close = difflib.get_close_matches(key, kind.model_fields, 1, 0.5)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(kind.model_fields)}"
            raise RequestError(f"{file}:{line_of(text, f'{head}.{key}')}: [{head}] has no key {key}{hint}")
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join((head, *map(str, first["loc"][:1])))
        raise RequestError(f"{file}:{line_of(text, key)}: [{head}] {explain(first)}") from None


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a table's sections; None for a field that is no table."""
    kind = get_args(field.annotation)[-1:] if get_origin(field.annotation) is dict else ()
    return kind[0] if kind and isinstance(kind[0], type) and issubclass(kind[0], BaseModel) else None


def tables_of(kind: type[BaseModel], section: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every field of settings and of their sections that is a table, by its key."""
    for name, field in kind.model_fields.items():
        if (table := table_of(field)) is not None:
            yield f"{section}{name}", table
        elif not section and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from tables_of(field.annotation, f"{name}.")


def line_of(text: str, key: str) -> int:
    """The line that sets a key, or that begins its section; 1 if neither is written in the usual way."""
    found, section = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            section = re.sub("[\"']", "", header[1]) + "."
            if f"{key}.".startswith(section):
                found = number
        elif (name := re.match(r"\s*([\w.\"-]+)\s*=", line)) and section + name[1].replace('"', "") == key:
            return number
    return found


def explain(error: Any, secret: bool = False) -> str:
    """One of pydantic's errors in a line of ours."""
    name = str(error["loc"][-1]) if error["loc"] else ""
    given = "not valid" if secret else str(error["input"])
    limits = error.get("ctx", {})
    for kind, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        if kind in limits:
            return f"{name} is {given}; it must be {words} {limits[kind]}"
    if error["type"] == "missing":
        return f"{name} is not set"
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return text
    return f"{name} is {given}: {text[0].lower()}{text[1:]}"
