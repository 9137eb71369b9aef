"""The bundle: the one folder that is deployed. Reads and checks it; knows neither torch nor ONNX.

    manifest.json         a `Manifest`, with the SHA-256 of every other file and of itself
    model.sig             the manifest's signature (`shared.signing`), or none
    edge.onnx             edge: image -> u, which is z before gain and rounding (fronts, fusion, transform)
    extractor.onnx        edge: u and the position of a quality among the levels -> v and z (gain, rounding, extractor)
    entropy.safetensors   both: the integers of the exact path and of the tables
    cloud.safetensors     cloud: reconstruction, separation, tails of the reference networks
    tail.NAME.onnx        cloud: the tail of a task with any other network; one for each such task, or none
    tasks/NAME/           cloud: a task that was added later; any number, or none
      task.json           an `AddedTask`, with the SHA-256 of the files in its folder and of itself
      task.safetensors    reconstruction.*: from z to its own network's feature; tail.* of a reference network
      tail.onnx           the tail of any other network

The fingerprint is computed from the integers in entropy.safetensors alone, so that a task added later, or a better
reconstruction, leaves it and every stored bitstream valid. Adding a task writes its folder and nothing else. Entries
of tasks/ whose name begins with a dot are half-written folders and are never read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from shared.codec.bitstream import FINGERPRINT_BYTES
from shared.codec.latent_codec import Levels, fingerprint, levels_of
from shared.errors import BundleDamagedError, BundleNotFoundError, UnknownTaskError
from shared.kinds import KINDS
from shared.placement import Fit
from shared.sealed import FileEntry, Sealed, read_checked, read_sealed
from shared.types import BundleInfo, Frozen, TaskInfo, TaskKind

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
EDGE = "edge.onnx"
EXTRACTOR = "extractor.onnx"
ENTROPY = "entropy.safetensors"
CLOUD = "cloud.safetensors"
FILES = (EDGE, EXTRACTOR, ENTROPY, CLOUD)
TASKS = "tasks"
TASK = "task.json"
WEIGHTS = "task.safetensors"
TAIL = "tail.onnx"
ONNX = "onnx"  # the network of a task whose tail is an ONNX file
HOLD, HOLD_MAX = 0.3, 4.0  # of a bundle that states none; `edge.frames` says what it does


def tail_file(task: str) -> str:
    """The name of the file that holds a task's ONNX tail in a bundle."""
    return f"tail.{task}.onnx"


class Preprocess(Frozen):
    """How any image becomes the network's input (3, height, width) float32, exactly as in training.

    With `resize`, the image's shorter side is first scaled to that many pixels, and the middle height x width is then
    cut out, as is usual for classifiers of photographs.
    """

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    fit: Fit = Field(
        "crop",
        description="crop: scale until it covers, cut the middle; stretch: ignore the aspect; letterbox: scale until "
        "all of it fits, bars of the mean colour around it",
    )
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="of RGB in 0..1")
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize: int | None = Field(None, ge=1, le=4096, description="the shorter side before the cut, pixels")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @model_validator(mode="after")
    def _covers(self) -> Preprocess:
        if self.resize is not None and self.fit != "crop":
            raise ValueError(f"resize goes with fit crop; {self.fit} leaves nothing to cut")
        if self.resize is not None and self.resize < max(self.height, self.width):
            raise ValueError(
                f"resize {self.resize} is smaller than the cut of {self.height} x {self.width} pixels"
            )
        return self


# Measured values for a reader of the bundle. Optional: a bundle without them, or with others, serves as well.
Figures = Annotated[dict[str, Any], BeforeValidator(lambda given: given if isinstance(given, dict) else {})]


class Quality(Frozen):
    """One level of the codec. quality: the number in the header; lambda_: weight of the distortion in training."""

    quality: int = Field(ge=0, le=100)
    lambda_: float = Field(alias="lambda", gt=0)


