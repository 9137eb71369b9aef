"""Settings of a training: the command's defaults, a recipe file, --set and flags, merged in one order of rank.

    defaults  <  recipe file  <  flags and --set KEY=VALUE

A recipe is a TOML file with the fields of the command's recipe, in tables where they lie deeper. A flag and --set have
the same rank, so a key that both give is an error; of two --set for one key the last counts. Keys of --set are dotted,
entries of a list are numbered from 0 ("parts.0.lambda"), and a value that is no TOML is a string, so that it needs no
quotes within the shell's.

    settings = Settings.merge(ctx, read_recipe(file), sets, {"data": data, "steps": steps}, DEFAULTS)
    data = settings.pop("data", str)
    recipe = settings.recipe(NetworkRecipe, data=data, network={"classes": 18})
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.errors import DataError
from shared.process.commands import flag_of, name_settings

Values = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)

_TABLE = re.compile(r"\s*(\[\[?)\s*([\w.-]+)\s*\]")
_KEY = re.compile(r"\s*([\w.-]+)\s*=")


@dataclass(frozen=True)
class RecipeText:
    """A recipe file: its values, and the line of each dotted key where it could be found."""

    file: Path | None = None
    values: Values = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        line = self.lines.get(key)
        return f"{self.file}: {key}" if line is None else f"{self.file}:{line}: {key}"

    def without(self, key: str) -> RecipeText:
        """The recipe without one top-level key."""
        return RecipeText(self.file, {k: v for k, v in self.values.items() if k != key}, self.lines)


def read_recipe(file: Path | None) -> RecipeText:
    """Raises DataError for a file that is no TOML, OSError."""
    if file is None:
        return RecipeText()
    try:
        text = file.read_text("utf-8")
        return RecipeText(file, tomllib.loads(text), _lines_of(text))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not TOML: {error}") from None


def _lines_of(text: str) -> dict[str, int]:
    """Line of each dotted key; tomllib does not report them. Inline tables count as their key."""
    lines: dict[str, int] = {}
    table, entries = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if found := _TABLE.match(line):
            table = found[2] + "."
            if found[1] == "[[":
                entries[found[2]] = entries.get(found[2], -1) + 1
                table += f"{entries[found[2]]}."
            lines.setdefault(table[:-1], number)
        elif found := _KEY.match(line):
            lines.setdefault(table + found[1], number)
    return lines


class Settings:
    """Values by key, and where each came from."""

    def __init__(self, values: Values, origins: dict[str, str], command: Any) -> None:
        """origins: for each dotted key that somebody gave, the place as an error names it."""
        self._values, self._origins, self._command = values, origins, command
        self._known = set(values)  # keys that --set could give, as far as they are known yet
        self._popped: list[str] = []

    @classmethod
    def merge(
        cls,
        ctx: typer.Context,
        recipe: RecipeText,
        sets: Sequence[str],
        flags: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ) -> Settings:
        """Merges all sources, and lets the command's errors name where a setting came from.

        flags: their values by the recipe's keys; None, or an empty list: not given. A list of tables goes over that of
        the file entry by entry. Raises DataError for a --set that is no KEY=VALUE, or that a flag gives too.
        """
        values, origins = copy.deepcopy(dict(defaults)), dict[str, str]()
        for key, _ in _leaves(recipe.values):
            origins[key] = recipe.place(key)
        values |= copy.deepcopy(recipe.values)
        given: dict[str, str] = {}
        for key, value in _leaves({key: value for key, value in flags.items() if value not in (None, [])}):
            given[key] = flag_of(key.split(".")[-1], ctx.command) or key
            _put(values, key, value)
        for key, value in map(_assignment, sets):
            for other, flag in given.items():
                if _overlap(key, other):
                    raise DataError(f"{flag} and --set {key} give the same setting; give it once")
            _put(values, key, value)
            origins = {k: place for k, place in origins.items() if not k.startswith(f"{key}.")}
            origins[key] = f"--set {key}"
        settings = cls(values, origins | given, ctx.command)
        name_settings(settings.place)
        return settings

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def pop(self, key: str, kind: Any, *, optional: bool = False) -> Any:
        """Takes out the value of a key that the recipe lacks, or that is needed first. optional: None if not given.

        Raises DataError.
        """
        self._popped.append(key)
        self._known.add(key)
        value = self._values.pop(key, None)
        if value is None and optional:
            return None
        if value is None:
            flag = flag_of(key, self._command) or f"--set {key}=..."
            raise DataError(f"{flag} is missing; give it, or write {key} into a recipe file")
        try:
            return TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise DataError(f"{self.name(key)}: {_message(error.errors()[0])}") from None

    def peek(self, key: str, default: Any = None) -> Any:
        """The value of a top-level key, unchecked; it stays."""
        return self._values.get(key, default)

    def default(self, key: str, value: Any) -> None:
        """Sets a key that nobody gave."""
        self._values.setdefault(key, value)

    def recipe(self, kind: type[Model], **fixed: Any) -> Model:
        """Makes the recipe of what is left, and of `fixed`, which follows from the data. Raises DataError."""
        for key, _ in _leaves(fixed):
            if key in self._origins and key.split(".")[0] not in self._popped:
                raise DataError(f"{self.name(key)}: follows from the data; leave it out")
        self._known |= set(_fields(kind, ()))
        try:
            return kind.model_validate(_joined(self._values, fixed))
        except ValidationError as error:
            # A misspelt key comes before the one that is missing for it.
            first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
            path = tuple(first["loc"])
            if first["type"] == "extra_forbidden":
                text = _unknown(str(path[-1]), self._allowed(kind, path[:-1], fixed))
            else:
                text = _message(first)
            raise DataError(f"{self.name('.'.join(map(str, path)))}: {text}" if path else text) from None

    def place(self, setting: str) -> str | None:
        """Where a setting came from or could be given, None if this command has no such setting: for errors from below
        the command line."""
        exact = self._origins.get(setting)
        inner = [key for key in self._origins if key.endswith(f".{setting}")]
        found = exact or (self._origins[inner[0]] if len(inner) == 1 else None)
        found = found or flag_of(setting, self._command)
        return found or (f"--set {setting}=..." if setting in self._known else None)

    def name(self, key: str) -> str:
        """A key as an error names it: "recipe.toml:3: network.stride", "--set network.stride" or "--stride"."""
        if key in self._origins:
            return self._origins[key]
        # A key that is missing is named with the file or the --set that gave what is around it.
        near = [k for k in self._origins if _overlap(k, key)] or [
            k for k in self._origins if k.rpartition(".")[0] == key.rpartition(".")[0] != ""
        ]
        if not near:
            return key
        place = self._origins[near[0]]
        return place.removesuffix(near[0]) + key if place.endswith(near[0]) else key

    def _allowed(self, kind: Any, path: tuple[int | str, ...], fixed: Values) -> set[str]:
        """The keys that may be given in the table at `path`."""
        if path:
            inner = fixed.get(str(path[0]), {}) if len(path) == 1 else {}
            return {*_fields(kind, path)} - inner.keys()
        closed = {key for key, value in fixed.items() if not isinstance(value, dict)}
        return {*_fields(kind, ())} - closed | {*self._popped}


def _assignment(text: str) -> tuple[str, Any]:
    """Splits KEY=VALUE. Raises DataError."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not all(key.split(".")):
        raise DataError(f"--set {text!r} is not KEY=VALUE, as in --set network.stride=8")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key, value
    return key, parsed["value"] if len(parsed) == 1 else value


