"""Tables of commands, whose errors name the flag of the setting that they are about.

Errors carry a setting's name (`IsthmusError.setting`) because what raises them knows no flags. A command adds the
flag: "... leaves no image to train on (--holdout)". Where settings come from files too, `name_settings` says how.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from shared.errors import Interruption, IsthmusError

# Gives a setting's name as a user knows it, None where the command has no such setting.
Naming = Callable[[str], "str | None"]
Function = TypeVar("Function", bound=Callable[..., Any])
_naming: ContextVar[Naming] = ContextVar("naming", default=lambda setting: None)


def print_error(text: str) -> None:
    """Prints one line on stderr."""
    print(f"isthmus: {' '.join(text.split())}", file=sys.stderr)


def name_settings(naming: Naming) -> None:
    """Names the settings of the running command from here on, in place of its flags alone."""
    _naming.set(naming)


def with_setting_named(error: IsthmusError) -> IsthmusError:
    """The same error; its text ends with the flag, or the place in a file, that gave the setting it is about."""
    name = _naming.get()(error.setting) if error.setting else None
    if name is not None:
        error.args, error.setting = (f"{error} ({name})",), None
    return error


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


class Group(TyperGroup):
    """A group of commands, whose help is listed whole."""

    def get_short_help_str(self, limit: int = 0) -> str:
        return _first_paragraph(self.help)


class Command(TyperCommand):
    """A command whose help is listed whole, and whose errors name the settings."""

    def get_short_help_str(self, limit: int = 0) -> str:
        return _first_paragraph(self.help)

    def invoke(self, ctx: Any) -> Any:
        token = _naming.set(lambda setting: flag_of(setting, self))
        try:
            return super().invoke(ctx)
        except IsthmusError as error:
            raise with_setting_named(error) from error.__cause__
        except Interruption as stopped:  # Typer would drop its text and its status
            _report(stopped)
            raise typer.Exit(stopped.status) from None
        finally:
            _naming.reset(token)


def _report(stopped: Interruption) -> None:
    """Prints on stderr what an interrupted command has kept; nothing where another process reports it."""
    name = _naming.get()(stopped.setting) if stopped.setting else None
    if str(stopped):
        print_error(f"{stopped} ({name})" if name else str(stopped))


def flag_of(setting: str, command: Any) -> str | None:
    """The flag or argument of a command that gives a setting, None if it has none: "size" -> "--size"."""
    flag = "--" + setting.strip("_").replace("_", "-")
    for parameter in command.params:
        if flag in parameter.opts:
            return flag
        if parameter.name == setting:
            longest: str = max(parameter.opts, key=len)
            return longest if longest.startswith("-") else longest.upper()
    return None


class CommandTable(typer.Typer):
    """A Typer app whose commands name the settings in their errors. Takes what `typer.Typer` takes.

    Help is plain text: as rich's markup it would hide what stands in square brackets, and load rich.
    """

    def __init__(self, *, cls: type[TyperGroup] = Group, **how: Any) -> None:
        super().__init__(**{"rich_markup_mode": None, "cls": cls, **how})
        self.callback()(lambda: None)  # without it an app of one command would be that command

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **how: Any
    ) -> Callable[[Function], Function]:
        return super().command(name, cls=cls, **how)
