"""TLS on both sides of a counting proxy, with a certificate that is thrown away.

    client -> plain -> relay -> TLS -> counting proxy -> TLS -> relay -> plain -> cloud

The ends speak no TLS themselves. A relay makes a TLS record of each write that it reads, as gRPC's own TLS would.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.wire.counting import CountingProxy, carry, counting_proxy, listening
from shared.errors import IsthmusError

_NAME = "isthmus-bench"


def tls_missing() -> str:
    """Why TLS cannot be measured here; empty if it can."""
    return "" if shutil.which("openssl") else "no openssl on this machine to make a certificate with"


def throw_away_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Those of a server with a certificate of its own, and of a client that trusts it alone. Raises IsthmusError."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
            f" -subj /CN={_NAME} -addext subjectAltName=DNS:{_NAME}"
        )
        files = ["-keyout", str(key), "-out", str(certificate)]
        done = subprocess.run([*command.split(), *files], capture_output=True, text=True)
        if done.returncode:
            raise IsthmusError(
                f"openssl made no certificate: {(done.stderr.strip().splitlines() or [''])[-1]}"
            )
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        client = ssl.create_default_context(cafile=str(certificate))
    for context in (server, client):
        context.set_alpn_protocols(["h2"])
    return server, client


@asynccontextmanager
async def tls_link(address: str) -> AsyncIterator[tuple[str, CountingProxy]]:
    """A way to an address on which what is counted is TLS: where it begins, and what counts."""
    as_server, as_client = throw_away_contexts()

    async def off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _relay(reader, writer, address, None)

    async with listening(off, as_server) as far, counting_proxy(far, readable=False) as proxy:

        async def on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _relay(reader, writer, proxy.address, as_client)

        async with listening(on) as near:
            yield near, proxy


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: str,
    context: ssl.SSLContext | None,
) -> None:
    host, _, port = address.rpartition(":")
    name = _NAME if context else None
    there, back = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
    await asyncio.gather(carry(reader, back), carry(there, writer))
