"""Tokens: who may call, and what for. They lie in a file, or in another `TokenStore`. Knows no server.

A token is `isthmus_ID_SECRET`. The store holds the ID, a scrypt hash of the whole token, and what its holder may do; it
never holds the token. A file is written whole, with mode 0600, and a server reads it again as soon as it has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import NotReadyError, RequestError
from shared.files import writing_atomically
from shared.frozen import Moment

Scope = Literal["analyze", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = ("analyze", "admin", "metrics")

_PREFIX = "isthmus"
_TOKEN = re.compile(rf"{_PREFIX}_([a-z0-9]{{8}})_[A-Za-z0-9_-]{{43}}", re.ASCII)
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PATTERN = r"^[A-Za-z0-9_.*-]{1,64}$"
_STARS_MAX = 4  # a pattern with many of them takes long to match
_FILE_BYTES_MAX = 4 << 20
TOKENS_MAX = 4096

# scrypt with 16 MiB: some 50 ms a guess. The secret has 256 random bits, so more would add nothing.
_SCRYPT = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 64 << 20, "dklen": 32}


class TokenRecord(BaseModel):
    """One token without its secret.

    cameras: patterns of names, in which * stands for any characters. requests_per_s, bytes_per_s: None without a limit.
    weight: its part of an overloaded server, against the others'.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9]{8}$")
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1, max_length=len(SCOPES))
    cameras: tuple[Annotated[str, Field(pattern=_PATTERN)], ...] = Field(
        default=("*",), min_length=1, max_length=256
    )
    requests_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    bytes_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0.01, le=100)
    expires_at: Moment | None = None
    created_at: Moment
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")

    def model_post_init(self, _: object) -> None:
        if any(pattern.count("*") > _STARS_MAX for pattern in self.cameras):
            raise ValueError(f"a pattern of cameras has at most {_STARS_MAX} *")

    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def verify(self, token: str) -> bool:
        """Whether this is the token of the record. Takes some 50 ms; releases the interpreter's lock."""
        given = _hash(token, bytes.fromhex(self.salt))
        return hmac.compare_digest(given, bytes.fromhex(self.hash))


class _TokenFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    tokens: tuple[TokenRecord, ...] = Field(default=(), max_length=TOKENS_MAX)


@dataclass(frozen=True)
class TokenGrant:
    """What a new token allows; see `TokenRecord`."""

    name: str
    scopes: Sequence[Scope] = SCOPES
    cameras: Sequence[str] = ("*",)
    requests_per_s: float | None = None
    bytes_per_s: float | None = None
    expires_at: datetime | None = None
    weight: float = 1.0


class TokenStore(Protocol):
    """Where records are kept. Both methods raise RequestError or NotReadyError."""

    @property
    def shown(self) -> str:
        """What messages call it."""

    def read(self) -> tuple[TokenRecord, ...]: ...

    def changing(self) -> AbstractContextManager[list[TokenRecord]]:
        """The records, kept as they are when the block is left without an error; one process at a time."""


class TokenSource(Protocol):
    """What a gate asks for each call: it must not block."""

    def exists(self) -> bool | None:
        """Whether there are tokens, also where they cannot be read; None where that is not known yet."""

    def records(self) -> Mapping[str, TokenRecord]:
        """By id. The same object for as long as nothing has changed.

        Raises NotReadyError where they cannot be read: nobody may call while it is unknown who may.
        """


@dataclass
class TokenReader:
    """The records of a file as it lies on the disk, read again when it has changed."""

    path: Path
    _stamp: tuple[int, ...] | None = None
    _records: Mapping[str, TokenRecord] = field(default_factory=dict)

    def exists(self) -> bool:
        """Whether there is a file, even one that cannot be read."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    def records(self) -> Mapping[str, TokenRecord]:
        """By id. The same object for as long as the file is unchanged.

        Raises NotReadyError for a file that cannot be read: nobody may call while it is unknown who may.
        """
        try:
            status = self.path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if stamp != self._stamp:
                self._records = {record.id: record for record in read_tokens(self.path)}
                self._stamp = stamp
        except (OSError, RequestError) as error:
            self._stamp = None
            raise NotReadyError(
                "the file of tokens cannot be read, so that nobody can be let in; the server's log has more"
            ) from error
        return self._records


def token_id(token: str) -> str | None:
    """The id in a token; None for a text that no `token add` made."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def read_tokens(path: Path) -> tuple[TokenRecord, ...]:
    """The records of a file. Raises RequestError for one that is damaged, OSError for one that cannot be read."""
    with path.open("rb") as file:
        data = file.read(_FILE_BYTES_MAX + 1)
    if len(data) > _FILE_BYTES_MAX:
        raise RequestError(f"{path} is larger than {_FILE_BYTES_MAX} bytes; it is no file of tokens")
    return parse_tokens(data, str(path))


def parse_tokens(data: bytes, shown: str) -> tuple[TokenRecord, ...]:
    """The records in the JSON of a file of tokens. shown: what an error calls it. Raises RequestError."""
    try:
        return _TokenFile.model_validate_json(data).tokens
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(f"{shown} is no file of tokens: {place or 'its JSON'}: {first['msg']}") from None


