"""Measurements kept on disk, so that an interrupted bench goes on and a repeated one measures nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from shared.bundle import Bundle
from shared.files import write_atomically
from shared.types import Frozen

Packet = TypeVar("Packet", bound=Frozen)


def cached(
    path: Path,
    key: dict[str, Any],
    model: type[Packet],
    compute: Callable[[], Packet],
) -> Packet:
    """The measurement that `path` keeps under this key, or compute(), which is then kept there.

    key: everything that the measurement depends on, as plain values. A file that cannot be read, or that is of another
    key, is measured anew and replaced.
    """
    key = json.loads(json.dumps(key))  # as it comes back from a file: tuples are lists, keys are strings
    try:
        kept = json.loads(path.read_text())
        if kept["key"] == key:
            return model.model_validate(kept["measured"])
    except (FileNotFoundError, ValidationError, ValueError, KeyError, TypeError):
        pass
    measured = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"key": key, "measured": measured.model_dump(mode="json")}
    write_atomically(path, json.dumps(record, indent=1).encode())
    return measured


def bundle_key(bundle: Bundle) -> dict[str, Any]:
    """Everything that the bytes and answers of a bundle depend on."""
    return {
        "fingerprint": bundle.manifest.fingerprint,
        "files": {name: entry.sha256 for name, entry in bundle.manifest.files.items()},
        "added": {added.task.name: added.file.sha256 for added in bundle.added},
    }
