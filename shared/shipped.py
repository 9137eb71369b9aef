"""Which bundle is meant: a folder, the name of one that the clone ships, or none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

SHIPPED = ("photos", "rooms")
DEFAULT = "rooms"


def shipped_bundle(name: str) -> Path:
    """The folder of a bundle that ships. It lies in the clone; an installed package does not carry it and looks in the
    working directory."""
    shipped = Path("deploy") / "bundles" / name
    beside = Path(__file__).resolve().parent.parent / shipped
    return beside if beside.is_dir() else shipped


def find_bundle(given: Path) -> Path:
    """The folder that is given, or the shipped bundle of that name where there is no such folder."""
    if str(given) in SHIPPED and not given.exists():
        return shipped_bundle(str(given))
    return given


def chosen_bundle(given: Path | None) -> Path:
    """The bundle that is used: the given one, otherwise $ISTHMUS_BUNDLE, otherwise `rooms`."""
    if given is None:
        named = os.environ.get("ISTHMUS_BUNDLE")
        return find_bundle(Path(named)) if named else shipped_bundle(DEFAULT)
    return find_bundle(given)


def default_bundle() -> Path:
    """The bundle that is used where none is named."""
    return chosen_bundle(None)


BundlePath = Annotated[Path, AfterValidator(find_bundle)]
