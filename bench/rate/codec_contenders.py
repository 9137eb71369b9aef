"""Contenders with a trained codec: the bundle itself, and other codecs' runs as peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.rate.contenders import Coded
from bench.report.cache import bundle_key
from bench.report.rate_results import Family
from cloud.engine.bundle_model import CloudModel
from shared.bundle import Bundle
from shared.codec.frame import PACKET_BYTES, Packet
from shared.codec.frame_codec import Latent
from shared.encoder import Encoder
from shared.errors import DataError
from train.bundle.evaluate import bitstreams, decoded, main_qualities
from train.codec.split_networks import load_run
from train.data.dataset import network_input
from train.data.feature_cache import weights_digest

STEPS = 11


class IsthmusContender:
    """Sends the bundle's own bitstreams, at qualities from its lowest to its highest. Raises IsthmusError.

    Each quality is a setting of its own, and all are one curve a task: a task that is asked alone is read off it at the
    quality that this task needs. A setting may lack tasks, or send fewer bytes for some.
    """

    name = "Isthmus"
    family: Family = "isthmus"
    together = True
    shared = ()
    missing = ""
    about = "bitstreams as the edge writes them, container included"

    def __init__(self, bundle: Bundle, device: str, quick: bool = False) -> None:
        self._bundle = bundle
        self._qualities = main_qualities(bundle) if quick else ladder(bundle)
        self._encoder = Encoder(bundle, threads=torch.get_num_threads())
        self._model = CloudModel(bundle, device)

    def cache_key(self) -> dict[str, Any]:
        return {**bundle_key(self._bundle), "qualities": self._qualities}

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        u = self._encoder.features(network_input(pixels, self._bundle.manifest.preprocess).numpy())
        for quality in self._qualities:
            packets, latents = bitstreams(self._encoder, u, quality)
            files = [packet.pack() for packet in packets]
            back = decoded(self._model.codec, [Packet.unpack(file) for file in files], latents[0].grid)
            z = np.stack([latent.z for latent in back if latent.z is not None])
            wanted = {task.name: range(len(files)) for task in self._bundle.tasks}
            outputs = self._model.outputs(z, wanted, [quality] * len(files))
            sizes = np.array([len(file) for file in files])
            yield Coded(f"quality {quality}", dict.fromkeys(outputs, sizes), outputs)
            if self._model.base_tasks:
                yield self._base(quality, back)

    def _base(self, quality: int, latents: Sequence[Latent]) -> Coded:
        """Bitstreams that hold v alone, for the tasks that it answers."""
        sizes = np.array([len(self._encoder.frames.encode(one.base)) + PACKET_BYTES for one in latents])
        v = np.stack([latent.v for latent in latents])
        outputs = {task: self._model.base_output(task, v) for task in sorted(self._model.base_tasks)}
        return Coded(f"base of quality {quality}", dict.fromkeys(outputs, sizes), outputs)


def ladder(bundle: Bundle) -> list[int]:
    """The bundle's levels, its default and STEPS qualities from its lowest to its highest, ascending."""
    between = np.linspace(bundle.levels.lowest, bundle.levels.highest, STEPS)
    return sorted({*main_qualities(bundle), *np.rint(between).astype(int).tolist()})


class LearnedContender:
    """Sends what another trained codec makes: its float model's rounded latents. Raises DataError."""

    family: Family = "learned"
    together = True
    shared = ()
    missing = ""

    def __init__(self, name: str, run: Path, bundle: Bundle, device: torch.device) -> None:
        self.name, self._bundle, self._device = name, bundle, device
        self._model, self._recipe, cards = load_run(run)
        self._model.to(device)
        if cards[0].preprocess != bundle.manifest.preprocess:
            raise DataError(f"{name}={run} was trained for other images than {bundle.path}", setting="peer")
        names = {task.kind: task.name for task in bundle.tasks}
        # The bundle's name of each of the run's tasks that it has, too.
        self._tasks = {k: names[card.task] for k, card in enumerate(cards) if card.task in names}
        if not self._tasks:
            raise DataError(f"{name}={run} has no task of {bundle.path}", setting="peer")
        self.about = (
            f"prior {self._recipe.prior}, {self._recipe.steps} steps of {self._recipe.batch}; the float model's "
            "bytes of rounded latents, and a container"
        )

    def cache_key(self) -> dict[str, Any]:
        recipe = self._recipe.model_dump(mode="json")
        return {"recipe": recipe, "weights": weights_digest(self._model), "about": self.about}

    def coded(self, pixels: NDArray[np.uint8]) -> Iterator[Coded]:
        x = network_input(pixels, self._bundle.manifest.preprocess).to(self._device)
        ys = self._model.features(x)
        levels = self._recipe.qualities
        for level, quality in enumerate(levels):
            position = torch.full((len(x),), float(level), device=x.device) if len(levels) > 1 else None
            decoded, coded = self._model.codec(ys, position)
            bits = zip(coded.bits_v.tolist(), coded.bits_z.tolist(), strict=True)
            sizes = np.array([(v + z) / 8 + PACKET_BYTES for v, z in bits])
            outputs = {name: self._model.heads[k](decoded[k]) for k, name in self._tasks.items()}
            yield Coded(f"quality {quality}", dict.fromkeys(outputs, sizes), outputs)
