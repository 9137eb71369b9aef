"""The parts of a manifest that come from a training: its recipes, and how the tails are built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.bundle import MANIFEST, ONNX, Bundle, Manifest
from shared.files import write_atomically
from train.networks.load import reference_cut
from train.networks.network_folder import NetworkCard

# Keys of recipes that hold paths.
_PATHS = ("data", "validation", "bundle", "network", "init", "weights", "labels")


def without_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe with the names of its files and folders, not their paths, which concern nobody but their machine."""
    out: dict[str, Any] = {
        key: Path(value).name if key in _PATHS and isinstance(value, str) else value
        for key, value in recipe.items()
    }
    if "parts" in out:
        out["parts"] = [without_paths(part) for part in out["parts"]]
    return out


def tail_spec(card: NetworkCard) -> dict[str, Any]:
    """The fields of a manifest's task that say how its tail is built."""
    if reference_cut(card):
        return {"network": card.network, "network_config": card.config, "split": int(card.split or 0)}
    return {"network": ONNX, "network_config": {"of": card.network}, "split": card.split}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a bundle's manifest, sealed. Raises OSError."""
    write_atomically(folder / MANIFEST, manifest.sealed_json())


def add_figures(bundle: Path, figures: dict[str, Any]) -> None:
    """Puts measured figures into a bundle's manifest. Raises BundleError, OSError."""
    manifest = Bundle.open(bundle).manifest
    write_manifest(bundle, manifest.model_copy(update={"figures": manifest.figures | figures}))
