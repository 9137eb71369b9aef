"""The command line: `isthmus demo | edge | cloud | rooms | network | codec | task | bundle | bench | inspect`.

A group's modules are imported when the group is used, so that an edge command loads no torch, no server and no gRPC.
Errors become one line on stderr and an exit status here: 2 for what the user can mend, 1 for the other side. (A command
over several files reports each file's error itself, through `shared.process.cli`.)
"""

from __future__ import annotations

import os
import sys
from pkgutil import extend_path

# The contract's package is isthmus.v1. What clients generate from the .proto into a folder isthmus/ on their path is
# found through this, although the command line has the same name.
__path__: list[str] = extend_path([], "isthmus")

INTERRUPTED = 130  # what a shell gives for Ctrl-C

try:
    import importlib
    from pathlib import Path
    from typing import Annotated, Any, NamedTuple, NoReturn

    import typer

    from shared.errors import DataError, IsthmusError, RequestError, exit_of
    from shared.process.commands import CommandTable, print_error
    from shared.process.commands import Group as CommandGroup
except KeyboardInterrupt:  # most of a short command's time is importing
    sys.exit(INTERRUPTED)


class Group(NamedTuple):
    """A noun of the command line. modules: each has a `CommandTable` named `app`; a wheel lacks those of training."""

    help: str
    modules: tuple[str, ...]


GROUPS = {
    "edge": Group(
        "The camera side: encode images, analyze them, serve the local HTTP API, run a camera box.",
        ("edge.commands", "edge.fetch_commands", "edge.box.commands"),
    ),
    "cloud": Group(
        "The server side: serve gRPC and HTTP, tokens, decode bitstreams, replay, roll bundles out.",
        ("cloud.commands", "cloud.rollout_commands"),
    ),
    "rooms": Group("Render labelled indoor scenes to train on.", ("train.commands.rooms",)),
    "network": Group("Train, import, list and recover task networks.", ("train.commands.network",)),
    "codec": Group(
        "Train a codec for the features of networks.", ("train.commands.codec", "train.commands.try_codec")
    ),
    "task": Group(
        "Train a task for a deployed bundle, add it, remove it.",
        ("train.commands.task", "cloud.task_commands"),
    ),
    "bundle": Group(
        "Build bundles, sign, inspect and evaluate them.",
        ("train.commands.bundle", "shared.process.inspect", "shared.process.signing_commands"),
    ),
    "bench": Group("Measure bundles and codecs against targets and peers.", ("bench.commands",)),
}

# Old names, for one release.
RENAMED = {
    "split": "network layers",
    "cloud add-task": "task add",
    "cloud remove-task": "task remove",
    "train rooms": "rooms render",
    "train network": "network train",
    "train import": "network import",
    "train recover": "network recover",
    "train single": "codec train",
    "train multi": "codec train",
    "train task": "task train",
    "train build": "bundle build",
    "train evaluate": "bundle evaluate",
    "train": "rooms, network, codec, task and bundle",
}

# Packages of ours. One that is missing as a whole is not installed; a module missing in it is a fault of the program.
ROOMS = frozenset(("edge", "cloud", "shared", "train", "bench", "demo"))
FROM_A_CLONE = frozenset(("train", "bench", "demo"))  # those that no wheel holds


def main() -> None:
    """The console entry."""
    try:
        sys.exit(app(prog_name="isthmus", standalone_mode=False))
    except IsthmusError as error:
        _end(str(error), exit_of(error).status)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        room, _, inner = (error.name or "").partition(".")
        if inner and room in ROOMS:
            raise
        missing = _not_installed(error, sys.argv[1:])
        _end(str(missing), exit_of(missing).status)
    except BrokenPipeError:
        # The reader of our output has gone (`isthmus inspect ... | head`); nothing is left to say.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else "cannot go on: "
        _end(f"{where}{error.strerror}", exit_of(RequestError()).status)
    except Exception as error:
        # Wrong usage; its classes are Typer's own in some versions only.
        if not hasattr(error, "format_message"):
            raise
        _end_usage(error)


