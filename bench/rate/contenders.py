"""The ways to bring a picture's tasks to a server, each as bytes spent and what the tasks' networks then give.

Legend: B pictures, a task's output (B, K), or a map (B, K or 3, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from bench.rate.feature_codecs import Features, SentFeatures, send_hevc, send_raw
from bench.rate.image_codecs import HEVC_PRESET, ImageCodec
from bench.rooms.measure import bundle_identity
from cloud.engine.bundle_model import CloudModel
from cloud.networks.networks import feature_shape, whole_output
from cloud.networks.sizes import CodecConfig
from shared.bundle import Bundle, Task
from shared.codec.bitstream import Bitstream
from shared.encoder import Encoder
from shared.errors import DataError
from shared.types import Frozen, TaskKind
from train.bundle.evaluate import Figures, bitstreams, main_qualities
from train.codec.split_networks import Head, as_map, load_run
from train.data.dataset import Dataset, in_order, network_input
from train.data.feature_cache import weights_digest
from train.loop.scoring import Metric, count, labelled, metric_of, target_of
from train.networks.load import NetworkSpec, cut, load_network_spec
from train.networks.network_folder import NetworkCard

Family = Literal["uncompressed", "isthmus", "image", "feature", "learned"]
Sizes = NDArray[np.number[Any]]
BITS, QPS = (8, 6, 4, 2), (10, 22, 29, 34, 39, 45)
BATCH = 32


class Point(Frozen):
    """One setting of a way. bytes: mean of a picture, by task, as a way may send each task its own."""

    setting: str
    bytes: dict[str, float]
    tasks: Figures


class MeasuredWay(Frozen):
    """What a way gave over `pictures` pictures. together: what it sends serves all tasks at once."""

    name: str
    family: Family
    settings: str
    together: bool
    pictures: int
    points: tuple[Point, ...]

    def point(self, setting: str) -> Point:
        return next(point for point in self.points if point.setting == setting)


class Coded(NamedTuple):
    """Some pictures at one setting: bytes of each (B,) and outputs, by task."""

    setting: str
    sizes: Mapping[str, Sizes]
    outputs: Mapping[str, Tensor]


class Way(Protocol):
    """name: also of the file that keeps its figures. settings: what exactly was done, and which bytes count. together:
    what it sends serves all tasks at once."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> str: ...

    @property
    def family(self) -> Family: ...

    @property
    def together(self) -> bool: ...

    def of(self) -> dict[str, Any]:
        """What its figures depend on, besides pictures and networks."""

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        """Pictures (B, H, W, 3) at every setting."""


class Network(NamedTuple):
    """An uncompressed network of the bundle's task; front and head: its two parts where the bundle cuts it."""

    task: Task
    whole: nn.Module
    front: nn.Module
    head: Head


