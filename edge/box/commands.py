"""`isthmus edge run` and `isthmus edge check`: the camera box. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.process.cli import PORT_MAX, JsonOption
from shared.process.commands import CommandTable

app = CommandTable(no_args_is_help=True)

ConfigOption = Annotated[Path, typer.Option("--config", help="TOML file; deploy/box.toml shows every key")]


@app.command()
def run(
    config: ConfigOption,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="print the settings and where each comes from, and end")
    ] = False,
    cloud: Annotated[
        str | None, typer.Option(help="the cloud's gRPC, HOST:PORT; 127.0.0.1:50051 by default")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on; 127.0.0.1 by default")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=PORT_MAX, help="HTTP; 0 takes a free port; 8081 by default")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="the bundle's folder; the shipped one by default")
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option(help="folder of frames that the cloud does not have yet; isthmus-spool by default"),
    ] = None,
) -> None:
    """Capture from cameras, files and folders, and send what they see; nothing that was accepted is lost.

    Serves what `edge serve` serves, too, and GET /status. A changed table of sources takes effect at once. A flag goes
    before its environment variable (ISTHMUS_...), that before the file, that before the default.
    """
    import asyncio

    from edge.box.settings import load_box
    from shared.process.config import print_and_leave
    from shared.process.logs import start_logging

    flags = {
        "bundle": ("--bundle", bundle),
        "host": ("--host", host),
        "http.port": ("--port", port),
        "cloud.address": ("--cloud", cloud),
        "spool.folder": ("--spool", spool),
    }
    loaded = load_box(config, flags)
    if print_config:
        print_and_leave(loaded.loaded)
    start_logging(loaded.settings.log)

    from edge.box.server import serve_box  # brings gRPC, which logs from here on

    asyncio.run(serve_box(config, flags, loaded))


@app.command()
def check(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Try the bundle, the disk of the spool, the cloud and every source of a camera box, and say what is wrong."""
    import asyncio
    import json
    import logging
    from dataclasses import asdict

    from edge.box.check import check as findings_of
    from edge.box.settings import load_box

    loaded = load_box(config, {})
    logging.getLogger("isthmus").setLevel(logging.CRITICAL)  # what a source logs is among the findings

    async def report() -> bool:
        good = True
        async for one in findings_of(loaded):
            typer.echo(
                json.dumps(asdict(one))
                if as_json
                else f"{'ok  ' if one.good else 'FAIL'} {one.what}: {one.text}"
            )
            good = good and one.good
        return good

    if not asyncio.run(report()):
        raise typer.Exit(1)