class LazyGroups(CommandGroup):
    """Knows the groups by name and help text, and imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in GROUPS:
            return super().get_command(ctx, cmd_name)
        stand_in = CommandTable(help=GROUPS[cmd_name].help, name=cmd_name)
        return typer.main.get_group(stand_in)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        _refuse_old_name(args)
        if args[0] not in GROUPS:
            return super().resolve_command(ctx, args)
        return args[0], _group(args[0], args), args[1:]


def _refuse_old_name(words: list[str]) -> None:
    """Raises RequestError with the new name."""
    for count in (2, 1):
        old = " ".join(words[:count])
        if old in RENAMED:
            raise RequestError(f"`isthmus {old}` is now `isthmus {RENAMED[old]}`")


def _group(name: str, words: list[str]) -> Any:
    """Puts together the commands of a group's modules. Raises DataError if a part that is needed is absent."""
    if name == "edge":
        # Before numpy is imported. Its threads wait for each other while other programs have the cores: coding an image
        # took 0.7 ms with one, and 8 ms with two on two busy cores.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    table = CommandTable(name=name, help=GROUPS[name].help, no_args_is_help=True)
    absent = None
    for module in GROUPS[name].modules:
        try:
            part = importlib.import_module(module).app
            table.registered_commands += part.registered_commands
            table.registered_groups += part.registered_groups
        except ModuleNotFoundError as error:
            absent = error
    group = typer.main.get_group(table)
    if absent is not None and not any(word in group.commands or word == "--help" for word in words[1:2]):
        raise _not_installed(absent, words)
    return group


def _not_installed(error: ModuleNotFoundError, words: list[str]) -> IsthmusError:
    """What to install for a command, named by the words after `isthmus`."""
    group, command = [*words, "", ""][:2]
    if group == "bench" or (group, command) == ("codec", "try"):
        extra = "bench"
    elif group in ("rooms", "network", "codec") or command in ("train", "build", "evaluate"):
        extra = "train"
    else:
        extra = "cloud"
    install = f"pip install -c constraints.txt -e '.[{extra}]'"
    if error.name in FROM_A_CLONE:
        what = f"isthmus {group} {command}".strip() if error.name == "train" else error.name
        return DataError(f"{what} runs from a clone of the repository: {install}")
    return DataError(f"{error.name} is not installed; {install}")


def _end_usage(error: Any) -> NoReturn:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    command = error.ctx.command_path if getattr(error, "ctx", None) else "isthmus"
    _end(f"{error.format_message()} (see: {command} --help)", error.exit_code)


def _end(text: str, status: int) -> NoReturn:
    print_error(text)
    sys.exit(status)


app = CommandTable(
    cls=LazyGroups,
    no_args_is_help=True,
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
        list[Path] | None, typer.Argument(help="images to send along with the sample photographs")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="folder for the results: photos/ and rooms/, or with --bundle the folder itself"),
    ] = Path("isthmus-demo"),
    bundle: Annotated[
        Path | None,
        typer.Option(
            envvar="ISTHMUS_BUNDLE",
            help="the bundle's folder, photos or rooms; without it photographs go through photos, rooms through rooms",
        ),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=0, max=100, help="quality; the bundle's default if absent")
    ] = None,
    bytes_max: Annotated[
        int | None,
        typer.Option(
            min=1, max=1 << 30, help="bytes of a bitstream: takes the best quality that fits, up to --quality"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="write into --out although it holds files of something else")
    ] = False,
) -> None:
    """Start a cloud and an edge here, send photographs and rooms through both, show what came back."""
    from demo.demo import run_demo
    from shared.files import refuse_foreign_folder

    refuse_foreign_folder(out, ("result.json", "sheet.png", "photos", "rooms"), force=force)
    run_demo(images or [], out, bundle, quality, bytes_max)


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="a bitstream's or a log's file, - for standard input, or a bundle's folder, photos or rooms"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show every field of a bitstream, of a log of frames or of a bundle."""
    from shared.process.inspect import inspect_path

    for text in inspect_path(path, as_json):
        typer.echo(text)


if __name__ == "__main__":
    main()