class Networks:
    """The uncompressed networks of a bundle's tasks. Raises DataError where one is missing or of another kind."""

    def __init__(self, bundle: Bundle, folders: Sequence[str], place: torch.device) -> None:
        self.preprocess, self._place = bundle.manifest.preprocess, place
        left = {folder: load_network_spec(NetworkSpec(network=folder)) for folder in folders}
        self.by_task: dict[str, Network] = {}
        for task in bundle.tasks:
            folder = next((folder for folder, (_, card) in left.items() if card.task == task.kind), None)
            if folder is None:
                raise DataError(
                    f"--network: none is for {task.name} ({task.kind}); name one for each task of {bundle.path}"
                )
            self.by_task[task.name] = self._network(task, folder, *left.pop(folder))
        if left:
            folder, (_, card) = next(iter(left.items()))
            raise DataError(f"--network {folder}: {bundle.path} has no further task of {card.task}")

    def _network(self, task: Task, folder: str, whole: nn.Module, card: NetworkCard) -> Network:
        if card.preprocess != self.preprocess:
            raise DataError(
                f"--network {folder}: it takes other pictures ({card.preprocess}) than the bundle"
            )
        front, tail = cut(whole, card.model_copy(update={"split": task.split}))
        head = Head(tail, task.kind, feature_shape(front, card.preprocess.height, card.preprocess.width))
        return Network(task, *(part.to(self._place).eval() for part in (whole, front, head)))

    @property
    def kinds(self) -> dict[str, TaskKind]:
        return {name: network.task.kind for name, network in self.by_task.items()}

    def of(self) -> dict[str, Any]:
        return {name: weights_digest(network.whole) for name, network in self.by_task.items()}

    def input(self, pixels: NDArray[np.uint8]) -> Tensor:
        return network_input(pixels, self.preprocess).to(self._place)

    def outputs(self, pixels: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Of the whole networks, for pictures (B, H, W, 3)."""
        x = self.input(pixels)
        return {
            name: whole_output(network.whole, x, network.task.kind) for name, network in self.by_task.items()
        }


@dataclass
class ImageWay:
    """The picture through an image codec, then through the whole networks."""

    codec: ImageCodec
    networks: Networks
    family: Family = "image"
    together: bool = True

    @property
    def name(self) -> str:
        return self.codec.name

    @property
    def settings(self) -> str:
        return self.codec.settings

    def of(self) -> dict[str, Any]:
        return {"settings": self.settings, "ladder": self.codec.ladder}

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        for setting in self.codec.ladder:
            sent = self.codec.send(pixels, setting)
            outputs = self.networks.outputs(sent.pixels)
            yield Coded(
                f"{self.codec.dial} {setting}" if self.codec.dial else self.codec.settings,
                dict.fromkeys(outputs, sent.sizes),
                outputs,
            )


class IsthmusWay:
    """The bundle's own bitstreams, at every quality level. Raises IsthmusError."""

    name = "Isthmus"
    family: Family = "isthmus"
    together = True
    settings = "bitstreams as the edge writes them, container included"

    def __init__(self, bundle: Bundle, device: str) -> None:
        self._bundle = bundle
        self._encoder, self._model = (
            Encoder(bundle, threads=torch.get_num_threads()),
            CloudModel(bundle, device),
        )

    def of(self) -> dict[str, Any]:
        return bundle_identity(self._bundle)

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        x = network_input(pixels, self._bundle.manifest.preprocess).numpy()
        u = self._encoder.features(x)
        for quality in main_qualities(self._bundle):
            files = [stream.pack() for stream in bitstreams(self._encoder, u, quality)[0]]
            streams = [Bitstream.unpack(file) for file in files]
            qualities = [quality] * len(streams)
            grid = streams[0].h, streams[0].w
            z = self._model.codec.decode_batch([(one.b_v, one.b_z) for one in streams], *grid, qualities)
            names = [task.name for task in self._bundle.tasks]
            outputs = self._model.outputs(z, {name: range(len(streams)) for name in names}, qualities)
            sizes = np.array([len(file) for file in files])
            yield Coded(f"quality {quality}", dict.fromkeys(outputs, sizes), outputs)


@dataclass
class FeatureWay:
    """Each task's own feature, sent as numbers in one way or another; the tail follows."""

    name: str
    settings: str
    ladder: Mapping[str, Callable[[Features], SentFeatures]]
    networks: Networks
    family: Family = "feature"
    together: bool = False

    def of(self) -> dict[str, Any]:
        cuts = {
            name: [network.task.split, network.task.feature]
            for name, network in self.networks.by_task.items()
        }
        return {"settings": self.settings, "ladder": list(self.ladder), "cuts": cuts}

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        x = self.networks.input(pixels)
        features = {
            name: as_map(network.front(x)).cpu().numpy() for name, network in self.networks.by_task.items()
        }
        for setting, send in self.ladder.items():
            sizes, outputs = {}, {}
            for name, network in self.networks.by_task.items():
                sizes[name], made = send(features[name])
                outputs[name] = network.head(torch.from_numpy(made).to(x.device))
            yield Coded(setting, sizes, outputs)


def hybrid_way(networks: Networks, bits: Sequence[int] = BITS, qps: Sequence[int] = QPS) -> FeatureWay:
    ladder = {f"{n} bits, QP {qp}": partial(send_hevc, bits=n, qp=qp) for n in bits for qp in qps}
    settings = (
        "each task's feature, min-max quantised, channels tiled into a grey frame, libx265 intra, "
        f"preset {HEVC_PRESET}, tune psnr; min and max counted, parameter sets not"
    )
    return FeatureWay("hybrid (feature as HEVC)", settings, ladder, networks)


def raw_way(networks: Networks) -> FeatureWay:
    return FeatureWay("feature, zstd", "float16, zstd level 19", {"float16": send_raw}, networks)


class LearnedWay:
    """A codec trained by `isthmus train single` or `multi`, float model and rounded latents. Raises DataError."""

    family: Family = "learned"
    together = True

    def __init__(self, name: str, run: Path, bundle: Bundle, place: torch.device) -> None:
        self.name, self._bundle, self._place = name, bundle, place
        self._model, self._recipe, cards = load_run(run)
        self._model.to(place)
        if cards[0].preprocess != bundle.manifest.preprocess:
            raise DataError(f"--peer {name}={run}: it was trained for other pictures than {bundle.path}")
        self._grid = CodecConfig.model_validate(bundle.manifest.codec).grid
        names = {task.kind: task.name for task in bundle.tasks}
        self._tasks = {
            k: names[card.task] for k, card in enumerate(cards) if card.task in names
        }  # the bundle's name for each
        if not self._tasks:
            raise DataError(f"--peer {name}={run}: it has no task of {bundle.path}")
        self.settings = (
            f"prior {self._recipe.prior}, {self._recipe.steps} steps of {self._recipe.batch}; the float model's "
            "bytes of rounded latents, and a container"
        )

    def of(self) -> dict[str, Any]:
        recipe = self._recipe.model_dump(mode="json")
        return {"recipe": recipe, "weights": weights_digest(self._model), "settings": self.settings}

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        x = network_input(pixels, self._bundle.manifest.preprocess).to(self._place)
        ys = self._model.features(x)
        levels = self._recipe.qualities
        for level, quality in enumerate(levels):
            position = torch.full((len(x),), float(level), device=x.device) if len(levels) > 1 else None
            made, coded = self._model.codec(ys, position)
            bits = zip(coded.bits_v.tolist(), coded.bits_z.tolist(), strict=True)
            sizes = np.array([self._written(quality, v / 8, z / 8) for v, z in bits])
            outputs = {name: self._model.heads[k](made[k]) for k, name in self._tasks.items()}
            yield Coded(f"quality {quality}", dict.fromkeys(outputs, sizes), outputs)

    def _written(self, quality: int, v: float, z: float) -> float:
        """Bytes of a picture whose two streams have v and z bytes, with the container that Isthmus would need."""
        empty = (bytes(round(v)), bytes(round(z)))
        whole = Bitstream(self._bundle.fingerprint, quality, *self._grid, *empty).pack()
        return v + z + len(whole) - sum(map(len, empty))


@torch.inference_mode()
def measure_way(way: Way, networks: Networks, views: Mapping[str, Dataset]) -> MeasuredWay:
    """All pictures in a way. views: of the same pictures, by task; without labels the uncompressed network's answer
    counts as the truth."""
    first = next(iter(views.values()))
    metrics: dict[tuple[str, str], Metric] = {}
    sums: dict[tuple[str, str], float] = {}
    for indices in track(list(in_order(len(first), BATCH)), way.name):
        pixels = first.images(indices)
        plain = {} if all(map(labelled, views.values())) else networks.outputs(pixels)
        targets = {
            name: target_of(networks.kinds[name], view, indices, plain.get(name))
            for name, view in views.items()
        }
        for setting, sizes, outputs in way.coded(pixels):
            for name, out in outputs.items():
                target, key = targets[name], (setting, name)
                count(metrics.setdefault(key, metric_of(target.task, target.classes)), out, target.truth)
                sums[key] = sums.get(key, 0.0) + float(sizes[name].sum())
    return MeasuredWay(
        name=way.name,
        family=way.family,
        settings=way.settings,
        together=way.together,
        pictures=len(first),
        points=tuple(
            Point(
                setting=setting,
                bytes={n: total / len(first) for (s, n), total in sums.items() if s == setting},
                tasks={n: metric.figures() for (s, n), metric in metrics.items() if s == setting},
            )
            for setting in dict.fromkeys(setting for setting, _ in metrics)
        ),
    )
