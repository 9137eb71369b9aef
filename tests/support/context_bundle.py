"""A bundle that predicts frames, made of one that does not: random networks of a context, the rest as it was."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from safetensors.numpy import save

from shared.bundle import ENTROPY, MANIFEST, Bundle
from shared.codec.latent_codec import LatentCodec, fingerprint
from support.context_tensors import context_tensors


def with_context(bundle: Path, out: Path) -> Bundle:
    """Writes the bundle to the folder `out`, which must not exist."""
    shutil.copytree(bundle, out)
    old = Bundle.open(bundle)
    tensors, codec = old.entropy(), LatentCodec(old.entropy())
    slices = tuple(int(i >= codec.channels // 2) for i in range(codec.channels))
    tensors |= context_tensors(slices, codec.path.maps_reach)
    data = save(tensors)
    (out / ENTROPY).write_bytes(data)
    entry = old.manifest.files[ENTROPY].model_copy(
        update={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    )
    manifest = old.manifest.model_copy(
        update={
            "fingerprint": fingerprint(tensors).hex(),
            "files": old.manifest.files | {ENTROPY: entry},
        }
    )
    (out / MANIFEST).write_bytes(manifest.sealed_json())
    return Bundle.open(out)
