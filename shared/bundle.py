"""The bundle: the one folder that is deployed. Reads and checks it; knows neither torch nor ONNX.

    manifest.json         what this module's `Manifest` holds, with the SHA-256 of every other file and of itself
    edge.onnx             edge: image -> v and z (fronts, fusion, transform, extractor)
    entropy.safetensors   both: the integers of the exact path and of the tables
    cloud.safetensors     cloud: reconstruction, separation, tails

The fingerprint is computed from the integers in entropy.safetensors alone, so that a task added later, or a better
reconstruction, leaves it and every stored bitstream valid.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from shared.codec.bitstream import FINGERPRINT_BYTES
from shared.codec.codec import fingerprint
from shared.errors import BundleDamagedError, BundleNotFoundError, RequestError, UnknownTaskError
from shared.types import BundleInfo, Frozen, TaskInfo

MANIFEST = "manifest.json"
EDGE = "edge.onnx"
ENTROPY = "entropy.safetensors"
CLOUD = "cloud.safetensors"
FILES = (EDGE, ENTROPY, CLOUD)
FORMAT = 1


def default_bundle() -> Path:
    """The bundle used where none is named: $ISTHMUS_BUNDLE, or the shipped one, beside the code or in the folder that
    the program was started in (for an installed package, which does not carry it)."""
    named = os.environ.get("ISTHMUS_BUNDLE")
    if named:
        return Path(named)
    shipped = Path("deploy") / "bundles" / "rooms"
    beside = Path(__file__).resolve().parent.parent / shipped
    return beside if beside.is_dir() else shipped


class FileEntry(Frozen):
    sha256: str
    bytes: int


class Preprocess(Frozen):
    """From any picture to the network's input (3, height, width) float32, exactly as in training."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    fit: Literal["crop", "stretch"] = Field(
        "crop", description="crop: scale until it covers, cut the middle; stretch: ignore the aspect"
    )
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="of RGB in 0..1")
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Quality(Frozen):
    """One rate of the codec. quality: the header's number; lambda_: weight of the distortion in training."""

    quality: int = Field(ge=0, le=100)
    lambda_: float = Field(alias="lambda", gt=0)


class Task(Frozen):
    """One task of a bundle.

    network and network_config say how to build the tail; split: layers in the front; feature: shape of one picture's
    feature there, without the batch.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")
    kind: Literal["classification"]
    labels: tuple[str, ...]
    network: str
    network_config: dict[str, Any]
    split: int = Field(ge=0)
    feature: tuple[int, ...] = Field(min_length=1)


class Manifest(Frozen):
    """manifest.json. codec: sizes of the codec's modules."""

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    created: str
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    preprocess: Preprocess
    codec: dict[str, Any]
    qualities: tuple[Quality, ...] = Field(min_length=1)
    tasks: tuple[Task, ...] = Field(min_length=1)
    training: dict[str, Any]
    figures: dict[str, Any]
    licences: dict[str, str]
    files: dict[str, FileEntry]

    def sealed_json(self) -> bytes:
        """The file's bytes, with a key "sha256" over all the others, so that a changed label does not go unnoticed."""
        raw = self.model_dump(mode="json", by_alias=True)
        return json.dumps({**raw, "sha256": seal(raw)}, indent=1).encode() + b"\n"


def seal(raw: dict[str, Any]) -> str:
    """SHA-256, hex, over a manifest's keys and values but for "sha256", whatever the spaces between them."""
    rest = {key: value for key, value in raw.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. Files are read when asked for, and checked against the manifest as they are read."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read and validate the manifest. Its files are checked when they are read: an edge needs not all of them.

        Raises BundleNotFoundError or BundleDamagedError.
        """
        path = Path(path)
        if not path.is_dir():
            raise BundleNotFoundError(f"no bundle at {path}: a bundle is a folder with a {MANIFEST} in it")
        try:
            text = (path / MANIFEST).read_text("utf-8")
        except FileNotFoundError:
            raise BundleNotFoundError(f"no {MANIFEST} in {path}: this folder is not a bundle") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BundleDamagedError(f"cannot read {path / MANIFEST}: {error}") from None
        try:
            raw = json.loads(text)
            if isinstance(raw, dict) and raw.get("format") not in (None, FORMAT):
                raise BundleDamagedError(
                    f"{path} has bundle format {raw['format']}; this release reads format {FORMAT}"
                )
            given = raw.pop("sha256", None) if isinstance(raw, dict) else None
            manifest = Manifest.model_validate(raw)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BundleDamagedError(
                f"{path / MANIFEST} is not JSON: {error}; copy the bundle again"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise BundleDamagedError(f"{path / MANIFEST}: {where}: {first['msg']}") from None
        if given != seal(raw):
            raise BundleDamagedError(
                f"{path / MANIFEST} was changed after it was made (its SHA-256 differs); copy the bundle again"
            )
        for name in FILES:
            if name not in manifest.files:
                raise BundleDamagedError(f"{path / MANIFEST} does not list {name}")
        return cls(path, manifest)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that a bitstream's header carries."""
        return bytes.fromhex(self.manifest.fingerprint)[:FINGERPRINT_BYTES]

    def read(self, name: str) -> bytes:
        """A file's bytes, checked. Raises BundleDamagedError."""
        entry = self.manifest.files[name]
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise BundleDamagedError(f"cannot read {self.path / name}: {error.strerror}") from None
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleDamagedError(
                f"{self.path / name} is not the file that the manifest lists (its SHA-256 differs); "
                "copy the bundle again"
            )
        return data

    def entropy(self) -> dict[str, NDArray[Any]]:
        """The integers of the entropy model, checked against the fingerprint. Raises BundleDamagedError."""
        try:
            tensors: dict[str, NDArray[Any]] = load_safetensors(self.read(ENTROPY))
        except SafetensorError as error:
            raise BundleDamagedError(f"{self.path / ENTROPY}: {error}") from None
        if any(not np.issubdtype(tensor.dtype, np.integer) for tensor in tensors.values()):
            raise BundleDamagedError(f"{self.path / ENTROPY} holds something other than integers")
        actual = fingerprint(tensors).hex()
        if actual != self.manifest.fingerprint:
            raise BundleDamagedError(
                f"{self.path}: the integers have fingerprint {actual[:8]}, the manifest says "
                f"{self.manifest.fingerprint[:8]}; copy the bundle again"
            )
        return tensors

    def task(self, name: str) -> Task:
        """Raises UnknownTaskError."""
        for task in self.manifest.tasks:
            if task.name == name:
                return task
        raise UnknownTaskError(name, [task.name for task in self.manifest.tasks])

    def quality(self, quality: int | None) -> int:
        """The quality level to use: the one given, or the bundle's first. Raises RequestError for an unknown one."""
        known = [level.quality for level in self.manifest.qualities]
        if quality is None:
            return known[0]
        if quality not in known:
            raise RequestError(f"quality {quality} is not one of this bundle's: {', '.join(map(str, known))}")
        return quality

    def info(self) -> BundleInfo:
        manifest = self.manifest
        return BundleInfo(
            name=manifest.name,
            fingerprint=self.fingerprint.hex(),
            qualities=tuple(level.quality for level in manifest.qualities),
            tasks=tuple(TaskInfo(name=t.name, kind=t.kind, labels=t.labels) for t in manifest.tasks),
        )
