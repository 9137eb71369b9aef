"""A table of named texts that several servers share: SQLite for one machine, PostgreSQL for several.

    isthmus_state    name       such as "tokens"
                     version    counts up with each change
                     value      text

A change holds its row's lock from reading to writing: two at once follow each other, and neither is lost. Who watches
asks for the versions, and reads what has another one than before. Knows no token and no rollout.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shared.database import Database
from shared.errors import NotReadyError, RequestError

T = TypeVar("T")

WAIT_S = 5  # for a connection, for a statement, or for somebody who holds the lock
ANSWER_S = 15.0  # a database that says nothing for so long is away
_SQLITE, _POSTGRES = "sqlite://", ("postgresql://", "postgres://")
_NAMES = "SELECT name, version FROM isthmus_state"
_CREATE = """CREATE TABLE IF NOT EXISTS isthmus_state (
    name VARCHAR(128) PRIMARY KEY, version BIGINT NOT NULL, value TEXT NOT NULL)"""
_PUT = """INSERT INTO isthmus_state (name, version, value) VALUES (?, 1, ?)
    ON CONFLICT (name) DO UPDATE SET version = isthmus_state.version + 1, value = excluded.value"""


@dataclass(frozen=True)
class Document:
    version: int
    value: str


@dataclass
class Change:
    """A document that is being changed. value: empty for one that is not there; what it is afterwards is kept."""

    value: str
    version: int


class _Driver(Protocol):
    """What differs between the two. begin: starts a transaction that writes. locked: ends a query that locks its row.
    mark: stands for a value. errors: the base of all. lasting: whether a connection is kept. bounded: ends a question
    that gets no answer with one of the errors."""

    begin: tuple[str, ...]
    locked: str
    mark: str
    errors: type[Exception]
    lasting: bool

    def connect(self, make: bool) -> Any:
        """make: the table, and SQLite's file, where they are not there."""

    def bounded(self, db: Any) -> AbstractContextManager[None]: ...


class StateTable:
    """url: `sqlite:///path` or `postgresql://user@host/database`. Connects when it is asked, for one thread.

    made: whether the table is taken to be there; then one that is away is an error, not an empty one.

    Every method raises NotReadyError where the database cannot be reached or refuses. Raises RequestError for an
    address that is none, or a driver that is not installed.
    """

    def __init__(self, url: str) -> None:
        self.shown = re.sub(r"://.*@", "://", url).partition("?")[0]  # without a password
        self._driver = _driver(url)
        self._db: Any = None
        self.made = False

    def changed(self, known: Mapping[str, int]) -> tuple[dict[str, Document], set[str]]:
        """What has another version than is known, and the names of what there is. known: versions by name."""

        def ask(db: Any) -> tuple[dict[str, Document], set[str]]:
            versions = dict(self._execute(db, _NAMES).fetchall())
            found = {}
            for name in (name for name, version in versions.items() if known.get(name) != version):
                query = "SELECT version, value FROM isthmus_state WHERE name = ?"
                if row := self._execute(db, query, name).fetchone():
                    found[name] = Document(*row)
            return found, set(versions)

        return self._ask(ask)

    def get(self, name: str) -> Document | None:
        return self.changed({})[0].get(name)

    def put(self, name: str, value: str) -> None:
        """Writes what nobody else writes."""
        self._ask(lambda db: self._execute(db, _PUT, name, value))

    def remove(self, name: str) -> None:
        self._ask(lambda db: self._execute(db, "DELETE FROM isthmus_state WHERE name = ?", name))

    @contextmanager
    def changing(self, name: str) -> Iterator[Change]:
        """The document, kept as it is when the block is left without an error. Others who change it wait meanwhile."""
        with (
            self._failing(),
            closing(self._driver.connect(not self.made)) as db,
            self._driver.bounded(db),
        ):
            for statement in self._driver.begin:
                self._execute(db, statement)
            insert = (
                "INSERT INTO isthmus_state (name, version, value) VALUES (?, 0, '') ON CONFLICT DO NOTHING"
            )
            self._execute(db, insert, name)
            query = f"SELECT version, value FROM isthmus_state WHERE name = ?{self._driver.locked}"
            version, value = self._execute(db, query, name).fetchone()
            change = Change(value, version)
            yield change  # an error closes the connection, and with it the transaction
            change.version = version + 1
            update = "UPDATE isthmus_state SET version = ?, value = ? WHERE name = ?"
            self._execute(db, update, change.version, change.value, name)
            self._execute(db, "COMMIT")

    def close(self) -> None:
        if self._db is not None:
            with suppress(self._driver.errors):
                self._db.close()
            self._db = None

    def _ask(self, question: Callable[[Any], T]) -> T:
        """Over the connection that there is; over a new one where that has broken since."""
        if self._db is not None:
            try:
                with self._driver.bounded(self._db):
                    return question(self._db)
            except self._driver.errors:
                self.close()
        with self._failing():
            self._db = self._driver.connect(not self.made)
            with self._driver.bounded(self._db):
                found = question(self._db)
        self.made = True
        if not self._driver.lasting:
            self.close()
        return found

    def _execute(self, db: Any, statement: str, *values: object) -> Any:
        return db.execute(statement.replace("?", self._driver.mark), values)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, self._driver.errors) as error:
            self.close()
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise NotReadyError(f"the state at {self.shown} cannot be reached: {why}") from None


