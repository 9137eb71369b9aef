"""Ways to bring a sequence's tasks to a server: in sessions of Isthmus, and what people would use instead.

Legend: T images of a sequence, H x W pixels; a task's output (B, K), or a map (B, C, H, W).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bench.codecs.feature_codecs import Features
from bench.codecs.hevc import HEVC_PRESET
from bench.codecs.image_codecs import IMAGE_CODECS
from bench.codecs.video_codecs import Dial, send_feature_video, send_video
from bench.networks import TaskNetworks
from bench.report.cache import bundle_key
from bench.video.footage import Pixels, batches
from bench.video.receiver import Receiver
from bench.video.results import Family, Name
from cloud.engine.bundle_model import CloudModel
from edge.frames import FrameEncoder
from shared.bundle import Bundle
from shared.codec.frame import session_key
from shared.codec.frame_codec import FrameCodec, Latent
from shared.encoder import Encoder
from shared.errors import IsthmusError
from train.codec.split_networks import as_map
from train.data.dataset import network_input

BATCH = 16
INTRA_EVERY_S = 60.0
SESSION = bytes(16)
VIDEO_QPS = (12, 17, 22, 27, 32, 37, 42, 47, 51)
FEATURE_QPS = (16, 24, 32, 38, 44, 51)
JPEG_LADDER = (1, 8, 18, 30, 50)
_JPEG = next(codec for codec in IMAGE_CODECS if codec.name == "JPEG")
_X265 = f"libx265 (preset {HEVC_PRESET}, tune zerolatency, one intra frame, constant QP)"

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class CodedSequence:
    """A sequence at one setting. sizes: bytes of each image, T of them. kinds: how many frames of each type were sent.

    outputs: what the server's networks answer, by task, in batches of BATCH images.
    """

    setting: Name
    sizes: list[int]
    outputs: Iterator[Outputs]
    kinds: Mapping[str, int]


class Contender(Protocol):
    """about: what exactly is done, and which bytes count."""

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> Family: ...

    @property
    def about(self) -> str: ...

    def cache_key(self) -> dict[str, Any]:
        """Everything that its results depend on, besides images and networks."""

    def coded(self, pixels: Pixels, fps: float) -> Iterator[CodedSequence]:
        """Sends images (T, H, W, 3) at every setting."""


class IsthmusContender:
    """Sessions at some qualities and holds, and frames I alone. Every frame is confirmed before the next one is coded.

    Raises IsthmusError.
    """

    name = "Isthmus"
    family: Family = "isthmus"
    about = (
        "sessions, every frame's container included, decoded again by another codec; each frame is confirmed before "
        f"the next one, and a frame I is due every {INTRA_EVERY_S:g} s"
    )

    def __init__(
        self, bundle: Bundle, device: str, qualities: tuple[int, ...], holds: tuple[float, ...]
    ) -> None:
        self._bundle = bundle
        self._encoder = Encoder(bundle, threads=torch.get_num_threads())
        self._model = CloudModel(bundle, device)
        self._codec = FrameCodec(self._model.codec)
        self.sticky, self.predicts = self._encoder.sticky, self._encoder.frames.predicts
        self.qualities, self.holds = qualities, holds if self.sticky else (0.0,)

    def cache_key(self) -> dict[str, Any]:
        return {**bundle_key(self._bundle), "qualities": self.qualities, "holds": self.holds}

    def coded(self, pixels: Pixels, fps: float) -> Iterator[CodedSequence]:
        preprocess = self._bundle.manifest.preprocess
        parts = batches(len(pixels), BATCH)
        u = [self._encoder.features(network_input(pixels[part], preprocess).numpy()) for part in parts]
        for quality in self.qualities:
            yield self._session(np.concatenate(u), fps, quality, None)
            for hold in self.holds:
                yield self._session(np.concatenate(u), fps, quality, hold)

    def _session(self, u: Features, fps: float, quality: int, hold: float | None) -> CodedSequence:
        """One session. hold: None for frames I alone. Raises IsthmusError where a latent does not come back."""
        fingerprint = bytes.fromhex(self._bundle.manifest.fingerprint)
        grid = (u.shape[2], u.shape[3])
        key = session_key(fingerprint, SESSION, grid)
        frames = FrameEncoder(self._encoder.frames, key, intra_every_s=INTRA_EVERY_S)
        receiver = Receiver(self._codec, key, grid)
        sizes, received, kinds = [], [], Counter[str]()
        for number, one in enumerate(u):
            extract = partial(self._encoder.latent, one[None], hold=hold or 0.0)
            sent, size = frames.next(extract, quality, number / fps, intra=hold is None), 0
            latent = receiver.receive(sent.number, sent.data)
            if latent is None:  # the check of 16 bits held for two references: NEED_INTRA, as in a session
                size = len(sent.data)
                frames.need_intra(sent.number)
                sent = frames.next(extract, quality, number / fps, intra=True)
                latent = receiver.receive(sent.number, sent.data)
            if latent is None or latent.digest != sent.latent.digest:
                raise IsthmusError(
                    f"frame {sent.number} at quality {quality} did not come back as it was sent"
                )
            frames.confirm(sent.number)
            sizes.append(size + len(sent.data))
            received.append(latent)
            kinds[sent.frame.name] += 1
        return CodedSequence(Name.isthmus(quality, hold), sizes, self._outputs(received), kinds)

    def _outputs(self, latents: list[Latent]) -> Iterator[Outputs]:
        """What the tails answer. A latent that comes again (frames S) is not run again within a batch."""
        tasks = [task.name for task in self._bundle.tasks]
        for part in batches(len(latents), BATCH):
            distinct = {one.digest: one for one in latents[part]}
            places = {digest: place for place, digest in enumerate(distinct)}
            z = np.stack([one.z for one in distinct.values() if one.z is not None])
            wanted = {name: range(len(z)) for name in tasks}
            out = self._model.outputs(z, wanted, [one.quality for one in distinct.values()])
            rows = torch.tensor([places[one.digest] for one in latents[part]])
            yield {name: output[rows.to(output.device)] for name, output in out.items()}


@dataclass
class VideoContender:
    """The picture as low-delay HEVC; the server runs the whole networks on what comes out."""

    networks: TaskNetworks
    ladder: tuple[int, ...] = VIDEO_QPS
    name: str = "x265 of the picture"
    family: Family = "video"
    about: str = f"{_X265}, 4:2:0; parameter sets are agreed on beforehand and not counted"

    def cache_key(self) -> dict[str, Any]:
        return {"about": self.about, "ladder": self.ladder}

    def coded(self, pixels: Pixels, fps: float) -> Iterator[CodedSequence]:
        for qp in self.ladder:
            sent = send_video(list(pixels), Dial("qp", qp), _whole(fps))
            sizes = _without(sent.units, sent.agreed)
            yield CodedSequence(Name.step(f"QP {qp}"), sizes, _run(self.networks, sent.frames), {})


@dataclass
class FeatureVideoContender:
    """Each task's feature as low-delay HEVC, tiled into grey frames; a front that tasks share is sent once."""

    networks: TaskNetworks
    ladder: tuple[int, ...] = FEATURE_QPS
    name: str = "x265 of the feature"
    family: Family = "feature"
    about: str = (
        f"{_X265}, channels tiled into grey frames of 8 bits; parameter sets and each sequence's range are agreed on "
        "beforehand and not counted; tasks that share a front share its feature, other features are sent as well"
    )

    def cache_key(self) -> dict[str, Any]:
        return {"about": self.about, "ladder": self.ladder}

    @torch.inference_mode()
    def coded(self, pixels: Pixels, fps: float) -> Iterator[CodedSequence]:
        networks = self.networks
        parts = list(batches(len(pixels), BATCH))
        features: dict[tuple[str, ...], Features] = {}
        for tasks in networks.same_fronts:
            front = networks.by_task[tasks[0]].front
            y = [as_map(front(networks.input(pixels[part]))).cpu().numpy() for part in parts]
            features[tasks] = np.concatenate(y)
        for qp in self.ladder:
            sent = {
                tasks: send_feature_video(y, Dial("qp", qp), _whole(fps)) for tasks, y in features.items()
            }
            sizes = np.sum([_without(one.units, one.agreed) for one in sent.values()], 0).tolist()
            received = {tasks: one.features for tasks, one in sent.items()}
            yield CodedSequence(Name.step(f"QP {qp}"), sizes, self._outputs(received, len(pixels)), {})

    def _outputs(self, received: dict[tuple[str, ...], Features], count: int) -> Iterator[Outputs]:
        device = next(iter(self.networks.by_task.values())).whole
        where = next(device.parameters()).device
        for part in batches(count, BATCH):
            given = {tasks: torch.from_numpy(y[part]).to(where) for tasks, y in received.items()}
            out = {name: self.networks.by_task[name].head(y) for tasks, y in given.items() for name in tasks}
            yield {name: out[name] for name in self.networks.by_task}


@dataclass
class JpegContender:
    """Each picture as a JPEG file."""

    networks: TaskNetworks
    ladder: tuple[int, ...] = JPEG_LADDER
    name: str = "JPEG a frame"
    family: Family = "image"
    about: str = f"{_JPEG.about}; whole files"

    def cache_key(self) -> dict[str, Any]:
        return {"about": self.about, "ladder": self.ladder}

    def coded(self, pixels: Pixels, fps: float) -> Iterator[CodedSequence]:
        for quality in self.ladder:
            sent = _JPEG.send(pixels, quality)
            name = Name.step(f"quality {quality}")
            yield CodedSequence(name, sent.sizes.tolist(), _run(self.networks, sent.pixels), {})


def _run(networks: TaskNetworks, pixels: Pixels) -> Iterator[Outputs]:
    return (networks.outputs(pixels[part]) for part in batches(len(pixels), BATCH))


def _without(units: list[bytes], agreed: int) -> list[int]:
    """Bytes of each unit, the first without what was agreed on."""
    first, *rest = map(len, units)
    return [first - agreed, *rest]


def _whole(fps: float) -> int:
    """x265's rate, which plays no part at constant QP."""
    return max(1, round(fps))
