"""What the commands of both sides share: files and pipes in and out, answers as text.

Knows no model and no transport.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Annotated, cast

import typer

from shared.errors import IsthmusError, RequestError, exit_of
from shared.files import refuse_foreign_folder, write_atomically
from shared.kinds import KINDS
from shared.kinds.kind import map_of
from shared.maps import MapPng
from shared.process.commands import print_error, with_setting_named
from shared.types import Analysis, TaskResult, Wanted

STANDARD = Path("-")  # standard input or output, as an argument
STANDARD_OUTPUT = frozenset(("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"))
MAPS_MARK = ".isthmus-maps"  # file that marks a folder which --maps began

# Beyond these a number is a slip of the hand; the machine would find out minutes later, or never.
THREADS_MAX, PORT_MAX, HOUR_MS = 256, 65535, 3_600_000

BundleOption = Annotated[
    Path | None,
    typer.Option(envvar="ISTHMUS_BUNDLE", help="the bundle's folder, photos or rooms; rooms by default"),
]
TaskOption = Annotated[list[str] | None, typer.Option(help="task wanted, repeatable; every task by default")]
TopKOption = Annotated[int, typer.Option(min=1, max=100, help="classes to show")]
MapsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="folder for the maps of answers, as PNG files")
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="write into the folder of --maps although it holds something else")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document a line")]


class Failures:
    """Errors of single files: printed as they come, so that the other files get their answers. `leave` ends the
    process with the worst exit status.

    with failures.of(path): ...
    """

    def __init__(self) -> None:
        self._worst = 0
        self._path: Path | None = None

    def of(self, path: Path) -> Failures:
        self._path = path
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, IsthmusError):
            return False
        name = "standard input" if self._path == STANDARD else str(self._path)
        text = str(with_setting_named(error))
        named = re.search(rf"(?<!\S){re.escape(name)}(?![^\s:,;])", text)
        print_error(text if named else f"{name}: {text}")
        self._worst = max(self._worst, exit_of(error).status)
        return True

    def leave(self) -> None:
        """Ends the process if anything failed."""
        if self._worst:
            sys.exit(self._worst)


def read_standard_input(bytes_max: int) -> bytes:
    """The bytes of standard input, one more than `bytes_max` at most."""
    return sys.stdin.buffer.read(bytes_max + 1)


def stem_of(path: Path) -> str:
    """The name, without its ending, of what is made from an input file."""
    return "stdin" if path == STANDARD else path.stem


def is_standard_output(path: Path) -> bool:
    """Whether a path names standard output, so that a command's report must go elsewhere."""
    return str(path) in STANDARD_OUTPUT


def write_output(path: Path, data: bytes) -> None:
    """Writes a file that is whole or absent, or through a pipe or device as it is. Raises RequestError."""
    try:
        if is_standard_output(path):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        elif path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as file:  # renaming over it would destroy it
                file.write(data)
        else:
            write_atomically(path, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def open_stream(path: Path) -> Iterator[BufferedReader]:
    """A file or standard input, to read. Raises RequestError, also where reading inside the block fails."""
    if path == STANDARD:
        yield cast(BufferedReader, sys.stdin.buffer)
        return
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise RequestError(f"no such file or folder: {path}") from None
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None


def wanted_of(tasks: Iterable[str] | None, top_k: int, maps: Path | None = None) -> Wanted:
    """The answers wanted, from the options for tasks, classes and maps.

    Raises RequestError for a name that no task can have.
    """
    names = list(tasks or ())
    if any(not 1 <= len(name) <= 64 for name in names):
        raise RequestError("a task's name has 1 to 64 characters", setting="task")
    return Wanted.same(names, top_k, "png" if maps else "none")


def format_analysis(head: str, analysis: Analysis) -> str:
    """An answer as text: the line `head`, the warnings, then each task's lines as its kind makes them."""
    warnings = [f"  warning: {text}" for text in analysis.warnings]
    results = analysis.results.items()
    lines = [f"  {task}: {line}" for task, result in results for line in KINDS[result.kind].lines(result)]
    return "\n".join([head, *warnings, *lines])


class MapFolder:
    """Writes the maps of answers to <image>_<task>.png in a folder, each whole or absent; without a folder, nothing."""

    def __init__(self, folder: Path | None, images: Sequence[Path] = (), force: bool = False) -> None:
        """Raises RequestError where the folder cannot be made, holds something else (unless `force`), or two images
        would write the same files."""
        self._folder = folder
        if folder is None:
            return
        if len({stem_of(path) for path in images}) < len(images):
            raise RequestError("two of the files have the same name, and would overwrite each other's maps")
        try:
            folder.mkdir(exist_ok=True)
            refuse_foreign_folder(folder, (MAPS_MARK,), force=force)
            (folder / MAPS_MARK).touch()
        except OSError as error:
            raise RequestError(f"cannot make the folder {folder}: {error.strerror}") from None

    def save(self, image: str, analysis: Analysis) -> Analysis:
        """Writes the maps of one answer, and returns the answer without them. Raises RequestError."""
        return analysis.model_copy(update={"results": self.save_results(image, analysis.results)})

    def save_results(self, image: str, results: Mapping[str, TaskResult]) -> dict[str, TaskResult]:
        """Writes the maps of some results, and returns the results without them. Raises RequestError."""
        return {task: self._save(f"{image}_{task}.png", result) for task, result in results.items()}

    def _save(self, name: str, result: TaskResult) -> TaskResult:
        found = map_of(result)
        if self._folder is None or found is None:
            return result
        assert isinstance(found, MapPng)  # as `wanted_of` asks for with a folder
        try:
            write_atomically(self._folder / name, found.file())
        except OSError as error:
            raise RequestError(f"cannot write {self._folder / name}: {error.strerror}") from None
        return result.model_copy(update={"map": None})