class Task(Frozen):
    """One task of a bundle.

    network, network_config: how to build the tail; the network "onnx" is an ONNX file. split: the layer that ends the
    front, by number or name. feature: the shape of one image's feature there, without the batch. options: of the
    task's kind (`shared.kinds`); absent from the file if there are none, as releases that know none refuse them.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")
    kind: TaskKind
    labels: tuple[str, ...]
    network: str
    network_config: dict[str, Any]
    split: int | str
    feature: tuple[int, ...] = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> Task:
        KINDS[self.kind].options.model_validate(self.options)
        return self

    @model_serializer(mode="wrap")
    def _without_empty_options(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return fields if self.options else {k: v for k, v in fields.items() if k != "options"}


class Manifest(Sealed):
    """manifest.json.

    format: 3 where the codec has a context or a base, which older releases do not know; otherwise 2.
    base: the tasks that can be answered from v alone. hold: of sessions, unless an edge has its own; see `edge.frames`.
    codec: sizes of the codec's modules. qualities: the levels that
    it was trained for, ascending; with several, every whole quality between them can be used as well. default_quality:
    if absent, that of the first level.
    """

    format: Literal[2, 3] = 2
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    created: str
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    preprocess: Preprocess
    codec: dict[str, Any]
    qualities: tuple[Quality, ...] = Field(min_length=1)
    default_quality: int | None = None
    tasks: tuple[Task, ...] = Field(min_length=1)
    base: tuple[str, ...] = ()
    hold: float | None = Field(None, ge=0, le=HOLD_MAX)
    training: dict[str, Any]
    figures: Figures = Field(default_factory=dict)
    licences: dict[str, str]
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _base_is_of_tasks(self) -> Manifest:
        unknown = set(self.base) - {task.name for task in self.tasks}
        if unknown:
            raise ValueError(f"base names {min(unknown)!r}, which is not a task of the bundle")
        if self.base and self.format < 3:
            raise ValueError("a manifest with a base has format 3")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Releases that do not know these fields read a manifest that has none of them."""
        fields: dict[str, Any] = handler(self)
        empty = {"base"} if not self.base else set()
        if self.hold is None:
            empty.add("hold")
        return {k: v for k, v in fields.items() if k not in empty}

    @model_validator(mode="after")
    def _levels_fit(self) -> Manifest:
        levels = self.levels
        if self.default_quality is not None and self.default_quality not in levels:
            raise ValueError(f"default_quality {self.default_quality} is not one of the bundle's: {levels}")
        return self

    @property
    def levels(self) -> Levels:
        return Levels(tuple(level.quality for level in self.qualities))

    @property
    def edge_sha256(self) -> str:
        """The SHA-256, hex, over those of the two files that make z on the edge."""
        both = "".join(self.files[name].sha256 for name in (EDGE, EXTRACTOR))
        return hashlib.sha256(both.encode()).hexdigest()


class AddedTask(Sealed):
    """task.json.

    fingerprint, edge_sha256: those of the bundle that the task was trained for; another edge with the same integers
    would make another z. codec: sizes of the task's reconstruction, as in a manifest. file: task.safetensors. tail:
    tail.onnx, if the task's network is not a reference network.
    """

    format: Literal[1] = 1
    task: Task
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    edge_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    codec: dict[str, Any]
    created: str
    training: dict[str, Any]
    figures: Figures = Field(default_factory=dict)
    licences: dict[str, str]
    file: FileEntry
    tail: FileEntry | None = None

    def read(self, folder: Path) -> dict[str, bytes]:
        """The other files in the folder of task.json, by name, checked. Raises BundleDamagedError."""
        files = {WEIGHTS: self.file} | ({TAIL: self.tail} if self.tail else {})
        return {
            name: read_checked(folder / name, entry, TASK, "the task folder") for name, entry in files.items()
        }


