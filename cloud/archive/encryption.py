"""Bitstreams of an archive, encrypted one by one: AES-256-GCM of the library `cryptography`.

    0xBE 0x47   so that it is no bitstream (0xB7, 0xB8)
    6           key id: the beginning of the SHA-256 of "isthmus archive key id " and the key
    12          nonce, random
    ...         the encrypted bitstream and its tag, 16 bytes

Camera, request id and reception stand beside it, readable, and are what the tag covers too: a bitstream that was moved
to another record is refused. Each camera has its own key, by HKDF-SHA256 from the archive's, since random nonces are
safe for 2^32 bitstreams of a key (NIST SP 800-38D, 8.3): 4 years of one camera at 30 a second.

What is read says by its key id which key it needs. A process reads with the keys that it was given (`use_key`), or that
the environment names: ISTHMUS_ARCHIVE_KEY_FILE or ISTHMUS_ARCHIVE_KEY.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import DataError, RequestError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"\xbe\x47"
_KEY_BYTES = 32
_ID_BYTES = 6
_NONCE_BYTES = 12
_HEAD = len(MAGIC) + _ID_BYTES
OVERHEAD = _HEAD + _NONCE_BYTES + 16
_CAMERAS = 1024  # keys of cameras that are held
_MAKE = "openssl rand -hex 32 makes one"

KEY_FILE_VARIABLE = "ISTHMUS_ARCHIVE_KEY_FILE"
KEY_VARIABLE = "ISTHMUS_ARCHIVE_KEY"


class ArchiveKey:
    """One key. Neither its text nor its representation shows it.

    text: 64 hex digits; blanks around them do not count. Raises RequestError.
    """

    def __init__(self, text: str) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip(), re.ASCII):
            raise RequestError(f"the archive's key is not 64 hex digits; {_MAKE}")
        if find_spec("cryptography") is None:
            raise RequestError("encryption needs cryptography: pip install -c constraints.txt -e '.[cloud]'")
        self._secret = bytes.fromhex(text.strip())
        self.id = hashlib.sha256(b"isthmus archive key id " + self._secret).digest()[:_ID_BYTES]
        self.mark = MAGIC + self.id  # what it encrypts begins with it
        self._of_camera = functools.lru_cache(_CAMERAS)(self._derive)

    def __repr__(self) -> str:
        return f"ArchiveKey({self.id.hex()})"

    def encrypt(self, data: bytes, camera: str, request_id: str, received_us: int) -> bytes:
        """The encrypted form of a record's bitstream."""
        nonce = os.urandom(_NONCE_BYTES)
        beside = _beside(camera, request_id, received_us)
        return self.mark + nonce + self._of_camera(camera).encrypt(nonce, data, beside)

    def encrypt_again(self, data: bytes, camera: str, request_id: str, received_us: int) -> bytes:
        """The same of what is stored so far: a bitstream, or one that is encrypted with a key that this process has.

        What is damaged only gets this key's id: it is refused by name, and no other key is needed for that. Raises
        DataError.
        """
        plain = decrypt(data, camera, request_id, received_us)
        if is_encrypted(plain):
            return self.mark + plain[_HEAD:]
        return self.encrypt(plain, camera, request_id, received_us)

    def decrypt(self, encrypted: bytes, camera: str, request_id: str, received_us: int) -> bytes | None:
        """The bitstream. None: it is damaged, or of another record."""
        from cryptography.exceptions import InvalidTag

        nonce, rest = encrypted[_HEAD : _HEAD + _NONCE_BYTES], encrypted[_HEAD + _NONCE_BYTES :]
        try:
            return self._of_camera(camera).decrypt(nonce, rest, _beside(camera, request_id, received_us))
        except (InvalidTag, ValueError):
            return None

    def _derive(self, camera: str) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"isthmus archive 1 " + camera.encode()
        return AESGCM(HKDF(SHA256(), _KEY_BYTES, salt=None, info=info).derive(self._secret))


_keys: dict[bytes, ArchiveKey] = {}


def use_key(key: ArchiveKey) -> None:
    """Lets this process read what was encrypted with a key."""
    _keys[key.id] = key


def read_key(file: Path | None, text: str | None = None) -> ArchiveKey | None:
    """The key of a file, or the one that `text` is; None without either. Raises RequestError, which shows no key."""
    if file is None:
        return None if text is None else ArchiveKey(text)
    try:
        with file.open("rb") as opened:
            content = opened.read(1024)
        return ArchiveKey(content.decode("ascii", "replace"))
    except OSError as error:
        raise RequestError(f"cannot read the archive's key from {file}: {error.strerror}") from None
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from None


def key_of_environment() -> ArchiveKey | None:
    """Raises RequestError where what the environment names is no key."""
    file, text = os.environ.get(KEY_FILE_VARIABLE), os.environ.get(KEY_VARIABLE)
    return read_key(Path(file) if file else None, text or None)


def is_encrypted(data: bytes) -> bool:
    return data[: len(MAGIC)] == MAGIC


def decrypt(data: bytes, camera: str, request_id: str, received_us: int) -> bytes:
    """The bitstream of a record, whether it is encrypted or not. One that is damaged is returned as it is, encrypted:
    `is_encrypted` says so.

    Raises DataError where this process has not the key.
    """
    if not is_encrypted(data):
        return data
    opened = _key(data[len(MAGIC) : _HEAD]).decrypt(data, camera, request_id, received_us)
    return data if opened is None else opened


def _key(key_id: bytes) -> ArchiveKey:
    """Raises DataError."""
    if key_id not in _keys and (named := key_of_environment()) is not None:
        use_key(named)
    if key_id not in _keys:
        raise DataError(wrong_key(key_id, next(iter(_keys.values()), None)))
    return _keys[key_id]


def wrong_key(key_id: bytes, given: ArchiveKey | None) -> str:
    """What is said where an archive needs the key of an id, and another or none is given."""
    needs = f"this archive is encrypted with the key {key_id.hex()}"
    if given is None:
        return f"{needs}, and none is given: name its file with --archive-key-file or {KEY_FILE_VARIABLE}"
    return f"{needs}; the one given is {given.id.hex()}"


def _beside(camera: str, request_id: str, received_us: int) -> bytes:
    return f"{camera}\0{request_id}\0{received_us}".encode()
