"""Key pairs for signatures, as PEM files."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def write_keys(folder: Path, private: str, public: str) -> None:
    """A pair of P-256."""
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / f"{private}.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    form = PublicFormat.SubjectPublicKeyInfo
    (folder / f"{public}.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, form))
