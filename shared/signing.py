"""Signatures of bundles: made by whoever builds them, checked by the boxes that run them.

The file `model.sig` has the format of OpenSSF model-signing 1 with a key pair, whose own tool reads and writes it:

    Sigstore bundle (JSON) -> DSSE envelope, ECDSA over its payload -> in-toto statement -> SHA-256 of every file

The files are the manifest and all that it lists. A box has the edge half alone: there the manifest's SHA-256 is the
one in the signature, and each file's is the one in the manifest. Tasks that are added later are not signed; they run
on the cloud. No certificate, no transparency log and no network takes part. Needs the extra `signing`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.bundle import MANIFEST, SIGNATURE, Bundle
from shared.errors import BundleDamagedError, BundleUnsignedError, RequestError
from shared.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
SIGNATURE_BYTES_MAX = 1 << 20
KEY_BYTES_MAX = 1 << 16


def sign(bundle: Bundle, private_key: Path, password: str | None = None) -> None:
    """Checks every file of a bundle, and writes its model.sig. Raises BundleError or RequestError."""
    for name in bundle.manifest.files:
        bundle.read(name)
    key = _private_key(private_key, password)
    digests = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    digests[MANIFEST] = _sha256(bundle.path / MANIFEST)
    payload = json.dumps(_statement(bundle.manifest.name, digests)).encode()
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"sig": base64.b64encode(_ecdsa_sign(key, _signed_bytes(payload))).decode(), "keyid": ""}
        ],
    }
    material = {"publicKey": {"hint": _hint(key.public_key())}, "tlogEntries": []}
    document = {"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    try:
        write_atomically(bundle.path / SIGNATURE, json.dumps(document).encode())
    except OSError as error:
        raise RequestError(f"cannot write {bundle.path / SIGNATURE}: {error.strerror}") from None


def verify(bundle: Bundle, public_key: Path) -> None:
    """Checks that the holder of a key signed this bundle, by its manifest.

    The other files are checked against the manifest when they are read, as always.

    Raises BundleUnsignedError, or RequestError for a key that cannot be read.
    """
    path = bundle.path / SIGNATURE
    key = _public_key(public_key)
    try:
        if path.stat().st_size > SIGNATURE_BYTES_MAX:
            raise BundleUnsignedError(f"{path} is too large to be a signature")
        digests = _signed_digests(path.read_bytes(), key)
    except FileNotFoundError:
        raise BundleUnsignedError(
            f"{bundle.path} is not signed; sign it where it was built: isthmus bundle sign"
        ) from None
    except OSError as error:
        raise BundleUnsignedError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BundleUnsignedError(f"{path} is no signature that is known here: {error}") from None
    wrong = digests.get(MANIFEST) != _sha256(bundle.path / MANIFEST) or any(
        digests.get(name) != entry.sha256 for name, entry in bundle.manifest.files.items()
    )
    if wrong:
        raise BundleUnsignedError(
            f"{path} is the signature of another bundle, or of an earlier state of this one"
        )


def _statement(name: str, digests: dict[str, str]) -> dict[str, Any]:
    """The in-toto statement over files. digests: SHA-256, hex, by name."""
    whole = hashlib.sha256()
    resources = []
    for file in sorted(digests):
        whole.update(bytes.fromhex(digests[file]))
        resources.append({"name": file, "algorithm": "sha256", "digest": digests[file]})
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [SIGNATURE, "tasks"],
    }
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole.hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": serialization, "resources": resources},
    }


def _signed_digests(data: bytes, key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The SHA-256 of each file in a signature that holds. Raises BundleUnsignedError, and ValueError or its kin."""
    envelope = json.loads(data)["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    [signature] = envelope["signatures"]
    if not _ecdsa_holds(key, base64.b64decode(signature["sig"], validate=True), _signed_bytes(payload)):
        raise BundleUnsignedError("the bundle was signed with another key, or changed after it was signed")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise ValueError("it is not an in-toto statement")
    statement = json.loads(payload)
    if (statement["_type"], statement["predicateType"]) != (STATEMENT, PREDICATE):
        raise ValueError("it is not a statement about a model's files")
    digests: dict[str, str] = {}
    for resource in statement["predicate"]["resources"]:
        if resource["algorithm"] != "sha256" or resource["name"] in digests:
            raise ValueError("it lists a file twice, or without a SHA-256")
        digests[str(resource["name"])] = str(resource["digest"])
    return digests


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding, over which the signature is made."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleDamagedError(f"cannot read {path}: {error.strerror}") from None


# The library is imported where it is used: most boxes start without it.


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.PEM, form)).hexdigest()


def _hash(key: ec.EllipticCurvePublicKey) -> Any:
    """What ECDSA hashes with, by the size of the curve, as Sigstore has it."""
    from cryptography.hazmat.primitives import hashes

    by_size: dict[int, Any] = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}
    return by_size[key.curve.key_size]()


def _ecdsa_sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    return key.sign(data, ec.ECDSA(_hash(key.public_key())))


def _ecdsa_holds(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key.verify(signature, data, ec.ECDSA(_hash(key)))
    except InvalidSignature:
        return False
    return True


def _private_key(path: Path, password: str | None) -> ec.EllipticCurvePrivateKey:
    """Raises RequestError."""
    data = _key_bytes(path)
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    given = password.encode() if password else None
    try:
        key = load_pem_private_key(data, given)
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is no private key that can be read: {error}", setting="key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.key_size not in (256, 384, 521):
        raise RequestError(f"{path} is not a private key of P-256, P-384 or P-521", setting="key")
    return key


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Raises RequestError."""
    data = _key_bytes(path)
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is no public key that can be read: {error}", setting="key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.key_size not in (256, 384, 521):
        raise RequestError(f"{path} is not a public key of P-256, P-384 or P-521", setting="key")
    return key


def _key_bytes(path: Path) -> bytes:
    """Raises RequestError, also where the library is not installed, since everything begins with a key."""
    if find_spec("cryptography") is None:
        raise RequestError("signatures need cryptography: pip install -c constraints.txt -e '.[signing]'")
    try:
        with path.open("rb") as file:
            return file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise RequestError(f"cannot read the key {path}: {error.strerror}", setting="key") from None
