"""`isthmus edge fetch`: a bundle's edge half, from a cloud onto this box."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from shared.process.commands import CommandTable

app = CommandTable(no_args_is_help=True)


@app.command()
def fetch(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="the new bundle folder, for --bundle")
    ],
    cloud: Annotated[str, typer.Option(help="the cloud's HTTP, with http:// or https://")],
    fingerprint: Annotated[
        str | None, typer.Option(help="8 or more hex digits; the cloud's default bundle if absent")
    ] = None,
    require_signature: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="PEM file of the public key of whoever must have signed it"),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="ISTHMUS_CLOUD_TOKEN_FILE",
            help="holds the token for the cloud; ISTHMUS_CLOUD_TOKEN may hold it itself",
        ),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(envvar="ISTHMUS_CLOUD_CA", help="PEM, who signs the cloud's certificate")
    ] = None,
) -> None:
    """Download the edge half of a bundle. A download that was cut goes on; DIR is whole, or not there."""
    from edge.fetch import fetch
    from edge.settings import CloudLink
    from edge.trust import check_bundle, check_fingerprint
    from edge.update import source_of

    if fingerprint is not None:
        check_fingerprint(fingerprint)
    link = CloudLink.of(
        token=os.environ.get("ISTHMUS_CLOUD_TOKEN") or None,
        token_file=token_file,
        ca=ca,
        tls=cloud.startswith("https"),
    )
    check = partial(check_bundle, public_key=require_signature)
    bundle = fetch(source_of(link, cloud), fingerprint, output, check)
    manifest = bundle.manifest
    typer.echo(f"{output}: bundle {manifest.name}, fingerprint {manifest.fingerprint}")
