"""The command line: `isthmus demo | edge ... | cloud ... | train ... | bench ... | split | inspect`.

A group's module is imported when the group is used, so that an edge command loads no torch, no server and no gRPC. Here
does an error become one line on stderr and an exit status: 2 for what the user can mend, 1 for the other side. (A
command on several files tells each file's error itself, by `shared.process.cli`.)
"""

from __future__ import annotations

import sys
from pkgutil import extend_path

# The contract's package is isthmus.v1. What clients generate from the .proto into a folder isthmus/ on their path is
# found through this, although the command line has the same name.
__path__ = extend_path([], "isthmus")

INTERRUPTED = 130  # what a shell gives for Ctrl-C

try:
    import importlib
    from pathlib import Path
    from typing import Annotated, Any, NoReturn

    import typer
    from typer.core import TyperGroup

    from shared.errors import DataError, IsthmusError, RequestError, exit_of
    from shared.process.commands import CommandTable
except KeyboardInterrupt:  # most of a short command's time is importing
    sys.exit(INTERRUPTED)

# Where each group lives: a module with a Typer app named `app`.
GROUPS = {
    "edge": ("edge.commands", "The camera side: encode images, analyze them, serve the local HTTP API."),
    "cloud": ("cloud.commands", "The server side: serve gRPC and HTTP, decode bitstreams."),
    "train": ("train.commands.commands", "Render data, train networks and codecs, build bundles."),
    "bench": ("bench.commands", "Measure bundles and codecs against targets and peers."),
}
# What a group needs beyond the base install, by the extra that brings it.
EXTRAS = {"cloud": "cloud", "train": "train", "bench": "bench"}


class LazyGroups(TyperGroup):
    """Knows the groups by name and help text; imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in GROUPS:
            return super().get_command(ctx, cmd_name)
        stand_in = typer.Typer(help=GROUPS[cmd_name][1], name=cmd_name)
        stand_in.callback()(lambda: None)
        return typer.main.get_group(stand_in)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name = args[0]
        if name not in GROUPS:
            return super().resolve_command(ctx, args)
        command = typer.main.get_group(_import_group(name))
        command.name = name
        return name, command, args[1:]


def _import_group(name: str) -> typer.Typer:
    """Raises DataError where the group's extra is not installed."""
    try:
        app: typer.Typer = importlib.import_module(GROUPS[name][0]).app
    except ModuleNotFoundError as error:
        raise _not_installed(error, name) from None
    return app


def _not_installed(error: ModuleNotFoundError, group: str | None) -> IsthmusError:
    extra = EXTRAS.get(group or "", "cloud")
    if error.name in ("train", "bench", "demo"):
        return DataError(
            f"{error.name} runs from a clone of the repository: pip install -c constraints.txt -e '.[{extra}]'"
        )
    return DataError(f"{error.name} is not installed; pip install -c constraints.txt -e '.[{extra}]'")


app = CommandTable(
    cls=LazyGroups,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Split inference: a camera sends a few hundred bytes of learned features, a server answers vision tasks.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"isthmus {version('isthmus')}")
        raise typer.Exit


@app.callback()
def top(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None: ...


@app.command()
def demo(
    images: Annotated[
        list[Path] | None, typer.Argument(help="images to send beside the sample rooms")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for result.json, sheet.png and the maps")] = Path(
        "isthmus-demo"
    ),
    bundle: Annotated[
        Path | None, typer.Option(envvar="ISTHMUS_BUNDLE", help="bundle; the shipped one by default")
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=0, max=100, help="quality; the bundle's default without it")
    ] = None,
    bytes_max: Annotated[
        int | None,
        typer.Option(min=1, help="bytes of a bitstream: takes the best quality that fits, up to --quality"),
    ] = None,
) -> None:
    """Start a cloud and an edge here, send sample rooms through both, show what came back."""
    from demo.demo import run_demo
    from shared.bundle import default_bundle

    run_demo(images or [], out, bundle or default_bundle(), quality, bytes_max)


@app.command()
def split(
    network: Annotated[
        str, typer.Argument(help="a trained network's folder, torchvision:NAME or package.module:factory")
    ],
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of its pictures")] = None,
    every: Annotated[bool, typer.Option("--all", help="also the layers at which it cannot be cut")] = False,
) -> None:
    """List a network's layers, and where it can be cut into an edge's and a cloud's half."""
    try:
        layers = importlib.import_module("train.commands.list_layers")
    except ModuleNotFoundError as error:
        raise _not_installed(error, "train") from None
    layers.show(network, size, every)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="a bitstream's file or a bundle's folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show every field of a bitstream or of a bundle."""
    from shared.process.inspect import inspect_path

    report = inspect_path(path)
    typer.echo(report.as_json() if as_json else report.as_text())


def main() -> None:
    """The console entry."""
    try:
        sys.exit(app(prog_name="isthmus", standalone_mode=False))
    except IsthmusError as error:
        _end(str(error), exit_of(error).status)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        # An edge's image has no package `cloud`; any other module of ours that is missing is a fault of the program.
        if (error.name or "").split(".")[0] in {
            "isthmus",
            "edge",
            "cloud",
            "shared",
            "train",
            "bench",
            "demo",
        } - {error.name}:
            raise
        missing = _not_installed(error, next((name for name in sys.argv[1:2] if name in GROUPS), None))
        _end(str(missing), exit_of(missing).status)
    except BrokenPipeError:
        # The reader of our output has gone (`isthmus inspect ... | head`); nothing is left to say.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        where = f": {error.filename}" if error.filename else ""
        _end(f"cannot go on: {error.strerror}{where}", exit_of(RequestError()).status)
    except Exception as error:
        if not hasattr(
            error, "format_message"
        ):  # wrong usage; its classes are Typer's own in some versions only
            raise
        _end_usage(error)


def _end_usage(error: Any) -> NoReturn:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    command = error.ctx.command_path if getattr(error, "ctx", None) else "isthmus"
    _end(f"{error.format_message()} (see: {command} --help)", error.exit_code)


def _end(text: str, status: int) -> NoReturn:
    from shared.process.cli import complain  # brings pydantic, which --help does without

    complain(text)
    sys.exit(status)


if __name__ == "__main__":
    main()
