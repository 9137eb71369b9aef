"""Bundles that differ from another in their fingerprint alone, and a model whose memory is known."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from cloud.engine.load import Loaded
from shared.bundle import ENTROPY, MANIFEST, Bundle
from shared.codec.latent_codec import fingerprint
from shared.encoder import Encoder
from shared.sealed import seal
from support.service import GatedModel

NUMBERS = 1 << 20  # bytes of a `ShelfModel`


def variant(bundle: Path, folder: Path, number: int, name: str = "") -> Path:
    """A sound copy of a bundle with another fingerprint and a later date. name: by default its folder's."""
    hidden = folder.with_name(f".{folder.name}")
    shutil.copytree(bundle, hidden, copy_function=os.link)
    tensors = load((bundle / ENTROPY).read_bytes()) | {"variant": np.array([number], np.int64)}
    data = save(tensors)
    raw = json.loads((bundle / MANIFEST).read_text())
    raw.pop("sha256")
    raw |= {
        "name": name or folder.name,
        "fingerprint": fingerprint(tensors).hex(),
        "created": f"2027-01-01T00:{number:02}:00Z",
    }
    raw["files"][ENTROPY] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    for name, content in ((ENTROPY, data), (MANIFEST, json.dumps(raw | {"sha256": seal(raw)}).encode())):
        (hidden / name).unlink()
        (hidden / name).write_bytes(content)
    hidden.rename(folder)
    return folder


def variants(bundle: Path, folder: Path, count: int) -> list[Path]:
    """As many of them: b0 is the oldest."""
    folder.mkdir()
    return [variant(bundle, folder / f"b{number}", number) for number in range(count)]


class ShelfModel(GatedModel):
    """A gated model of one bundle, which takes `NUMBERS` bytes and a little."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(Encoder(bundle).codec)
        self.bundle = bundle
        self.numbers = np.zeros(NUMBERS, np.uint8)


class ShelfLoads:
    """A `load` that counts: its models by the bundle's name, in the order of loading."""

    def __init__(self) -> None:
        self.models: list[ShelfModel] = []
        self.fail: Exception | None = None

    @property
    def names(self) -> list[str]:
        return [model.bundle.manifest.name for model in self.models]

    def __call__(self, bundle: Bundle) -> Loaded:
        if self.fail is not None:
            raise self.fail
        self.models.append(ShelfModel(bundle))
        return Loaded(self.models[-1], Encoder(bundle))  # type: ignore[arg-type]
