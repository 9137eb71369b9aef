"""`isthmus cloud token ...`: who may call a cloud. Servers that run follow the file, or the table, within a second."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import RequestError
from shared.process.cli import JsonOption
from shared.process.commands import CommandTable, print_error
from shared.process.tokens import (
    SCOPES,
    Scope,
    TokenFile,
    TokenGrant,
    add_token,
    revoke_token,
    rotate_token,
)
from shared.times import span_of

if TYPE_CHECKING:
    from shared.process.tokens import TokenRecord, TokenStore

app = CommandTable(no_args_is_help=True, help="Who may call the server: tokens, each shown once.")

STATE_VARIABLE = "ISTHMUS_STATE"  # may hold a password: help shows what an option's variable holds

TokensOption = Annotated[
    Path | None,
    typer.Option(
        "--tokens",
        envvar="ISTHMUS_AUTH_TOKENS",
        help="their file; ~/.local/state/isthmus/tokens.json by default",
    ),
]
StateOption = Annotated[
    str | None,
    typer.Option(
        "--state",
        help="table that several servers share: sqlite:///path or postgresql://user@host/database; ISTHMUS_STATE",
    ),
]
NameArgument = Annotated[
    str, typer.Argument(help="the token's name: 1 to 64 characters of A-Z a-z 0-9 _ . -")
]


@app.command()
def add(
    name: NameArgument,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="what it may do: analyze, admin, metrics; repeat for several; analyze by default"),
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="names of cameras it may use, * for any characters; repeat for several; all by default"
        ),
    ] = None,
    requests_per_s: Annotated[
        float | None, typer.Option(help="requests a second, on average; without it no limit")
    ] = None,
    bytes_per_s: Annotated[
        float | None, typer.Option(help="bytes sent a second; without it no limit")
    ] = None,
    weight: Annotated[
        float,
        typer.Option(help="its part of an overloaded server, against that of others: 0.01 to 100"),
    ] = 1.0,
    expires: Annotated[
        str | None,
        typer.Option(help="when it ends: 90d, 12h, 30m, or a date as 2027-01-31; never by default"),
    ] = None,
    tokens: TokensOption = None,
    state: StateOption = None,
) -> None:
    """Make a token, and print it on standard output, this once."""
    grant = TokenGrant(
        name,
        _scopes(scope or ["analyze"]),
        tuple(dict.fromkeys(camera or ["*"])),
        requests_per_s,
        bytes_per_s,
        _moment("expires", expires),
        weight,
    )
    _show(add_token(_store(tokens, state), grant))


@app.command(name="list")
def list_(tokens: TokensOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the tokens: what each may do and until when. Never the token itself."""
    for record in _store(tokens, state).read():
        typer.echo(_as_json(record) if as_json else _line(record))


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="the token's name, or its id")],
    tokens: TokensOption = None,
    state: StateOption = None,
) -> None:
    """End a token now."""
    count = revoke_token(_store(tokens, state), name)
    typer.echo(f"{name}: revoked" if count == 1 else f"{name}: {count} tokens revoked")


@app.command()
def rotate(
    name: NameArgument,
    keep_old: Annotated[
        str | None, typer.Option(help="how long the old one stays valid, as 1h or 7d; it ends now by default")
    ] = None,
    tokens: TokensOption = None,
    state: StateOption = None,
) -> None:
    """Make a new token that may do what the old one may, and print it on standard output, this once."""
    _show(rotate_token(_store(tokens, state), name, _moment("keep_old", keep_old)))


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="file of tokens, which stays as it is")],
    state: StateOption = None,
) -> None:
    """Take the tokens of a file into the table that several servers share. Clients keep theirs."""
    from cloud.state.tokens import import_tokens

    url = state or os.environ.get(STATE_VARIABLE)
    if not url:
        raise RequestError("name the table that takes them, as sqlite:///path", setting="state")
    new, known = import_tokens(file, url)
    typer.echo(f"{file}: {new} tokens taken, {known} were there")


def _scopes(names: list[str]) -> tuple[Scope, ...]:
    """Raises RequestError for a name that is no scope."""
    if unknown := next((name for name in names if name not in SCOPES), None):
        raise RequestError(f"{unknown!r} is no scope; there are {', '.join(SCOPES)}", setting="scope")
    return tuple(scope for scope in SCOPES if scope in names)


def _store(tokens: Path | None, state: str | None) -> TokenStore:
    """Raises RequestError where both are given."""
    url = state or os.environ.get(STATE_VARIABLE)
    if not url:
        from cloud.admission import default_tokens

        return TokenFile(tokens or default_tokens())
    if tokens is not None:
        raise RequestError("tokens are in a file or in a table; give either its --tokens or its --state")
    from cloud.state.tokens import StateTokens

    return StateTokens(url)


def _show(token: str) -> None:
    typer.echo(token)
    print_error("the token is shown this once; a server that runs follows within a second")


def _moment(setting: str, text: str | None) -> datetime | None:
    """Raises RequestError for what is no time in the future."""
    if text is None:
        return None
    now = datetime.now(UTC)
    if (span := span_of(text)) is not None:
        when = now + span
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise RequestError(
                f"{text!r} is neither a span as 90d nor a date as 2027-01-31", setting=setting
            ) from None
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
    if when <= now:
        raise RequestError(f"{text} is in the past", setting=setting)
    return when


def _line(record: TokenRecord) -> str:
    rates = [
        f"{rate:g} {unit}/s"
        for rate, unit in ((record.requests_per_s, "requests"), (record.bytes_per_s, "bytes"))
        if rate is not None
    ]
    ends = "never expires"
    if record.expires_at is not None:
        ends = f"{'expired' if record.expired() else 'expires'} {record.expires_at:%Y-%m-%d %H:%M} UTC"
    weight = [] if record.weight == 1 else [f"weight {record.weight:g}"]
    parts = [", ".join(record.scopes), f"cameras {' '.join(record.cameras)}", *rates, *weight, ends]
    return f"{record.name} ({record.id}): {'; '.join(parts)}"


def _as_json(record: TokenRecord) -> str:
    shown = record.model_dump(mode="json", exclude={"salt", "hash"})
    return json.dumps(shown | {"expired": record.expired()})