def _put(values: Values, key: str, value: Any) -> None:
    """Sets a dotted key, and makes the tables around it. Raises DataError where there is no place for it."""
    *path, last = key.split(".")
    table: Any = values
    for depth, part in enumerate([*path, last]):
        if isinstance(table, list):
            if not part.isdecimal() or int(part) >= len(table):
                raise DataError(f"{key}: {'.'.join(path[:depth])} has {len(table)} entries, numbered from 0")
            part = int(part)  # type: ignore[assignment]
        elif not isinstance(table, dict):
            raise DataError(f"{key}: {'.'.join(path[:depth])} is a value and holds no {part}")
        if depth == len(path):
            table[part] = value
        elif isinstance(table, dict):
            table = table.setdefault(part, {})
        else:
            table = table[part]


def _leaves(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of what is neither a table nor a list of tables."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            for number, entry in enumerate(value):
                yield from _leaves(entry, f"{before}{key}.{number}.")
        else:
            yield before + key, value


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one lies within the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _message(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def _unknown(key: str, known: Iterable[str]) -> str:
    names = sorted(name.rstrip("_") for name in known)
    near = get_close_matches(key, names, 1)
    return f"there is no such key; did you mean {near[0]}?" if near else f"not one of {', '.join(names)}"


def _fields(kind: Any, path: tuple[int | str, ...]) -> Iterator[str]:
    """Names of the fields of the model that lies at `path` in `kind`."""
    for part in path:
        if isinstance(part, str):
            annotation = kind.model_fields[part].annotation
            kind = next(
                one
                for one in (annotation, *get_args(annotation))
                if isinstance(one, type) and issubclass(one, BaseModel)
            )
    yield from kind.model_fields


def _joined(values: Values, fixed: Mapping[str, Any]) -> Values:
    joined = dict(values)
    for key, value in fixed.items():
        there = joined.get(key)
        if not isinstance(value, dict) or there is None:
            joined[key] = value
        elif isinstance(there, dict):  # anything else is a mistake, which the recipe reports
            joined[key] = _joined(there, value)
    return joined
