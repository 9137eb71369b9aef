"""Measures one folder of the comparison on the test rooms: a network, a codec's run, or a bundle.

Bytes of a run are its float model's, of rounded latents; those of a bundle are the bitstreams that it writes. Results
are cached: a folder is measured again only for other weights, another recipe or other images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from bench.report.cache import bundle_key, cached
from bench.rooms.parts import Level, MeasuredPart
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import DataError
from shared.image import to_input
from shared.types import TaskKind
from train.bundle.evaluate import bitstreams, evaluate_bundle, main_qualities
from train.codec.codec_recipe import lambdas_of
from train.codec.evaluate_codec import evaluate
from train.codec.split_networks import load_run
from train.data.dataset import Dataset, identity, in_order, network_input
from train.data.feature_cache import weights_digest
from train.data.open_dataset import open_datasets
from train.kinds import TRAINING_KINDS
from train.loop.distributed import training_device
from train.loop.scores import by_task
from train.networks.network_folder import load_network


class PartMeasurer:
    """Measures folders on the first `rooms` of a set of test rooms, and caches what it found in OUT/parts."""

    def __init__(self, data: Path, out: Path, rooms: int | None, device: str) -> None:
        self._data, self._out, self._rooms = data, out, rooms
        self._device = training_device(device)

    def datasets(self, kinds: Sequence[TaskKind]) -> list[Dataset]:
        """The same rooms for each kind, with its labels."""
        return open_datasets(self._data, kinds, 0, self._rooms)

    def network(self, folder: Path) -> MeasuredPart:
        """Raises DataError."""
        network, card = load_network(folder)
        (data,) = self.datasets([card.task])

        @torch.no_grad()
        def compute() -> MeasuredPart:
            known = TRAINING_KINDS[card.task]
            metric = known.metric(len(data.names))
            network.to(self._device)
            for indices in track(list(in_order(len(data), 64)), folder.name):
                x = network_input(data.images(indices), card.preprocess).to(self._device)
                metric.add(known.answers(network(x)), data.labels(indices))
            return MeasuredPart(
                what="network",
                images=len(data),
                kinds={card.task: card.task},
                uncompressed={card.task: metric.values()},
            )

        return self._cached(folder.name, {"weights_sha256": weights_digest(network)}, data, compute)

    def codec(self, folder: Path) -> MeasuredPart:
        """Measures a codec's run folder. Raises DataError."""
        if not (folder / "figures.json").is_file():
            raise DataError(f"{folder.name} is not trained to its end")
        model, recipe, cards = load_run(folder)
        datasets = self.datasets([card.task for card in cards])

        def compute() -> MeasuredPart:
            model.to(self._device)
            preprocess = cards[0].preprocess
            scores = evaluate(model, recipe, datasets, preprocess, model, distances=True, bar=folder.name)
            return MeasuredPart(
                what="codec",
                images=len(datasets[0]),
                kinds={name: card.task for name, card in zip(model.names, cards, strict=True)},
                uncompressed=by_task(scores, "uncompressed"),
                levels=tuple(
                    Level(
                        quality=quality,
                        bytes=scores.value("bytes", quality=quality),
                        metrics=by_task(scores, quality),
                    )
                    for quality in recipe.qualities
                ),
                seen=recipe.steps * recipe.batch,
                scales=recipe.scales,
                lambdas=dict(zip(model.names, lambdas_of(recipe), strict=True)),
                default_quality=recipe.default_quality,
            )

        key = {"recipe": recipe.model_dump(mode="json"), "weights_sha256": weights_digest(model)}
        return self._cached(folder.name, key, datasets[0], compute)

    def bundle(self, folder: Path) -> MeasuredPart:
        """Raises IsthmusError."""
        bundle = Bundle.open(folder)
        names = [task.name for task in bundle.tasks]
        kinds = [task.kind for task in bundle.tasks]
        datasets = self.datasets(kinds)

        def compute() -> MeasuredPart:
            evaluation = evaluate_bundle(bundle, dict(zip(names, datasets, strict=True)), {})
            return MeasuredPart(
                what="bundle",
                images=evaluation.pictures,
                kinds=dict(zip(names, kinds, strict=True)),
                uncompressed={},
                levels=tuple(
                    Level(quality=quality, bytes=rate.bytes_mean, metrics=rate.tasks, flips=rate.flips)
                    for quality, rate in evaluation.rates.items()
                ),
                default_quality=bundle.quality(None),
                added=tuple(added.task.name for added in bundle.added),
                streams=(
                    stream_digests(Bundle.open_without_added(folder), datasets[0]),
                    stream_digests(bundle, datasets[0]),
                ),
            )

        return self._cached(folder.name, bundle_key(bundle), datasets[0], compute)

    def _cached(
        self,
        name: str,
        key: dict[str, Any],
        images: Dataset,
        compute: Callable[[], MeasuredPart],
    ) -> MeasuredPart:
        path = self._out / "parts" / f"{name}.json"
        return cached(path, {**key, **identity(images)}, MeasuredPart, compute)


def stream_digests(bundle: Bundle, images: Dataset) -> dict[int, str]:
    """SHA-256 of the bitstreams of all images, one after the other, by quality."""
    encoder = Encoder(bundle, threads=torch.get_num_threads())
    digests = {quality: hashlib.sha256() for quality in main_qualities(bundle)}
    for indices in track(list(in_order(len(images), 32)), "bitstreams"):
        u = encoder.features(to_input(images.images(indices), bundle.manifest.preprocess))
        for quality, digest in digests.items():
            for stream in bitstreams(encoder, u, quality)[0]:
                digest.update(stream.pack())
    return {quality: digest.hexdigest() for quality, digest in digests.items()}
