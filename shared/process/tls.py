"""A server's certificate and the authority of its clients' certificates, read again when their files change.

Each handshake asks for the newest ones, so that a renewed certificate needs no restart. Files that do not fit together,
because only one of them has been replaced yet, change nothing: the old pair is served on, and the log says why.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import RequestError

log = logging.getLogger("isthmus.tls")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. certificate: with its chain. client_ca: who signs the clients' certificates; None for no such."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.certificate, self.key, *((self.client_ca,) if self.client_ca else ()))


@dataclass(frozen=True)
class Certificates:
    """What the files held. context: of Python's TLS, the same. number: counts up with each change."""

    number: int
    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    context: ssl.SSLContext


class ServerTls:
    """TLS of one server. `current` may be called from any thread. Raises RequestError for files that cannot be used."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._stamp = self._stat()
        self._current = self._read(1)
        self._trouble = ""

    def current(self) -> Certificates:
        """The newest usable certificates."""
        with self._lock:
            try:
                stamp = self._stat()
                if stamp != self._stamp:
                    self._current, self._stamp = self._read(self._current.number + 1), stamp
                    log.info("the certificate has been read again from %s", self.files.certificate)
                self._trouble = ""
            except RequestError as error:
                if str(error) != self._trouble:
                    log.warning("the old certificate is used on: %s", error)
                self._trouble = str(error)
            return self._current

    def http_context(self) -> ssl.SSLContext:
        """For a server of Python's own TLS: a context that takes the newest certificates for each handshake.

        A client may have a certificate, and need not, since it may bring a token.
        """
        context = _context(self.files, self._current.client_ca)

        def newest(connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
            connection.context = self.current().context

        context.sni_callback = newest
        return context

    def _stat(self) -> tuple[tuple[int, int, int], ...]:
        try:
            found = [path.stat() for path in self.files.paths]
        except OSError as error:
            raise RequestError(f"cannot read {error.filename}: {error.strerror}") from None
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

    def _read(self, number: int) -> Certificates:
        before = self._stat()
        files = self.files
        try:
            certificate, key = files.certificate.read_bytes(), files.key.read_bytes()
            client_ca = files.client_ca.read_bytes() if files.client_ca else None
        except OSError as error:
            raise RequestError(f"cannot read {error.filename}: {error.strerror}") from None
        context = _context(files, client_ca)
        if self._stat() != before:
            raise RequestError(f"{files.certificate} or a file with it is being replaced")
        return Certificates(number, certificate, key, client_ca, context)


def _context(files: TlsFiles, client_ca: bytes | None) -> ssl.SSLContext:
    """Raises RequestError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, files.certificate, files.key)
    if client_ca is not None:
        _load_authorities(context, client_ca, str(files.client_ca))
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def check_pair(certificate: Path, key: Path) -> None:
    """Raises RequestError where the files are no certificate and its key."""
    _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key)


def check_authorities(pem: bytes, where: str) -> None:
    """Raises RequestError where the bytes are no certificates."""
    _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pem, where)


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password="")  # "": never asks on a terminal
    except (ssl.SSLError, OSError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise RequestError(
            f"{certificate} and {key} are no certificate with its key, both PEM and the key without a passphrase: "
            f"{reason or error}"
        ) from None


def _load_authorities(context: ssl.SSLContext, pem: bytes, where: str) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else "it is no text"
        raise RequestError(f"{where} holds no certificates in PEM: {reason or error}") from None


def certificate_names(connection: Any) -> tuple[str, ...] | None:
    """The names in a client's verified certificate, alternative ones first; None where it sent none.

    connection: an ssl.SSLObject, or None without TLS.
    """
    found = connection.getpeercert() if connection is not None else None
    if not found:
        return None
    alternative = [value for _, value in found.get("subjectAltName", ())]
    common = [value for part in found.get("subject", ()) for key, value in part if key == "commonName"]
    return tuple(dict.fromkeys([*alternative, *common]))
