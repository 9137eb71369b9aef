"""What the commands of both sides have in common: files in, answers as text. Knows no model and no transport."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.codec.bitstream import MAX_STREAM_BYTES
from shared.errors import IsthmusError, RequestError, exit_of
from shared.types import Analysis, TaskQuery, Wanted


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


def wanted_of(tasks: Iterable[str] | None, top_k: int) -> Wanted:
    """What the options --task and --top-k ask for. Raises RequestError for a name that no task can have."""
    names = list(tasks or ())
    if any(not 1 <= len(name) <= 64 for name in names):
        raise RequestError("a task's name has 1 to 64 characters")
    return Wanted(tasks=tuple(TaskQuery(name=name, top_k=top_k) for name in names), top_k=top_k)


def told(head: str, analysis: Analysis) -> str:
    """An answer for a person: the line `head`, and a line for each class."""
    lines: Sequence[str] = [
        f"  {task}: {best.label} {best.score:.3f}"
        for task, result in analysis.results.items()
        for best in result.top
    ]
    return "\n".join([head, *lines])