def format_tokens(records: Sequence[TokenRecord]) -> bytes:
    """The JSON of a file of tokens. Raises RequestError for more than it may hold."""
    if len(records) > TOKENS_MAX:
        raise RequestError(f"there would be {len(records)} tokens; {TOKENS_MAX} is the most there can be")
    return _TokenFile(tokens=tuple(records)).model_dump_json(indent=1).encode()


def add_token(tokens: Path | TokenStore, grant: TokenGrant) -> str:
    """A new token, which is shown once: the store holds its hash alone. Makes a file and its folder if need be.

    Raises RequestError for a name that is taken, a value that cannot be, or a store that cannot be written;
    NotReadyError for one that cannot be reached.
    """
    store = _store_of(tokens)
    with store.changing() as records:
        if any(record.name == grant.name and not record.expired() for record in records):
            raise RequestError(f"there is a token {grant.name!r} already; rotate it, or choose another name")
        if len(records) >= TOKENS_MAX:
            raise RequestError(f"{store.shown} holds {TOKENS_MAX} tokens, the most there can be")
        token, record = _make(grant)
        records.append(record)
    return token


def revoke_token(tokens: Path | TokenStore, name: str) -> int:
    """Removes the tokens of that name or id; returns how many. Raises RequestError if there is none, NotReadyError."""
    store = _store_of(tokens)
    with store.changing() as records:
        kept = [record for record in records if name not in (record.name, record.id)]
        removed = len(records) - len(kept)
        if not removed:
            raise _no_such(name, store)
        records[:] = kept
    return removed


def rotate_token(tokens: Path | TokenStore, name: str, old_until: datetime | None) -> str:
    """A new token that allows what the old one of that name does. The old one ends at once, or at `old_until`.

    Raises RequestError or NotReadyError.
    """
    store = _store_of(tokens)
    with store.changing() as records:
        old = next((record for record in reversed(records) if record.name == name), None)
        if old is None:
            raise _no_such(name, store)
        token, new = _make(
            TokenGrant(
                name,
                old.scopes,
                old.cameras,
                old.requests_per_s,
                old.bytes_per_s,
                old.expires_at,
                old.weight,
            )
        )
        others = [record for record in records if record.name != name]
        if old_until is not None:
            ends = min(old_until, old.expires_at) if old.expires_at else old_until
            others.append(old.model_copy(update={"expires_at": ends}))
        records[:] = [*others, new]
    return token


def _make(grant: TokenGrant) -> tuple[str, TokenRecord]:
    identifier = "".join(secrets.choice(_ID_LETTERS) for _ in range(8))
    token = f"{_PREFIX}_{identifier}_{secrets.token_urlsafe(32)}"
    salt = secrets.token_bytes(16)
    try:
        record = TokenRecord(
            id=identifier,
            name=grant.name,
            scopes=tuple(grant.scopes),
            cameras=tuple(grant.cameras),
            requests_per_s=grant.requests_per_s,
            bytes_per_s=grant.bytes_per_s,
            weight=grant.weight,
            expires_at=grant.expires_at,
            created_at=datetime.now(UTC),
            salt=salt.hex(),
            hash=_hash(token, salt).hex(),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{first['loc'][0] if first['loc'] else 'token'}: {first['msg']}") from None
    return token, record


def _hash(token: str, salt: bytes) -> bytes:
    return hashlib.scrypt(token.encode(), salt=salt, **_SCRYPT)


def _store_of(tokens: Path | TokenStore) -> TokenStore:
    return TokenFile(tokens) if isinstance(tokens, Path) else tokens


def _no_such(name: str, store: TokenStore) -> RequestError:
    return RequestError(f"there is no token {name!r} in {store.shown}; `isthmus cloud token list` shows them")


@dataclass(frozen=True)
class TokenFile:
    """A file as a `TokenStore`. It is made with its folder when records are kept in it."""

    path: Path

    @property
    def shown(self) -> str:
        return str(self.path)

    def read(self) -> tuple[TokenRecord, ...]:
        """Raises RequestError, also where there is no file."""
        try:
            return read_tokens(self.path)
        except FileNotFoundError:
            raise RequestError(
                f"there are no tokens at {self.path}; `isthmus cloud token add` makes one"
            ) from None
        except OSError as error:
            raise RequestError(f"cannot read {self.path}: {error.strerror}") from None

    @contextmanager
    def changing(self) -> Iterator[list[TokenRecord]]:
        """See `TokenStore`. Raises RequestError."""
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(path.with_name(f".{path.name}.lock")):
                records = list(read_tokens(path)) if path.exists() else []
                yield records
                data = format_tokens(records)
                with writing_atomically(path, mode=0o600) as file:
                    _keep_owner(path, file.fileno())
                    file.write(data)
        except OSError as error:
            raise RequestError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock on a file, which is made if need be. For reading only, so that it may belong to anybody."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _keep_owner(path: Path, descriptor: int) -> None:
    """Lets the new file belong to whom the old one belonged, so that `sudo isthmus cloud token ...` locks no server
    out of it."""
    if os.geteuid() == 0:
        owner = path.stat() if path.exists() else path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
