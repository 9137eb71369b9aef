"""What is checked of a bundle before a box runs it: its signature, its files, its networks."""

from __future__ import annotations

import io
import re
from pathlib import Path

from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import RequestError

_FINGERPRINT = re.compile(r"[0-9a-f]{8,64}")


def load(bundle: Bundle, threads: int = 1, public_key: Path | None = None) -> Encoder:
    """An encoder that has encoded one grey image. Blocks.

    public_key: of whoever must have signed the bundle; None for anybody's. Raises BundleError, or RequestError for a
    key that cannot be read.
    """
    from PIL import Image

    if public_key is not None:
        from shared.signing import verify

        verify(bundle, public_key)
    encoder = Encoder(bundle, threads)
    size = bundle.manifest.preprocess
    grey = io.BytesIO()
    Image.new("RGB", (size.width, size.height), "grey").save(grey, "PNG")
    encoder.encode(grey.getvalue())
    return encoder


def check_bundle(folder: Path, public_key: Path | None = None) -> None:
    """Loads an edge half as `load` does. Raises what it raises."""
    load(Bundle.open_without_added(folder), public_key=public_key)


def check_fingerprint(fingerprint: str) -> None:
    """Raises RequestError."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise RequestError("a fingerprint has 8 to 64 digits of 0-9 a-f", setting="fingerprint")
