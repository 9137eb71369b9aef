"""Errors name settings; commands name flags."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from shared.errors import DataError, IsthmusError, UnknownTaskError
from shared.process.commands import CommandTable, name_settings, with_setting_named


def error_of(error: IsthmusError, *before: object) -> str:
    """What a command that raises `error` reports."""
    app = CommandTable()

    @app.command()
    def train(
        data: Annotated[str, typer.Argument()] = "",
        held: Annotated[int, typer.Option("--holdout", "-h")] = 1,
        from_: Annotated[str, typer.Option("--from")] = "",
        learning_rate: float = 1.0,
    ) -> None:
        for act in before:
            assert callable(act)
            act()
        raise error

    return str(CliRunner().invoke(app, ["train"]).exception)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("holdout", "too many (--holdout)"),  # by the flag
        ("held", "too many (--holdout)"),  # by the parameter
        ("from", "too many (--from)"),
        ("learning_rate", "too many (--learning-rate)"),
        ("data", "too many (DATA)"),
        ("stride", "too many"),  # this command has no such setting
        (None, "too many"),
    ],
)
def test_a_command_adds_the_flag_of_the_setting(setting: str | None, text: str) -> None:
    assert error_of(DataError("too many", setting=setting)) == text


def test_settings_from_a_file_are_named_by_it() -> None:
    error = DataError("too many", setting="holdout")
    assert (
        error_of(error, lambda: name_settings(lambda key: f"a.toml:3: {key}"))
        == "too many (a.toml:3: holdout)"
    )
    # The next command starts with its own flags again.
    assert error_of(DataError("too many", setting="holdout")) == "too many (--holdout)"


def test_outside_a_command_nothing_is_added_and_nothing_twice() -> None:
    error = with_setting_named(DataError("too many", setting="holdout"))
    assert (str(error), error.setting) == ("too many", "holdout")
    assert UnknownTaskError("a", ["b"]).setting is None
    assert error_of(error) == "too many (--holdout)"
    assert str(with_setting_named(error)) == "too many (--holdout)"
