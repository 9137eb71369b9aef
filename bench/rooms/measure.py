"""What one folder of a comparison does on the test rooms: a network, a codec's run, or a bundle.

Bytes of a run are its float model's, of rounded latents; those of a bundle are the bitstreams that it writes. What was
measured is kept, and measured again only for other weights, another recipe or other pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, ValidationError
from rich.progress import track

from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import DataError
from shared.files import write_atomically
from shared.image import to_input
from shared.types import Frozen, TaskKind
from train.bundle.evaluate import Figures, bitstreams, evaluate_bundle, main_qualities
from train.codec.codec_recipe import lambdas_of
from train.codec.split_networks import load_run
from train.codec.train_codec import evaluate
from train.data.dataset import Dataset, identity, in_order, network_input
from train.data.feature_cache import weights_digest
from train.data.open_dataset import open_datasets
from train.loop.run import training_device
from train.loop.scoring import count, metric_of
from train.networks.network_folder import load_network

Kept = TypeVar("Kept", bound=Frozen)


class Point(Frozen):
    """One level: mean bytes a picture, and the figures of each task; for a run its "distortion", too. flips: of a
    bundle, as `train.bundle.evaluate.Rate` has them."""

    quality: int
    bytes: float
    tasks: Figures
    flips: dict[str, tuple[int, int]] = Field(default_factory=dict)


class Measured(Frozen):
    """What a folder gave over `pictures` pictures.

    kinds: of its tasks, by name. seen: pictures in a codec's training, over all levels. scales: of lambda, one a point;
    lambdas: by task, at scale 1. added: tasks that the bundle was taught later; streams: SHA-256 of its bitstreams by
    quality, without these tasks and with them.
    """

    what: Literal["network", "codec", "bundle"]
    pictures: int
    kinds: dict[str, TaskKind]
    uncompressed: Figures
    points: tuple[Point, ...] = ()
    seen: int = 0
    scales: tuple[float, ...] = ()
    lambdas: dict[str, float] = Field(default_factory=dict)
    default_quality: int | None = None
    added: tuple[str, ...] = ()
    streams: tuple[dict[int, str], dict[int, str]] = ({}, {})

    def point(self, quality: int | None) -> Point:
        return next(point for point in self.points if point.quality == quality)


class Bench:
    """A set of test rooms, of which the first `rooms` count, and the folder that keeps the measurements."""

    def __init__(self, data: Path, out: Path, rooms: int | None, device: str) -> None:
        self._data, self._out, self._rooms = data, out, rooms
        self._place = training_device(device)

    def views(self, kinds: Sequence[TaskKind]) -> list[Any]:
        return open_datasets(self._data, kinds, 0, self._rooms)

    def network(self, folder: Path) -> Measured:
        """Raises DataError."""
        network, card = load_network(folder)
        (view,) = self.views([card.task])

        @torch.no_grad()
        def compute() -> Measured:
            metric = metric_of(card.task, len(view.names))
            network.to(self._place)
            for indices in track(list(in_order(len(view), 64)), folder.name):
                x = network_input(view.images(indices), card.preprocess).to(self._place)
                count(metric, network(x), view.labels(indices))
            return Measured(
                what="network",
                pictures=len(view),
                kinds={card.task: card.task},
                uncompressed={card.task: metric.figures()},
            )

        return self._kept(folder.name, {"weights_sha256": weights_digest(network)}, view, compute)

    def codec(self, folder: Path) -> Measured:
        """A run of `isthmus train single` or `multi`. Raises DataError."""
        if not (folder / "figures.json").is_file():
            raise DataError(f"{folder.name} is not trained to its end")
        model, recipe, cards = load_run(folder)
        views = self.views([card.task for card in cards])

        def compute() -> Measured:
            model.to(self._place)
            preprocess = cards[0].preprocess
            figures = evaluate(model, recipe, views, preprocess, model, distances=True, bar=folder.name)
            return Measured(
                what="codec",
                pictures=len(views[0]),
                kinds={name: card.task for name, card in zip(model.names, cards, strict=True)},
                uncompressed=_by_task(figures, model.names, "uncompressed"),
                points=tuple(
                    Point(
                        quality=quality,
                        bytes=figures[f"bytes@{quality}"],
                        tasks=_by_task(figures, model.names, str(quality)),
                    )
                    for quality in recipe.qualities
                ),
                seen=recipe.steps * recipe.batch,
                scales=recipe.scales,
                lambdas=dict(zip(model.names, lambdas_of(recipe), strict=True)),
                default_quality=recipe.default_quality,
            )

        of = {"recipe": recipe.model_dump(mode="json"), "weights_sha256": weights_digest(model)}
        return self._kept(folder.name, of, views[0], compute)

    def bundle(self, folder: Path) -> Measured:
        """Raises IsthmusError."""
        bundle = Bundle.open(folder)
        names = [task.name for task in bundle.tasks]
        kinds = [task.kind for task in bundle.tasks]
        views = self.views(kinds)

        def compute() -> Measured:
            evaluation = evaluate_bundle(bundle, dict(zip(names, views, strict=True)), {})
            return Measured(
                what="bundle",
                pictures=evaluation.pictures,
                kinds=dict(zip(names, kinds, strict=True)),
                uncompressed={},
                points=tuple(
                    Point(quality=quality, bytes=rate.bytes_mean, tasks=rate.tasks, flips=rate.flips)
                    for quality, rate in evaluation.rates.items()
                ),
                default_quality=bundle.quality(None),
                added=tuple(added.task.name for added in bundle.added),
                streams=(
                    stream_digests(Bundle.open_without_added(folder), views[0]),
                    stream_digests(bundle, views[0]),
                ),
            )

        return self._kept(folder.name, bundle_identity(bundle), views[0], compute)

    def _kept(
        self, name: str, of: dict[str, Any], pictures: Dataset, compute: Callable[[], Measured]
    ) -> Measured:
        path = self._out / "parts" / f"{name}.json"
        return kept(path, {**of, **identity(pictures)}, Measured, compute)


def bundle_identity(bundle: Bundle) -> dict[str, Any]:
    """What the bytes and answers of a bundle depend on."""
    return {
        "fingerprint": bundle.manifest.fingerprint,
        "files": {name: entry.sha256 for name, entry in bundle.manifest.files.items()},
        "added": {added.task.name: added.file.sha256 for added in bundle.added},
    }


def kept(path: Path, of: dict[str, Any], model: type[Kept], compute: Callable[[], Kept]) -> Kept:
    """What `path` keeps of an earlier measurement of the same, or compute(), which is then kept there. of: what it
    depends on, as plain values."""
    of = json.loads(json.dumps(of))
    try:
        saved = json.loads(path.read_text())
        if saved["of"] == of:
            return model.model_validate(saved["measured"])
    except (FileNotFoundError, ValidationError, ValueError, KeyError, TypeError):
        pass
    measured = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"of": of, "measured": measured.model_dump(mode="json")}
    write_atomically(path, json.dumps(record, indent=1).encode())
    return measured


def _by_task(figures: dict[str, float], names: Sequence[str], where: str) -> Figures:
    """Figures of one level, "task/key@where", by task."""
    return {
        name: {
            key.removeprefix(f"{name}/").removesuffix(f"@{where}"): value
            for key, value in figures.items()
            if key.startswith(f"{name}/") and key.endswith(f"@{where}")
        }
        for name in names
    }


def stream_digests(bundle: Bundle, pictures: Dataset) -> dict[int, str]:
    """SHA-256 of all pictures' bitstreams, one after the other, by quality."""
    encoder = Encoder(bundle, threads=torch.get_num_threads())
    digests = {quality: hashlib.sha256() for quality in main_qualities(bundle)}
    for indices in track(list(in_order(len(pictures), 32)), "bitstreams"):
        u = encoder.features(to_input(pictures.images(indices), bundle.manifest.preprocess))
        for quality, digest in digests.items():
            for stream in bitstreams(encoder, u, quality)[0]:
                digest.update(stream.pack())
    return {quality: digest.hexdigest() for quality, digest in digests.items()}
