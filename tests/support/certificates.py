"""Certificates that are made for one test: an authority, a server, cameras."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates. Takes some 20 ms for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.pair = Pair(folder / "ca.pem", folder / "ca.key")
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *(
                "-days",
                "2",
                "-subj",
                "/CN=authority",
                "-keyout",
                self.pair.key,
                "-out",
                self.pair.certificate,
            ),
        )

    def issue(self, file: str, name: str, *alternative: str) -> Pair:
        """A certificate of that common name. alternative: as "DNS:localhost" or "IP:127.0.0.1"."""
        made = Pair(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        request, extensions = self.folder / f"{file}.csr", self.folder / f"{file}.ext"
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", made.key, "-out", request),
        )
        extensions.write_text(f"subjectAltName={','.join(alternative)}\n" if alternative else "")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.pair.certificate, "-CAkey", self.pair.key),
            *("-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", made.certificate),
        )
        return made

    def server(self, file: str = "server") -> Pair:
        """One for a server on this machine."""
        return self.issue(file, "localhost", "DNS:localhost", "IP:127.0.0.1")


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