def _driver(url: str) -> _Driver:
    """Raises RequestError."""
    if url.startswith(_SQLITE) and (path := url.removeprefix(_SQLITE)).strip("/"):
        return _Sqlite(Path(path))
    if url.startswith(_POSTGRES):
        return _Postgres(url)
    raise RequestError(
        "the state's address is none of sqlite:///path and postgresql://user@host/database",
        setting="state.url",
    )


class _Sqlite:
    begin: tuple[str, ...] = ("BEGIN IMMEDIATE",)
    locked, mark = "", "?"
    errors: type[Exception] = sqlite3.Error
    lasting = False  # it would go on with a file that has been replaced

    def __init__(self, path: Path) -> None:
        self._path = path

    def connect(self, make: bool) -> sqlite3.Connection:
        path = self._path.absolute()
        if make:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):  # it holds hashes of tokens
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        # Not opened to see whether it is there: where a process closes a file that it has open elsewhere, its locks go.
        path.stat()
        db = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", WAIT_S, isolation_level=None, uri=True, factory=Database
        )
        return _with_table(db, self) if make else db

    def bounded(self, _: Any) -> AbstractContextManager[None]:
        return nullcontext()


class _Postgres:
    begin: tuple[str, ...] = (
        "BEGIN",
        f"SET LOCAL lock_timeout = '{WAIT_S}s'",
        f"SET LOCAL statement_timeout = '{2 * WAIT_S}s'",
    )
    locked, mark = " FOR UPDATE", "%s"
    lasting = True

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise RequestError(
                "PostgreSQL needs psycopg; install the extra postgres: pip install -e '.[cloud,postgres]'",
                setting="state.url",
            ) from None
        self._psycopg = psycopg
        self.errors: type[Exception] = psycopg.Error
        try:
            given = psycopg.conninfo.conninfo_to_dict(url)
            # Otherwise a part of a password that has a slash would be taken for the port, and reported as such.
            unread = re.fullmatch(r"[\d,]*", str(given.get("port", ""))) is None
        except psycopg.Error:
            unread = True
        if unread:
            raise RequestError(
                "the state's address cannot be read; write postgresql://user@host:5432/database, and what is no letter "
                "or digit in a password as %2F",
                setting="state.url",
            )
        # A machine that has gone without a word is noticed; the address may say otherwise.
        limits = {"connect_timeout": WAIT_S, "keepalives_idle": 10, "tcp_user_timeout": 1000 * WAIT_S}
        self._options: dict[str, Any] = {"application_name": "isthmus", **limits, **given}

    def connect(self, make: bool) -> Any:
        # prepare_threshold: a pooler such as PgBouncer gives each transaction another connection.
        db = self._psycopg.connect(**self._options, autocommit=True, prepare_threshold=None)
        if not make:
            return db
        with self.bounded(db):
            return _with_table(db, self)

    @contextmanager
    def bounded(self, db: Any) -> Iterator[None]:
        """Cuts the connection after `ANSWER_S`. A machine that hangs still acknowledges what it is sent, and a server
        that hangs does not keep its own limits."""
        cut = threading.Event()

        def end() -> None:
            cut.set()
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        with socket.socket(fileno=os.dup(db.fileno())) as line:
            timer = threading.Timer(ANSWER_S, end)
            timer.daemon = True
            timer.start()
            try:
                yield
            except self.errors as error:
                raise (
                    self._psycopg.OperationalError(f"no answer for {ANSWER_S:g} s") if cut.is_set() else error
                ) from None
            finally:
                timer.cancel()


def _with_table(db: Any, driver: _Driver) -> Any:
    """A new connection once the table is there. Who may not make one may still use it."""
    try:
        try:
            db.execute(_NAMES)
        except driver.errors:
            made: Exception | None = None
            try:
                db.execute(_CREATE)
            except driver.errors as error:  # perhaps because another server makes it at this moment
                made = error
            try:
                db.execute(_NAMES)
            except driver.errors as error:
                raise made or error from None
    except BaseException:
        db.close()
        raise
    return db
