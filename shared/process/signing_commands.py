"""`isthmus bundle sign|verify`: the signature by which a box knows who built what it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared import signing
from shared.bundle import Bundle
from shared.process.commands import CommandTable

app = CommandTable(no_args_is_help=True)

BundleArgument = Annotated[Path, typer.Argument(help="the bundle's folder")]


@app.command()
def sign(
    bundle: BundleArgument,
    key: Annotated[Path, typer.Option(help="PEM file of an EC private key (P-256, P-384 or P-521)")],
    password: Annotated[
        str | None,
        typer.Option(envvar="ISTHMUS_KEY_PASSWORD", help="of an encrypted key; better by the variable"),
    ] = None,
) -> None:
    """Sign a bundle, in the format of OpenSSF model-signing. Its tool verifies this signature, too."""
    opened = Bundle.open_without_added(bundle)
    signing.sign(opened, key, password)
    typer.echo(f"{bundle}: signed, fingerprint {opened.manifest.fingerprint}")


@app.command()
def verify(
    bundle: BundleArgument,
    key: Annotated[Path, typer.Option(help="PEM file of the public key")],
) -> None:
    """Check that a bundle, or its edge half, was signed with a key, and that no file has changed since."""
    opened = Bundle.open_without_added(bundle)
    signing.verify(opened, key)
    here = [name for name in opened.manifest.files if (bundle / name).exists()]
    for name in here:
        opened.read(name)
    typer.echo(f"{bundle}: the signature holds for the manifest and {len(here)} files")
