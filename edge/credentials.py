"""What an edge shows its cloud, and what it asks of it: a token, certificates. Knows no transport."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from edge.settings import CloudLink
from shared.errors import RequestError
from shared.process.auth import is_loopback
from shared.process.tls import check_authorities, check_pair

log = logging.getLogger("isthmus.edge")


@dataclass(frozen=True)
class ClientPems:
    """PEM bytes for TLS. ca: None for whom the machine trusts. certificate, key: None without an own certificate."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None = field(repr=False)


class Bearer:
    """The token of a link, read again when its file has changed.

    Raises RequestError for a token that cannot be read or used. Later, if the file is gone, the last token is used on.
    """

    def __init__(self, link: CloudLink) -> None:
        self._file = link.token_file
        self._stamp: tuple[int, int, int] | None = None
        self._token = link.token.get_secret_value() if link.token else None
        if self._file is not None:
            self._token = self._read(self._file)
        elif self._token is not None:
            _check(self._token, "the token")

    def header(self) -> str | None:
        """The value of `authorization`; None without a token."""
        if self._file is not None:
            try:
                self._token = self._read(self._file)
            except RequestError as error:
                log.warning("the last token is used on: %s", error)
        return None if self._token is None else f"Bearer {self._token}"

    def _read(self, file: Path) -> str:
        try:
            status = file.stat()
            stamp = status.st_ino, status.st_mtime_ns, status.st_size
            if stamp == self._stamp and self._token is not None:
                return self._token
            token = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise RequestError(f"cannot read the token from {file}: {reason}") from None
        _check(token, str(file))
        self._stamp = stamp
        return token


def client_pems(link: CloudLink) -> ClientPems | None:
    """What TLS of a link needs; None without TLS. Raises RequestError for files that cannot be used."""
    if not link.uses_tls:
        _warn_of_plain(link)
        return None
    ca = _bytes(link.ca)
    if ca is not None:
        check_authorities(ca, str(link.ca))
    if link.certificate is None or link.key is None:
        return ClientPems(ca, None, None)
    check_pair(link.certificate, link.key)
    return ClientPems(ca, _bytes(link.certificate), _bytes(link.key))


def _warn_of_plain(link: CloudLink) -> None:
    hosts = [address.rpartition(":")[0].strip("[]") for address in link.addresses]
    if (link.token or link.token_file) and not all(is_loopback(host) for host in hosts):
        log.warning("no TLS to %s: the token crosses the network readable; set tls or ca", link.address)


def _bytes(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None


def _check(token: str, where: str) -> None:
    if not re.fullmatch(r"[!-~]+", token):
        raise RequestError(
            f"{where} holds no token: one line without spaces, as `isthmus cloud token add` prints it"
        )
