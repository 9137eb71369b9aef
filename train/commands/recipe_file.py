"""What a command of `isthmus train` is told, by its flags and by a recipe file: TOML of plain values.

The file holds fields of the command's recipe, in tables where they lie deeper; a flag that is given overrides it.

    told = Told.of(ctx, file, {"data": data, "steps": steps, "network": {"stride": stride}})
    folder = told.take("data", Path)
    recipe = told.recipe(NetworkRecipe, data=str(folder), network={"classes": 18})
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.errors import DataError

RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="A TOML file of settings; flags override it.")
]

Values = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class Told:
    """The values of the flags, and over them, where no flag was given, those of the file."""

    def __init__(self, values: Values, file: Path | None, from_file: set[str]) -> None:
        self._values, self._file, self._from_file = values, file, from_file
        self._taken: list[str] = []

    @classmethod
    def of(
        cls,
        ctx: typer.Context,
        file: Path | None,
        flags: Mapping[str, Any],
        made_of: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Told:
        """flags: the flags' values by the recipe's keys, in dicts where they lie deeper.

        made_of: for a key that is not called like its flag, the command's parameters that it is made of. Raises
        DataError for a file that is no TOML, OSError.
        """
        from_file: set[str] = set()

        def given(key: str) -> bool:
            sources = [ctx.get_parameter_source(name) for name in (made_of or {}).get(key, (key,))]
            return any(source is not None and source.name != "DEFAULT" for source in sources)

        def over(told: Mapping[str, Any], written: Values, path: str) -> Values:
            values = dict(told)
            for key, value in written.items():
                key = (
                    key if key in told or f"{key}_" not in told else f"{key}_"
                )  # lambda is a word of Python's
                if isinstance(value, dict) and isinstance(told.get(key, {}), dict):
                    values[key] = over(told.get(key, {}), value, f"{path}{key}.")
                elif not given(key):
                    values[key] = value
                    from_file.add(path + key)
            return values

        return cls(over(flags, _read(file) if file else {}, ""), file, from_file)

    def take(self, key: str, kind: Any, flag: str | None = None, *, optional: bool = False) -> Any:
        """The value of a key that the recipe does not have, or that is needed first. Raises DataError.

        flag: how the command line gives it, where that is not --key. optional: None where nobody gave it.
        """
        self._taken.append(key)
        value = self._values.pop(key, None)
        if value is None and optional:
            return None
        if value is None:
            raise DataError(f"{flag or _flag(key)} is missing; give it, or write {key} into a --recipe")
        try:
            return TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise DataError(f"{self.name(key)}: {_message(error.errors()[0])}") from None

    def default(self, key: str, value: Any) -> None:
        """The value of a key of the recipe that nobody gave."""
        self._values.setdefault(key, value)

    def recipe(self, kind: type[Model], **fixed: Any) -> Model:
        """The recipe of what is left, and of `fixed`, which no file may say. Raises DataError."""
        for key in _leaves(fixed):
            if key in self._from_file and key not in self._taken:
                raise DataError(f"{self.name(key)}: follows from the data; leave it out")
        try:
            return kind.model_validate(_joined(self._values, fixed))
        except ValidationError as error:
            # A misspelt key before the one that is missing for it.
            first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
            path = tuple(first["loc"])
            dotted = ".".join(str(part) for part in path)
            if first["type"] == "extra_forbidden":
                told = _unknown(str(path[-1]), self._known(kind, path[:-1], fixed))
            else:
                told = _message(first)
            raise DataError(f"{self.name(dotted)}: {told}" if path else told) from None

    def _known(self, kind: Any, path: tuple[int | str, ...], fixed: Values) -> set[str]:
        """The keys that a file may have in the table at `path`."""
        if path:
            inner = fixed.get(str(path[0]), {}) if len(path) == 1 else {}
            return {*_fields(kind, path)} - inner.keys()
        closed = {key for key, value in fixed.items() if not isinstance(value, dict)}
        return {*_fields(kind, ())} - closed | {*self._taken}

    def name(self, key: str) -> str:
        """A key as an error names it: `recipe.toml: network.stride`, or the flag where that said it."""
        if any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in self._from_file):
            return f"{self._file}: {key.rstrip('_')}"
        return _flag(key)


def _read(file: Path) -> Values:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not TOML: {error}") from None


def _flag(key: str) -> str:
    return "--" + key.split(".")[-1].strip("_").replace("_", "-")


def _message(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def _unknown(key: str, known: set[str]) -> str:
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


def _leaves(values: Mapping[str, Any]) -> set[str]:
    """Dotted keys of what is no dict."""
    found = set()
    for key, value in values.items():
        found |= {f"{key}.{inner}" for inner in _leaves(value)} if isinstance(value, dict) else {key}
    return found


def _joined(values: Values, fixed: Mapping[str, Any]) -> Values:
    joined = dict(values)
    for key, value in fixed.items():
        there = joined.get(key)
        if not isinstance(value, dict) or there is None:
            joined[key] = value
        elif isinstance(there, dict):  # otherwise it is a mistake, which the recipe will tell
            joined[key] = _joined(there, value)
    return joined
