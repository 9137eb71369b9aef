"""What the commands of both sides have in common: files in, answers as text. Knows no model and no transport."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from shared.codec.bitstream import MAX_STREAM_BYTES
from shared.errors import IsthmusError, RequestError, exit_of
from shared.files import write_atomically
from shared.kinds import KINDS
from shared.kinds.kind import map_of
from shared.maps import MapPng
from shared.types import Analysis, TaskResult, Wanted

MapsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="folder for the maps of answers, as PNG files")
]


def complain(text: str) -> None:
    """One line on stderr."""
    print(f"isthmus: {' '.join(text.split())}", file=sys.stderr)


class Failures:
    """Errors of single files, told as they come, so that the others get their answers; `leave` ends with the worst.

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
        text, name = str(error), str(self._path)
        named = re.search(rf"(?<!\S){re.escape(name)}(?![^\s:,;])", text)
        complain(text if named else f"{name}: {text}")
        self._worst = max(self._worst, exit_of(error).status)
        return True

    def leave(self) -> None:
        """Ends the process where anything failed."""
        if self._worst:
            sys.exit(self._worst)


def read_stream(path: Path) -> bytes:
    """A bitstream's bytes, one more than the limit at most. Raises RequestError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_STREAM_BYTES + 1)
    except FileNotFoundError:
        raise RequestError(f"no such file or folder: {path}") from None
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None


def wanted_of(tasks: Iterable[str] | None, top_k: int, maps: Path | None = None) -> Wanted:
    """What the options --task, --top-k and --maps ask for. Raises RequestError for a name that no task can have."""
    names = list(tasks or ())
    if any(not 1 <= len(name) <= 64 for name in names):
        raise RequestError("a task's name has 1 to 64 characters")
    return Wanted.same(names, top_k, "png" if maps else "none")


def told(head: str, analysis: Analysis) -> str:
    """An answer for a person: the line `head`, the warnings, then each task's lines as its kind makes them."""
    warnings = [f"  warning: {text}" for text in analysis.warnings]
    results = analysis.results.items()
    lines = [f"  {task}: {line}" for task, result in results for line in KINDS[result.kind].lines(result)]
    return "\n".join([head, *warnings, *lines])


class MapFolder:
    """Where --maps puts the maps of answers: <picture>_<task>.png, each whole or absent. None: nowhere."""

    def __init__(self, folder: Path | None, pictures: Sequence[Path] = ()) -> None:
        """Raises RequestError where the folder cannot be made, or two pictures would write the same files."""
        self._folder = folder
        if folder is None:
            return
        if len({path.stem for path in pictures}) < len(pictures):
            raise RequestError("two of the files have the same name, and would overwrite each other's maps")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RequestError(f"cannot make the folder {folder}: {error.strerror}") from None

    def keep(self, picture: str, analysis: Analysis) -> Analysis:
        """Writes the maps of one answer, and gives the answer without them. Raises RequestError."""
        results = {task: self._keep(f"{picture}_{task}.png", r) for task, r in analysis.results.items()}
        return analysis.model_copy(update={"results": results})

    def _keep(self, name: str, result: TaskResult) -> TaskResult:
        found = map_of(result)
        if self._folder is None or found is None:
            return result
        assert isinstance(found, MapPng)  # as --maps asks
        try:
            write_atomically(self._folder / name, found.file())
        except OSError as error:
            raise RequestError(f"cannot write {self._folder / name}: {error.strerror}") from None
        return result.model_copy(update={"map": None})
