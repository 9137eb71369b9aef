"""Files that a receiver can check: JSON that carries its own SHA-256, and files that such a document lists.

Knows neither bundles nor tasks.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from shared.errors import BundleDamagedError
from shared.types import Frozen


class FileEntry(Frozen):
    """What a document states of a file that it lists. sha256: hex."""

    sha256: str
    bytes: int


class Sealed(Frozen):
    """A JSON document that shows whether it was changed after it was made."""

    def sealed_json(self) -> bytes:
        """The file's bytes, with a key "sha256" over all the others, so that a changed label does not go unnoticed."""
        raw = self.model_dump(mode="json", by_alias=True)
        return json.dumps({**raw, "sha256": seal(raw)}, indent=1).encode() + b"\n"


def seal(raw: dict[str, Any]) -> str:
    """SHA-256, hex, over a document's keys and values except "sha256", whatever the spaces between them."""
    rest = {key: value for key, value in raw.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


SealedFile = TypeVar("SealedFile", bound=Sealed)


def read_sealed(path: Path, kind: type[SealedFile], what: str) -> SealedFile:
    """Reads a sealed JSON file and checks its format, its fields and its seal.

    what: names the thing in whose folder the file lies, for messages.

    Raises FileNotFoundError or BundleDamagedError.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise BundleDamagedError(f"cannot read {path}: {error}") from None
    try:
        raw = json.loads(text)
        known = get_args(kind.model_fields["format"].annotation)
        if isinstance(raw, dict) and raw.get("format") not in (None, *known):
            raise BundleDamagedError(
                f"{path.parent} has {what} format {raw['format']}; this release reads format "
                + " and ".join(map(str, known))
            )
        given = raw.pop("sha256", None) if isinstance(raw, dict) else None
        document = kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise BundleDamagedError(f"{path}: {where}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise BundleDamagedError(f"{path} is not JSON: {error}; copy the {what} again") from None
    if given != seal(raw):
        raise BundleDamagedError(
            f"{path} was changed after it was made (its SHA-256 differs); copy the {what} again"
        )
    return document


def read_checked(path: Path, entry: FileEntry, listed_in: str, what: str) -> bytes:
    """A file's bytes. Raises BundleDamagedError where they are not those of `entry`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleDamagedError(f"cannot read {path}: {error.strerror}") from None
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleDamagedError(
            f"{path} is not the file that the {listed_in} lists (its SHA-256 differs); copy {what} again"
        )
    return data