def task_folders(bundle: Path) -> list[Path]:
    """The entries of a bundle's tasks/, sorted by name, without hidden ones. Raises BundleDamagedError."""
    try:
        return sorted(entry for entry in (bundle / TASKS).iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BundleDamagedError(f"cannot read {bundle / TASKS}: {error.strerror}") from None


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. Its files are read on demand, and checked against the manifest as they are read.

    added: the tasks that were added to it, sorted by name.
    """

    path: Path
    manifest: Manifest
    added: tuple[AddedTask, ...] = ()

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Reads and validates the manifest and the task.json of each added task.

        All other files are checked when they are read: an edge does not need all of them.

        Raises BundleNotFoundError or BundleDamagedError.
        """
        bundle = cls.open_without_added(path)
        for folder in task_folders(bundle.path):
            try:
                bundle = bundle.with_added(bundle.read_added(folder))
            except BundleDamagedError as error:
                raise BundleDamagedError(
                    f"{error}; to take the task out: isthmus task remove {bundle.path} {folder.name}"
                ) from None
        return bundle

    @classmethod
    def open_without_added(cls, path: str | Path) -> Bundle:
        """Like `open`, but ignores tasks/. Raises BundleNotFoundError or BundleDamagedError."""
        path = Path(path)
        if not path.is_dir():
            raise BundleNotFoundError(f"no bundle at {path}: a bundle is a folder with a {MANIFEST} in it")
        try:
            manifest = read_sealed(path / MANIFEST, Manifest, "bundle")
        except FileNotFoundError:
            raise BundleNotFoundError(f"no {MANIFEST} in {path}: this folder is not a bundle") from None
        for name in FILES:
            if name not in manifest.files:
                raise BundleDamagedError(f"{path / MANIFEST} does not list {name}")
        return cls(path, manifest)

    def read_task(self, folder: Path) -> AddedTask:
        """The task in any folder, checked: it is intact, made for this bundle, and not a task of its manifest.

        Raises BundleDamagedError.
        """
        try:
            added = read_sealed(folder / TASK, AddedTask, "task")
        except FileNotFoundError:
            raise BundleDamagedError(f"no {TASK} in {folder}: this is not a task folder") from None
        manifest, name = self.manifest, added.task.name
        for thing, given, own in (
            ("fingerprint", added.fingerprint, manifest.fingerprint),
            ("edge", added.edge_sha256, manifest.edge_sha256),
        ):
            if given != own:
                raise BundleDamagedError(
                    f"{folder} was trained for another bundle ({thing} {given[:8]}, not {own[:8]}); "
                    "train it for this one"
                )
        if any(task.name == name for task in manifest.tasks):
            raise BundleDamagedError(
                f"{folder}: {name!r} is a task of the bundle itself; train it under another name"
            )
        return added

    def read_added(self, folder: Path) -> AddedTask:
        """The task in a folder of this bundle's tasks/; the folder must have its name. Raises BundleDamagedError."""
        added = self.read_task(folder)
        if added.task.name != folder.name:
            raise BundleDamagedError(
                f"{folder} holds the task {added.task.name!r}; name the folder {added.task.name}"
            )
        return added

    def with_added(self, added: AddedTask) -> Bundle:
        """This bundle with one more task, which replaces an added one of the same name."""
        rest = self.without_added(added.task.name).added
        return replace(self, added=tuple(sorted((*rest, added), key=lambda one: one.task.name)))

    def without_added(self, name: str) -> Bundle:
        """This bundle without the added task of that name, if there is one."""
        return replace(self, added=tuple(one for one in self.added if one.task.name != name))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the manifest in its order, then the added ones by name."""
        return self.manifest.tasks + tuple(one.task for one in self.added)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that a bitstream's header carries."""
        return bytes.fromhex(self.manifest.fingerprint)[:FINGERPRINT_BYTES]

    def read(self, name: str) -> bytes:
        """A file's bytes, checked. Raises BundleDamagedError."""
        if name not in self.manifest.files:
            raise BundleDamagedError(f"{self.path / MANIFEST} does not list {name}")
        return read_checked(self.path / name, self.manifest.files[name], "manifest", "the bundle")

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
        own = levels_of(tensors)
        if own != self.levels and (own or len(self.levels.qualities) > 1):
            raise BundleDamagedError(
                f"{self.path}: the integers are for qualities {own or 'of one level'}, the manifest says {self.levels}"
            )
        return tensors

    def task(self, name: str) -> Task:
        """The task of that name. Raises UnknownTaskError."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise UnknownTaskError(name, [task.name for task in self.tasks])

    @property
    def levels(self) -> Levels:
        return self.manifest.levels

    def quality(self, quality: int | None) -> int:
        """The quality to use: the given one, or the bundle's default. Raises RequestError for one it does not have."""
        if quality is None:
            default = self.manifest.default_quality
            return self.levels.lowest if default is None else default
        self.levels.position(quality)
        return quality

    def hold(self, hold: float | None) -> float:
        """The hold of sessions to use: the given one, or the bundle's."""
        own = HOLD if self.manifest.hold is None else self.manifest.hold
        return own if hold is None else hold

    def position(self, quality: int) -> float:
        """The position of a quality among the levels, 0..L-1. Raises RequestError for one the bundle does not have."""
        return self.levels.position(quality)

    def info(self) -> BundleInfo:
        """What Describe and GET /v1/bundles report of this bundle."""
        manifest = self.manifest
        return BundleInfo(
            name=manifest.name,
            fingerprint=self.fingerprint.hex(),
            qualities=self.levels.qualities,
            default_quality=self.quality(None),
            tasks=tuple(
                TaskInfo(name=t.name, kind=t.kind, labels=t.labels, ids=tuple(t.options.get("ids", ())))
                for t in self.tasks
            ),
        )
