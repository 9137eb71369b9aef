"""Tokens in the table that servers share: changed by commands, read by gates. The text is that of a file of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cloud.state.table import Document, StateTable
from cloud.state.watch import StateWatch
from shared.errors import NotReadyError, RequestError
from shared.process.tokens import TokenFile, TokenRecord, format_tokens, parse_tokens

TOKENS = "tokens"


class StateTokens:
    """A `TokenStore`: the tokens at an address of `StateTable`. Raises RequestError for one that is none."""

    def __init__(self, url: str) -> None:
        self._table = StateTable(url)

    @property
    def shown(self) -> str:
        return self._table.shown

    def read(self) -> tuple[TokenRecord, ...]:
        """Raises RequestError, also where there are none, or NotReadyError."""
        self._table.made = True  # a misspelt path makes no file
        found = self._table.get(TOKENS)
        self._table.close()
        if found is None:
            raise RequestError(f"there are no tokens at {self.shown}; `isthmus cloud token add` makes one")
        return _parsed(found.value, self.shown)

    @contextmanager
    def changing(self) -> Iterator[list[TokenRecord]]:
        """See `TokenStore`. Raises RequestError or NotReadyError."""
        with self._table.changing(TOKENS) as change:
            records = list(_parsed(change.value, self.shown))
            yield records
            change.value = format_tokens(records).decode()


class WatchedTokens:
    """A `TokenSource`: what a server last saw of them."""

    def __init__(self, watch: StateWatch) -> None:
        self._watch = watch
        self._read: Document | None = None
        self._records: Mapping[str, TokenRecord] = {}

    def exists(self) -> bool | None:
        """Whether there are tokens; None where the database has never answered."""
        return TOKENS in self._watch.documents if self._watch.seen else None

    def records(self) -> Mapping[str, TokenRecord]:
        """See `TokenSource`. Raises NotReadyError."""
        self._watch.check()
        found = self._watch.documents.get(TOKENS)
        if found is not self._read:
            try:
                records = _parsed(found.value if found else "", "the state")
            except RequestError as error:
                raise NotReadyError(
                    "the tokens cannot be read, so that nobody can be let in; the server's log has more"
                ) from error
            self._read, self._records = found, {record.id: record for record in records}
        return self._records


def import_tokens(file: Path, url: str) -> tuple[int, int]:
    """Takes the tokens of a file into the table: how many, and how many were there already. Raises RequestError,
    NotReadyError."""
    given = TokenFile(file).read()
    with StateTokens(url).changing() as records:
        known = {record.id for record in records}
        new = [record for record in given if record.id not in known]
        records.extend(new)
    return len(new), len(given) - len(new)


def _parsed(value: str, shown: str) -> tuple[TokenRecord, ...]:
    """Raises RequestError."""
    return parse_tokens(value.encode(), shown) if value else ()
