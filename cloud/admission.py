"""Whether a cloud is locked, and with what: made from its settings, once, at its start.

On loopback a server without tokens serves whoever is on this machine, until there are some. Anywhere else it makes a
first token and shows it once, unless it has some, is given one, or is started with `insecure`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.settings import AuthSettings, CloudSettings
from shared.errors import NotReadyError, RequestError
from shared.process.auth import Gate, is_loopback
from shared.process.tls import ServerTls
from shared.process.tokens import (
    SCOPES,
    TokenFile,
    TokenGrant,
    TokenReader,
    TokenSource,
    TokenStore,
    add_token,
)

if TYPE_CHECKING:
    from cloud.state.shared import SharedState

log = logging.getLogger("isthmus.auth")

FIRST = "first"


def default_tokens() -> Path:
    """Where the file of tokens lies by default: in the user's folder for state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "isthmus" / "tokens.json"


def make_gate(settings: CloudSettings, state: SharedState | None = None) -> Gate:
    """The gate of a server. Must be made in its event loop. state: has the tokens, in place of a file.

    Raises RequestError for tokens that cannot be read, or a first one that cannot be written.
    """
    auth, local = settings.auth, is_loopback(settings.host)
    path, given = auth.tokens or default_tokens(), auth.read_token()
    with_certificates = settings.tls.client_ca is not None
    if auth.insecure:
        return _open_gate(auth, given, with_certificates, settings.host)
    source: TokenSource = state.tokens if state else TokenReader(path)
    if local and not (given or with_certificates or auth.tokens or source.exists()):
        return Gate(source, local=True, open_until_tokens=True)  # `token add` locks it as it runs
    if source.exists() is False and not given:
        _make_first(state.token_store if state else TokenFile(path))
    used = source if state or auth.tokens or source.exists() else None
    if isinstance(used, TokenReader):  # a table may be away for a while
        _check(used)
    if not local and settings.tls.certificate is None:
        log.warning("no TLS: tokens cross the network readable; give --tls-certificate and --tls-key")
    return Gate(used, given, with_certificates, attempts_per_minute=auth.attempts_per_minute, local=local)


def make_tls(settings: CloudSettings) -> ServerTls | None:
    """TLS of both ports; None without a certificate. Raises RequestError for files that cannot be used."""
    files = settings.tls.files()
    return ServerTls(files) if files else None


def _open_gate(auth: AuthSettings, given: str | None, with_certificates: bool, host: str) -> Gate:
    """Raises RequestError where tokens are given as well."""
    if given or with_certificates or auth.tokens:
        raise RequestError(
            "insecure asks nobody for a token, so that no token, tokens or client_ca may be given"
        )
    if is_loopback(host):
        return Gate(local=True)
    log.warning(
        "insecure: whoever reaches %s may send images and read answers and metrics; only calls of administration are "
        "closed",
        host,
    )
    return Gate(open_scopes=("analyze", "metrics"))


def _make_first(store: TokenStore) -> None:
    """Raises RequestError or NotReadyError."""
    try:
        token = add_token(store, TokenGrant(FIRST, SCOPES))
    except RequestError:
        if isinstance(store, TokenFile) or not store.read():
            raise
        return  # another server has made it at this moment
    # Not through the log, which is often kept and sent elsewhere.
    print(
        f"isthmus: made the first token, which may do everything. It is shown this once: {token}\n"
        f"isthmus: {store.shown} holds its hash; `isthmus cloud token add` makes others that may do less",
        file=sys.stderr,
        flush=True,
    )


def _check(reader: TokenReader) -> None:
    """Raises RequestError for a file that a server should not start with."""
    try:
        reader.records()
    except NotReadyError as error:
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise RequestError(f"cannot use the tokens of {reader.path}: {reason}") from None
